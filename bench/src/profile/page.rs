//! The profile as a page of Markdown.

use std::fmt::Write;

use super::path::Who;
use super::{BUSY_CLIENTS, KindProfile, Profile};

/// The page.
pub fn render(profile: &Profile) -> String {
    let mut page = format!(
        "# Where the time goes\n\n\
         Written by `cargo run --release -p bench -- profile --page bench/PROFILE.md` ({}).\n\
         Three hosts and {} on one machine, 20,000 keys, values of 256 bytes, one connection. Hosts and client\n\
         write each step down, which costs a few microseconds a step: the figures say where time goes, not how fast it\n\
         is; that is what `compare` is for.\n",
        profile.version,
        match profile.shards {
            1 => "one shard".to_owned(),
            more => format!("{more} shards (home: the first one's, which is that of some others too)"),
        }
    );
    for kind in &profile.kinds {
        let _ = write!(page, "\n{}", section(kind));
    }
    page
}

fn section(profile: &KindProfile) -> String {
    let mut section = format!("## {:?}\n", profile.kind);
    if !profile.alone.is_empty() {
        section += &path_of_one(profile);
    }
    let busy = &profile.busy;
    let _ = write!(
        section,
        "\n{BUSY_CLIENTS} clients: {:.0} operations a second.\n\n| | |\n|---|---:|\n",
        busy.ops_s
    );
    let rows = [
        ("operations in one of the client's frames", busy.per_frame),
        (
            "operations in one turn (a log entry, or a confirmation)",
            busy.per_turn,
        ),
        ("operations in one answering frame", busy.per_reply_frame),
        ("syncs of the home's log, an operation", busy.home_syncs_per_op),
        (
            "syncs of a follower's log, an operation",
            busy.follower_syncs_per_op,
        ),
        (
            "frames from the home to its peers, an operation",
            busy.peer_frames_per_op,
        ),
        ("messages in them, an operation", busy.peer_messages_per_op),
        (
            "processor time of the hosts, us an operation",
            busy.hosts_cpu_us_per_op,
        ),
        (
            "processor time of the client, us an operation",
            busy.client_cpu_us_per_op,
        ),
        (
            "bytes to the disks of all hosts, an operation",
            busy.written_bytes_per_op,
        ),
    ];
    for (what, figure) in rows {
        let digits = if figure >= 10.0 { 0 } else { 3 };
        let _ = writeln!(section, "| {what} | {figure:.digits$} |");
    }
    section
}

fn path_of_one(profile: &KindProfile) -> String {
    let mut table = format!(
        "\nOne client, one operation after another; {} operations. Microseconds: the median since the call, and since the\n\
         step named as the one before, the median and what nine of ten stay below.\n\n\
         | who | step | after | since the call | since the step before | nine of ten |\n\
         |---|---|---|---:|---:|---:|\n",
        profile.operations
    );
    for passed in &profile.alone {
        let who = match passed.who {
            Who::Client => "client",
            Who::Home => "home",
            Who::Follower => "faster follower",
        };
        let _ = writeln!(
            table,
            "| {who} | {} | {} | {:.0} | {:.0} | {:.0} |",
            passed.step,
            passed.after,
            passed.since_begin_p50_us,
            passed.since_before_p50_us,
            passed.since_before_p90_us
        );
    }
    table
}
