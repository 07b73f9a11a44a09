//! How much memory this process may count on.

use std::fs;

/// Of the machine's memory, the part that caches take unless the configuration says otherwise.
const CACHE_SHARE: u64 = 4;
/// What they take at least, and where nobody knows how much memory there is.
pub(crate) const CACHE_BYTES_MIN: u64 = 256 << 20;
const MACHINE: &str = "/proc/meminfo";
/// Where Linux tells a container what it may take: control groups of the second version, and of the first.
const CONTAINER: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// What caches take unless the configuration says otherwise, in bytes.
pub(crate) fn cache_bytes() -> u64 {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read(MACHINE).and_then(|text| total_of(&text));
    let container = CONTAINER
        .iter()
        .filter_map(|path| read(path)?.trim().parse().ok());
    let least = container.chain(machine).min();
    least
        .map_or(0, |bytes: u64| bytes / CACHE_SHARE)
        .max(CACHE_BYTES_MIN)
}

/// The machine's memory in bytes, from what `/proc/meminfo` says.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_how_much_memory_it_has() {
        let said = "MemTotal:       24612340 kB\nMemFree:         1000 kB\n";
        assert_eq!(total_of(said), Some(24_612_340 << 10));
        assert_eq!(total_of("MemFree: 1000 kB\n"), None);
        assert!(cache_bytes() >= CACHE_BYTES_MIN);
    }
}
