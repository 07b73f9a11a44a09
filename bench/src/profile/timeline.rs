//! Steps as they were written down, by whoever took them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use server::steps::{FILE, HEADER};

/// One process: when it took each step, in nanoseconds since 1970, and how many at once, in order of time.
#[derive(Debug, Default)]
pub(super) struct Timeline(BTreeMap<String, Vec<(u64, u64)>>);

/// The client, the shard's home, and the other hosts.
#[derive(Debug, Default)]
pub(super) struct Timelines {
    pub(super) client: Timeline,
    pub(super) home: Timeline,
    pub(super) followers: Vec<Timeline>,
}

impl Timeline {
    /// Reads a file of steps, from a moment on. A last line that is not whole yet is passed over.
    pub(super) fn parse(text: &str, since_ns: u64) -> anyhow::Result<Self> {
        let (header, lines) = text.split_once('\n').context("no header")?;
        anyhow::ensure!(header == HEADER, "the header is {header:?}, not {HEADER:?}");
        let whole = lines.rfind('\n').map_or("", |end| &lines[..end]);
        let mut steps: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for line in whole.lines() {
            let (at, step, count) = fields(line).with_context(|| format!("not a step: {line:?}"))?;
            if at >= since_ns {
                match steps.get_mut(step) {
                    Some(taken) => taken.push((at, count)),
                    None => drop(steps.insert(step.to_owned(), vec![(at, count)])),
                }
            }
        }
        // Threads write in the order in which they get the file.
        steps.values_mut().for_each(|taken| taken.sort_unstable());
        Ok(Self(steps))
    }

    fn read(folder: &Path, since_ns: u64) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text, since_ns).with_context(|| path.display().to_string())
    }

    /// When a step was taken, and how many took it together.
    pub(super) fn taken(&self, step: &str) -> &[(u64, u64)] {
        self.0.get(step).map_or(&[], Vec::as_slice)
    }

    /// When a step was taken first, from a moment on.
    pub(super) fn first_from(&self, step: &str, from_ns: u64) -> Option<u64> {
        let taken = self.taken(step);
        let place = taken.partition_point(|(at, _)| *at < from_ns);
        taken.get(place).map(|(at, _)| *at)
    }
}

fn fields(line: &str) -> Option<(u64, &str, u64)> {
    let (at, rest) = line.split_once(',')?;
    let (step, count) = rest.rsplit_once(',')?;
    Some((at.parse().ok()?, step, count.parse().ok()?))
}

impl Timelines {
    pub(super) fn read(
        client: &Path,
        home: &Path,
        followers: impl Iterator<Item = PathBuf>,
        since_ns: u64,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: Timeline::read(client, since_ns)?,
            home: Timeline::read(home, since_ns)?,
            followers: followers
                .map(|folder| Timeline::read(&folder, since_ns))
                .collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_a_moment_on() {
        let text = format!("{HEADER}\n9,a,1\n30,a,2\n20,a,1\n21,b c,7\n40,a");
        let timeline = Timeline::parse(&text, 10).expect("steps");
        assert_eq!(timeline.taken("a"), [(20, 1), (30, 2)]);
        assert_eq!(timeline.taken("b c"), [(21, 7)]);
        assert!(timeline.taken("c").is_empty());
        assert_eq!(
            (timeline.first_from("a", 21), timeline.first_from("a", 31)),
            (Some(30), None)
        );
        assert!(Timeline::parse("something\n", 0).is_err());
        assert!(Timeline::parse(&format!("{HEADER}\n9,a\n"), 0).is_err());
    }
}
