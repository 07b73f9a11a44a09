//! The path of one operation through the layers, and how long it is on each piece of it.

use serde::{Deserialize, Serialize};

use super::timeline::{Timeline, Timelines};
use crate::workload::Kind;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The client.
    Client,
    /// The shard's home.
    Home,
    /// The follower whose answer comes first.
    Follower,
}

/// A step and the one that it follows, by its place on the path.
pub(super) struct Stop {
    who: Who,
    step: &'static str,
    after: usize,
}

const fn stop(who: Who, step: &'static str, after: usize) -> Stop {
    Stop { who, step, after }
}

/// The first stop of every path begins the operation, the last one ends it.
const PUT: [Stop; 16] = [
    stop(Who::Client, "request queued", 0),
    stop(Who::Client, "frame sent", 0),
    stop(Who::Home, "frame received", 1),
    stop(Who::Home, "proposed", 2),
    stop(Who::Home, "log append queued", 3),
    stop(Who::Home, "log batch begun", 4),
    stop(Who::Home, "log batch synced", 5),
    stop(Who::Home, "peer frame sent", 4),
    stop(Who::Follower, "peer frame received", 7),
    stop(Who::Follower, "log append queued", 8),
    stop(Who::Follower, "log batch begun", 9),
    stop(Who::Follower, "log batch synced", 10),
    stop(Who::Follower, "peer replies sent", 11),
    stop(Who::Home, "peer replies received", 12),
    stop(Who::Home, "entry applied", 4),
    stop(Who::Home, "replies sent", 14),
];

const GET: [Stop; 10] = [
    stop(Who::Client, "request queued", 0),
    stop(Who::Client, "frame sent", 0),
    stop(Who::Home, "frame received", 1),
    stop(Who::Home, "leadership asked", 2),
    stop(Who::Home, "peer frame sent", 3),
    stop(Who::Follower, "peer frame received", 4),
    stop(Who::Follower, "peer replies sent", 5),
    stop(Who::Home, "peer replies received", 6),
    stop(Who::Home, "leadership confirmed", 3),
    stop(Who::Home, "replies sent", 8),
];

const LEASE_GET: [Stop; 6] = [
    stop(Who::Client, "request queued", 0),
    stop(Who::Client, "frame sent", 0),
    stop(Who::Home, "frame received", 1),
    stop(Who::Home, "leadership asked", 2),
    stop(Who::Home, "leadership confirmed", 3),
    stop(Who::Home, "replies sent", 4),
];

const ANSWERED: &str = "replies received";

/// The path of a kind of operation, but for the client's receipt of the answer.
pub(super) fn of(kind: Kind) -> &'static [Stop] {
    match kind {
        Kind::Get => &GET,
        Kind::LeaseGet => &LEASE_GET,
        _ => &PUT,
    }
}

/// A step on the path, in microseconds; of all operations the median, and what nine of ten stay below.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// Whose it is.
    pub who: Who,
    /// What it is called.
    pub step: String,
    /// The step that it follows.
    pub after: String,
    /// Since the operation began.
    pub since_begin_p50_us: f64,
    /// Since the step that it follows.
    pub since_before_p50_us: f64,
    /// The same, for the slowest tenth.
    pub since_before_p90_us: f64,
}

/// How long operations of one client, one after another, were on the way to each stop; and how many were followed.
pub(super) fn passed(path: &'static [Stop], timelines: &Timelines) -> (usize, Vec<Passed>) {
    let answers = timelines.client.taken(ANSWERED);
    let mut journeys: Vec<Vec<u64>> = Vec::new();
    for (begun, _) in timelines.client.taken(path[0].step) {
        let place = answers.partition_point(|(at, _)| at < begun);
        let Some((answered, _)) = answers.get(place) else {
            break;
        };
        let by = timelines.followers.iter();
        let journeyed = by.filter_map(|follower| journey(path, timelines, follower, *begun));
        let fastest = journeyed.min_by_key(|times| farthest_follower(path, times));
        if let Some(mut times) = fastest.filter(|times| times.iter().all(|at| at <= answered)) {
            times.push(*answered);
            journeys.push(times);
        }
    }
    let answer = (Who::Client, ANSWERED, path.len() - 1);
    let stops = path.iter().map(|stop| (stop.who, stop.step, stop.after));
    let passed = stops
        .chain([answer])
        .enumerate()
        .map(|(place, (who, step, after))| {
            let since = |from: usize| {
                journeys
                    .iter()
                    .map(move |times| times[place].saturating_sub(times[from]))
            };
            Passed {
                who,
                step: step.to_owned(),
                after: path[after].step.to_owned(),
                since_begin_p50_us: quantile_us(since(0).collect(), 0.5),
                since_before_p50_us: quantile_us(since(after).collect(), 0.5),
                since_before_p90_us: quantile_us(since(after).collect(), 0.9),
            }
        });
    let passed = passed.collect();
    (journeys.len(), passed)
}

