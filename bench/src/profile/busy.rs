//! What operations share while many are under way.

use serde::{Deserialize, Serialize};

use super::timeline::{Timeline, Timelines};
use crate::load::Measured;
use crate::process::Usage;

/// Work of many clients' operations, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// Operations a second.
    pub ops_s: f64,
    /// Operations in one of the client's frames.
    pub per_frame: f64,
    /// Mutations in one log entry, or reads behind one confirmation of leadership.
    pub per_turn: f64,
    /// Operations an answering frame.
    pub per_reply_frame: f64,
    /// Of the home's log: syncs an operation.
    pub home_syncs_per_op: f64,
    /// Of a follower's log: syncs an operation.
    pub follower_syncs_per_op: f64,
    /// Frames that the home sends to its peers, an operation.
    pub peer_frames_per_op: f64,
    /// Messages in them, an operation.
    pub peer_messages_per_op: f64,
    /// Processor time of all hosts, in microseconds an operation.
    pub hosts_cpu_us_per_op: f64,
    /// Processor time of the client, in microseconds an operation.
    pub client_cpu_us_per_op: f64,
    /// Bytes that all hosts sent to their disks, an operation.
    pub written_bytes_per_op: f64,
}

/// How often a step was taken, and by how many in all.
fn counted(timeline: &Timeline, step: &str) -> (f64, f64) {
    let taken = timeline.taken(step);
    let sum: u64 = taken.iter().map(|(_, count)| count).sum();
    (taken.len() as f64, sum as f64)
}

fn each(timeline: &Timeline, steps: &[&str]) -> f64 {
    let (mut times, mut sum) = (0.0, 0.0);
    for step in steps {
        let (taken, counted) = counted(timeline, step);
        times += taken;
        sum += counted;
    }
    if times > 0.0 { sum / times } else { f64::NAN }
}

impl Shared {
    pub(super) fn of(timelines: &Timelines, measured: &Measured, used: &Usage) -> Self {
        // Steps are counted from the start of the load, processor time and bytes in its measured part.
        let (_, received) = counted(&timelines.client, "replies received");
        let received = received.max(1.0);
        let operations = measured.operations.max(1) as f64;
        let syncs = |timeline: &Timeline| counted(timeline, "log batch synced").0 / received;
        let followers = timelines.followers.len().max(1) as f64;
        let (frames, messages) = counted(&timelines.home, "peer frame sent");
        Self {
            ops_s: measured.operations as f64 / measured.seconds,
            per_frame: each(&timelines.client, &["frame sent"]),
            per_turn: each(&timelines.home, &["proposed", "leadership asked"]),
            per_reply_frame: each(&timelines.home, &["replies sent"]),
            home_syncs_per_op: syncs(&timelines.home),
            follower_syncs_per_op: timelines.followers.iter().map(syncs).sum::<f64>() / followers,
            peer_frames_per_op: frames / received,
            peer_messages_per_op: messages / received,
            hosts_cpu_us_per_op: used.cpu_s * 1e6 / operations,
            client_cpu_us_per_op: measured.usage.cpu_s * 1e6 / operations,
            written_bytes_per_op: used.written_bytes as f64 / operations,
        }
    }
}
