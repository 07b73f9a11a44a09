//! Where in its shard a lease lives.
//!
//! A split leaves a lease on both sides, and each side ends it by itself. When the two are merged again, a lease that has
//! ended on one side must not come back there: whoever keeps it would be told that its keys are there, and they have gone.
//! So a lease remembers on which parts of the range it lives, for as long as those are not the whole of it.

use bytes::Bytes;
use prost::Message;

use super::bounds;
use super::fingerprint::Fingerprint;
use super::machine::ShardRange;

/// The parts of a shard's range on which a lease lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Extent {
    /// The whole range, whatever becomes of it.
    #[default]
    Whole,
    /// These, in order; no two touch, and none is empty.
    Parts(Vec<Span>),
}

/// The keys of `[start, end)`; without an end, to the end of the key space. As a checkpoint holds it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Span {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) start: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) end: Option<Bytes>,
}

impl Span {
    fn of(range: &ShardRange) -> Span {
        Span {
            start: range.start.clone(),
            end: range.end.clone(),
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        bounds::contains(&self.start, self.end.as_deref(), key)
    }

    /// The keys of a range from `start` up to `end`, one of them at least; an empty `end`: to the range's last.
    pub(crate) fn in_range(start: &Bytes, end: &Bytes, range: &ShardRange) -> Span {
        // There is no empty key, so these begin alike.
        let is_first = matches!(start[..], [] | [0]);
        let end = (!end.is_empty()).then_some(end);
        Span {
            start: match is_first || *start < range.start {
                true => range.start.clone(),
                false => start.clone(),
            },
            end: end.into_iter().chain(&range.end).min().cloned(),
        }
    }

    fn covers(&self, other: &Span) -> bool {
        self.contains(&other.start) && bounds::ends_within(other.end.as_deref(), self.end.as_deref())
    }

    /// Whether no key lies between this and a span that does not begin before it.
    fn meets(&self, next: &Span) -> bool {
        self.end.as_ref().is_none_or(|end| next.start <= *end)
    }
}

impl Extent {
    /// As a checkpoint has it: without parts, the whole range.
    pub(crate) fn restore(parts: &[Span]) -> Extent {
        match parts.is_empty() {
            true => Extent::Whole,
            false => Extent::Parts(parts.to_vec()),
        }
    }

    pub(crate) fn parts(&self) -> &[Span] {
        match self {
            Extent::Whole => &[],
            Extent::Parts(parts) => parts,
        }
    }