/// When an operation that began at `begun` came to each stop, by one of the followers; `None` if it never did.
fn journey(path: &[Stop], timelines: &Timelines, follower: &Timeline, begun: u64) -> Option<Vec<u64>> {
    let mut times: Vec<u64> = vec![begun];
    for stop in &path[1..] {
        let timeline = match stop.who {
            Who::Client => &timelines.client,
            Who::Home => &timelines.home,
            Who::Follower => follower,
        };
        times.push(timeline.first_from(stop.step, times[stop.after])?);
    }
    Some(times)
}

fn farthest_follower(path: &[Stop], times: &[u64]) -> u64 {
    let of_follower = path
        .iter()
        .zip(times)
        .filter(|(stop, _)| stop.who == Who::Follower);
    of_follower.map(|(_, at)| *at).max().unwrap_or(0)
}

fn quantile_us(mut nanos: Vec<u64>, share: f64) -> f64 {
    nanos.sort_unstable();
    let place = ((nanos.len() as f64 * share) as usize).min(nanos.len().saturating_sub(1));
    nanos.get(place).map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use server::steps::HEADER;

    use super::*;

    fn timeline(lines: &str) -> Timeline {
        Timeline::parse(&format!("{HEADER}\n{lines}"), 0).expect("steps")
    }

    fn lease_gets() -> Timelines {
        Timelines {
            client: timeline(
                "1000,request queued,1\n2000,frame sent,1\n9000,replies received,1\n\
                 11000,request queued,1\n12000,frame sent,1\n29000,replies received,1\n\
                 31000,request queued,1\n",
            ),
            home: timeline(
                "3000,frame received,1\n4000,leadership asked,1\n6000,leadership confirmed,1\n7000,replies sent,1\n\
                 13000,frame received,1\n14000,leadership asked,1\n26000,leadership confirmed,1\n27000,replies sent,1\n",
            ),
            followers: vec![Timeline::default()],
        }
    }

    #[test]
    fn each_step_is_timed_from_the_one_before_it() {
        let (operations, passed) = passed(of(Kind::LeaseGet), &lease_gets());
        assert_eq!(operations, 2);
        let steps: Vec<(&str, f64)> = passed
            .iter()
            .map(|passed| (passed.step.as_str(), passed.since_before_p50_us))
            .collect();
        assert_eq!(steps[1], ("frame sent", 1.0));
        assert_eq!(steps[4], ("leadership confirmed", 12.0));
        assert_eq!(steps[6], ("replies received", 2.0));
        assert_eq!(passed[6].since_begin_p50_us, 18.0);
        assert_eq!(passed[6].after, "replies sent");
    }

    #[test]
    fn the_follower_that_answers_first_is_the_one_that_counts() {
        let home = "3,frame received,1\n4,leadership asked,1\n5,peer frame sent,2\n9,peer replies received,1\n\
                    10,leadership confirmed,1\n11,replies sent,1\n";
        let timelines = Timelines {
            client: timeline("1,request queued,1\n2,frame sent,1\n12,replies received,1\n"),
            home: timeline(home),
            followers: vec![
                timeline("2,peer frame received,1\n7,peer frame received,1\n9,peer replies sent,1\n"),
                timeline("6,peer frame received,1\n8,peer replies sent,1\n"),
            ],
        };
        let (operations, passed) = passed(of(Kind::Get), &timelines);
        assert_eq!(operations, 1);
        let received = passed.iter().find(|passed| passed.step == "peer frame received");
        assert_eq!(received.map(|passed| passed.since_begin_p50_us), Some(0.005));
    }

    #[test]
    fn every_stop_follows_an_earlier_one() {
        for kind in super::super::KINDS {
            for (place, stop) in of(kind).iter().enumerate().skip(1) {
                assert!(stop.after < place, "{kind:?}: {}", stop.step);
            }
        }
    }
}
