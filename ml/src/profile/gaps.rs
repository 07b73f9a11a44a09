//! How long keys rest between two touches, and what that says of the next one.
//!
//! Each gap that is remembered stands for a triangle of time around its length: the next touch is expected with its mass.
//! They are computed with some at a time, and lie side by side: a forecast reads all of them, from all over the memory, and
//! to wait for that is most of what it costs.

use super::counts::Counts;

/// Gaps are spread by a triangle this wide to each side: some minutes, and a part of the gap.
const SPREAD_MINUTES: f32 = 12.0;
const SPREAD_PART: f32 = 0.08;
/// How many gaps are computed with at once.
const LANES: usize = 8;

/// A gap between two touches of a key, and where the second came from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gap {
    pub(super) next: u16,
    pub(super) minutes: u16,
}

/// A stretch of time as one key sees it, in minutes after its last touch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// How long it has rested already.
    pub(super) rested: f32,
    pub(super) from: f32,
    pub(super) to: f32,
}

/// The latest gaps of one class, the oldest first.
#[derive(Clone, Debug)]
pub(super) struct Recent<const N: usize> {
    gaps: [Gap; N],
    len: usize,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self {
            gaps: [Gap::default(); N],
            len: 0,
        }
    }
}

impl<const N: usize> Recent<N> {
    pub(super) fn push(&mut self, gap: Gap) {
        if self.len == N {
            self.gaps.rotate_left(1);
        } else {
            self.len += 1;
        }
        self.gaps[self.len - 1] = gap;
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Gap> {
        self.gaps[..self.len].iter().copied()
    }
}

/// The latest gaps of several origins.
#[derive(Clone, Debug, Default)]
pub(super) struct ByOrigin(Vec<(u16, Gap)>);

impl ByOrigin {
    /// Adds a gap after a touch from `origin`, of which the latest `keep` stay.
    pub(super) fn push(&mut self, origin: u16, gap: Gap, keep: usize) {
        let run = self.run(origin);
        self.0.insert(run.end, (origin, gap));
        if run.len() >= keep {
            self.0.remove(run.start);
        }
    }

    /// Those of one origin, the oldest first.
    pub(super) fn of(&self, origin: u16) -> impl ExactSizeIterator<Item = Gap> {
        self.0[self.run(origin)].iter().map(|(_, gap)| *gap)
    }

    fn run(&self, origin: u16) -> std::ops::Range<usize> {
        let begin = self.0.partition_point(|(other, _)| *other < origin);
        let len = self.0[begin..].partition_point(|(other, _)| *other == origin);
        begin..begin + len
    }
}

/// Adds the chance mass of the next touch by origin in the span to `next`, each gap counting `weight`, and returns the mass of
/// those that are longer than the key has rested.
pub(super) fn expect(
    mut gaps: impl ExactSizeIterator<Item = Gap>,
    span: Span,
    weight: f32,
    next: &mut Counts,
) -> f32 {
    let mut surviving = 0.0;
    while gaps.len() > 0 {
        let mut lanes = [Gap::default(); LANES];
        let taken = gaps.len().min(LANES);
        lanes
            .iter_mut()
            .zip(&mut gaps)
            .for_each(|(lane, gap)| *lane = gap);
        let (left, in_span) = masses(&lanes, span, weight);
        for (at, gap) in lanes[..taken].iter().enumerate() {
            surviving += left[at];
            if in_span[at] > 0.0 {
                next.add(usize::from(gap.next), in_span[at]);
            }
        }
    }
    surviving
}

/// For each gap, the mass beyond what was rested, and that in the span.
fn masses(gaps: &[Gap; LANES], span: Span, weight: f32) -> ([f32; LANES], [f32; LANES]) {
    let (mut left, mut in_span) = ([0.0; LANES], [0.0; LANES]);
    let middles = gaps.map(|gap| f32::from(gap.minutes));
    let from = span.from.max(span.rested);
    for (at, middle) in middles.into_iter().enumerate() {
        let spread = SPREAD_MINUTES + SPREAD_PART * middle;
        left[at] = weight * (1.0 - triangle_below(span.rested, middle, spread));
        let mass = triangle_below(span.to, middle, spread) - triangle_below(from, middle, spread);
        in_span[at] = weight * mass.max(0.0);
    }
    (left, in_span)
}

/// The mass below `x` of a triangle around `middle` that reaches `spread` to each side.
fn triangle_below(x: f32, middle: f32, spread: f32) -> f32 {
    let z = ((x - middle) / spread).clamp(-1.0, 1.0);
    let rising = 0.5 * (1.0 + z) * (1.0 + z);
    let falling = 1.0 - 0.5 * (1.0 - z) * (1.0 - z);
    if z < 0.0 { rising } else { falling }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(minutes: u16) -> Gap {
        Gap { next: 0, minutes }
    }

    fn minutes(gaps: impl Iterator<Item = Gap>) -> Vec<u16> {
        gaps.map(|gap| gap.minutes).collect()
    }

    #[test]
    fn the_triangle_has_mass_one() {
        assert_eq!(triangle_below(-1.0, 0.0, 1.0), 0.0);
        assert_eq!(triangle_below(0.0, 0.0, 1.0), 0.5);
        assert_eq!(triangle_below(1.0, 0.0, 1.0), 1.0);
    }

    #[test]
    fn the_latest_gaps_stay() {
        let mut recent = Recent::<3>::default();
        let mut by_origin = ByOrigin::default();
        for at in 1..=5 {
            recent.push(gap(at));
            by_origin.push(at % 2, gap(at), 2);
            by_origin.push(7, gap(10 * at), 3);
        }
        assert_eq!(minutes(recent.iter()), [3, 4, 5]);
        assert_eq!(minutes(by_origin.of(0)), [2, 4]);
        assert_eq!(minutes(by_origin.of(1)), [3, 5]);
        assert_eq!(minutes(by_origin.of(7)), [30, 40, 50]);
        assert_eq!(minutes(by_origin.of(3)), [0; 0]);
    }

    #[test]
    fn each_gap_counts_once_however_many_there_are() {
        for count in [1, LANES, LANES + 1, 3 * LANES - 1] {
            let gaps = vec![gap(100); count];
            let span = |rested, to| Span {
                rested,
                from: rested,
                to,
            };
            let mut next = Counts::default();
            let surviving = expect(gaps.iter().copied(), span(0.0, 500.0), 1.0, &mut next);
            assert_eq!((surviving, next.at(0)), (count as f32, count as f32));
            let mut next = Counts::default();
            let surviving = expect(gaps.iter().copied(), span(200.0, 500.0), 1.0, &mut next);
            assert_eq!((surviving, next.at(0)), (0.0, 0.0), "they were shorter");
        }
    }
}
