//! A 64-bit fingerprint for comparing replicas: FNV-1a with a finalizer, defined here so that every
//! build of the program computes the same. It finds divergence, it does not resist an attacker.

/// Collects the parts of one thing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes and their length, so that no two splits of the same bytes are alike.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Fingerprint {
        bytes.iter().fold(self.number(bytes.len() as u64), |state, byte| {
            state.step(u64::from(*byte))
        })
    }

    /// Adds a number.
    pub(crate) fn number(self, number: u64) -> Fingerprint {
        self.step(mix(number))
    }

    /// The fingerprint of what was added.
    pub(crate) fn finish(self) -> u64 {
        mix(self.0)
    }

    fn step(self, part: u64) -> Fingerprint {
        Fingerprint((self.0 ^ part).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

/// The finalizer of splitmix64: every input bit reaches every output bit, so that fingerprints can
/// be summed without regard to order.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let print = |a: &[u8], b: &[u8], n| Fingerprint::new().bytes(a).bytes(b).number(n).finish();
        let all = [
            print(b"ab", b"c", 1),
            print(b"a", b"bc", 1),
            print(b"", b"abc", 1),
            print(b"ab", b"c", 2),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
