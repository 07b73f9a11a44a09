//! Runs of keys `[start, end)`; an end of `None` is the end of the key space.

/// Whether a key lies in the run.
pub(crate) fn contains(start: &[u8], end: Option<&[u8]>, key: &[u8]) -> bool {
    start <= key && end.is_none_or(|end| key < end)
}

/// Whether an end lies no further than that of another run.
pub(crate) fn ends_within(end: Option<&[u8]>, outer: Option<&[u8]>) -> bool {
    match (end, outer) {
        (_, None) => true,
        (Some(end), Some(outer)) => end <= outer,
        (None, Some(_)) => false,
    }
}

/// An end as the wire has it, where that of the key space is empty.
pub(crate) fn end(end: &[u8]) -> Option<&[u8]> {
    (!end.is_empty()).then_some(end)
}