    /// Whether it holds a key of the range.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Extent::Whole => true,
            Extent::Parts(parts) => parts.iter().any(|part| part.contains(key)),
        }
    }

    /// Whether it holds all keys of a span, which lies in the range.
    pub(crate) fn covers(&self, span: &Span) -> bool {
        match self {
            Extent::Whole => true,
            Extent::Parts(parts) => parts.iter().any(|part| part.covers(span)),
        }
    }

    /// Takes out what lies from `key` on; `None`: nothing does. What is left may be nothing, too.
    pub(crate) fn split_off(&mut self, key: &[u8]) -> Option<Extent> {
        let Extent::Parts(parts) = self else {
            return Some(Extent::Whole);
        };
        let at = parts.partition_point(|part| part.start < key);
        let mut upper = parts.split_off(at);
        if let Some(last) = parts.last_mut()
            && last.contains(key)
        {
            let end = last.end.replace(Bytes::copy_from_slice(key));
            let start = Bytes::copy_from_slice(key);
            upper.insert(0, Span { start, end });
        }
        (!upper.is_empty()).then_some(Extent::Parts(upper))
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Extent::Parts(parts) if parts.is_empty())
    }

    /// The same keys, named, of a range that is about to become a part of another.
    pub(crate) fn within(self, range: &ShardRange) -> Extent {
        match self {
            Extent::Whole => Extent::Parts(vec![Span::of(range)]),
            parts @ Extent::Parts(_) => parts,
        }
    }

    /// The keys of both.
    pub(crate) fn with(self, other: Extent) -> Extent {
        let (Extent::Parts(mut parts), Extent::Parts(more)) = (self, other) else {
            return Extent::Whole;
        };
        parts.extend(more);
        parts.sort_by(|a, b| a.start.cmp(&b.start));
        parts.dedup_by(|next, last| {
            let is_one = last.meets(next);
            if is_one && !bounds::ends_within(next.end.as_deref(), last.end.as_deref()) {
                last.end = next.end.take();
            }
            is_one
        });
        Extent::Parts(parts)
    }

    /// The whole, if these parts are one that is it.
    pub(crate) fn simplified(self, range: &ShardRange) -> Extent {
        match self.parts() {
            [part] if *part == Span::of(range) => Extent::Whole,
            _ => self,
        }
    }

    pub(crate) fn fingerprint(&self, print: Fingerprint) -> Fingerprint {
        self.parts().iter().fold(print, |print, part| {
            let end = part.end.as_deref().unwrap_or_default();
            print.bytes(&part.start).bytes(end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> ShardRange {
        ShardRange {
            start: start.into(),
            end: (!end.is_empty()).then(|| end.into()),
            r#gen: 1,
        }
    }

    fn parts(ends: &[(&'static str, &'static str)]) -> Extent {
        let spans = ends.iter().map(|(start, end)| Span::of(&range(start, end)));
        Extent::Parts(spans.collect())
    }

    #[test]
    fn parts_that_touch_become_one_and_the_whole_again() {
        let (lower, upper) = (range("", "m"), range("m", ""));
        let whole = Extent::Whole.within(&lower).with(Extent::Whole.within(&upper));
        assert_eq!(whole, parts(&[("", "")]));
        assert_eq!(whole.simplified(&range("", "")), Extent::Whole);
        let apart = parts(&[("b", "c"), ("d", "m")]).with(parts(&[("n", "")]));
        assert_eq!(apart, parts(&[("b", "c"), ("d", "m"), ("n", "")]));
        assert_eq!(apart.clone().simplified(&range("b", "")), apart);
        assert_eq!(Extent::restore(apart.parts()), apart);
    }

    #[test]
    fn a_cut_parts_the_parts() {
        assert_eq!(Extent::Whole.split_off(b"m"), Some(Extent::Whole));
        let cut = |at: &str| {
            let mut lower = parts(&[("b", "d"), ("f", "")]);
            let upper = lower.split_off(at.as_bytes());
            (lower, upper)
        };
        assert_eq!(cut("a"), (parts(&[]), Some(parts(&[("b", "d"), ("f", "")]))));
        assert_eq!(cut("b"), cut("a"));
        assert_eq!(
            cut("c"),
            (parts(&[("b", "c")]), Some(parts(&[("c", "d"), ("f", "")])))
        );
        assert_eq!(cut("d"), (parts(&[("b", "d")]), Some(parts(&[("f", "")]))));
        assert_eq!(
            cut("g"),
            (parts(&[("b", "d"), ("f", "g")]), Some(parts(&[("g", "")])))
        );
        let mut bounded = parts(&[("b", "d")]);
        assert_eq!(bounded.split_off(b"d"), None);
        assert!(!bounded.is_empty() && cut("a").0.is_empty());
    }

    fn span(start: &'static str, end: &'static str) -> Span {
        Span::of(&range(start, end))
    }

    #[test]
    fn a_gap_is_not_covered_before_it_is_filled() {
        let extent = parts(&[("b", "d"), ("f", "")]);
        assert!(extent.contains(b"b") && !extent.contains(b"d") && !extent.contains(b"a"));
        assert!(extent.covers(&span("b", "d")) && !extent.covers(&span("b", "e")));
        assert!(extent.covers(&span("g", "")) && !extent.covers(&span("c", "")));
        assert!(Extent::Whole.covers(&span("a", "")));
        let with = |start, end| extent.clone().with(parts(&[(start, end)]));
        assert_eq!(with("d", "f"), parts(&[("b", "")]));
        assert_eq!(with("e", "f"), parts(&[("b", "d"), ("e", "")]));
        assert_eq!(with("a", "c"), parts(&[("a", "d"), ("f", "")]));
        assert_eq!(with("a", "z"), parts(&[("a", "")]));
        assert_eq!(with("b", "c"), extent);
    }

    #[test]
    fn a_run_is_cut_where_the_range_ends() {
        let within = |start: &'static str, end: &'static str| {
            Span::in_range(&start.into(), &end.into(), &range("b", "m"))
        };
        assert_eq!(within("", ""), span("b", "m"));
        assert_eq!(within("c", "z"), span("c", "m"));
        assert_eq!(within("a", "d"), span("b", "d"));
        let first = Span::in_range(&"\0".into(), &Bytes::new(), &range("", ""));
        assert_eq!(first, span("", ""), "there is no empty key");
    }
}
