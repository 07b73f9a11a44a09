//! Whether a host is ready, and who it is.
//!
//! A host is ready when it can do its part: it belongs to a cluster, its replicas are open and none has given up, its log
//! takes entries, and it is not about to stop. A shard without a quorum does not make a host unready: taking the host out of
//! service would not help.

use super::families::Families;
use crate::host::Host;

/// One thing that readiness rests on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What is wrong, if anything.
    pub(super) problem: Option<String>,
}

/// All that readiness rests on.
pub(super) fn checks(host: &Host) -> Vec<Check> {
    let check = |name, problem| Check { name, problem };
    vec![
        check("running", stopping(host)),
        check("joined", not_joined(host)),
        check("replicas", replicas_closed(host)),
        check(
            "log",
            host.shared.log.check().err().map(|fault| fault.to_string()),
        ),
    ]
}

fn stopping(host: &Host) -> Option<String> {
    host.stop()
        .is_cancelled()
        .then(|| "the host is stopping".to_owned())
}

fn not_joined(host: &Host) -> Option<String> {
    host.cluster_id()
        .is_none()
        .then(|| "the host belongs to no cluster yet".to_owned())
}

fn replicas_closed(host: &Host) -> Option<String> {
    if !host.is_member() {
        return Some("the host's replicas are not open yet".to_owned());
    }
    let groups = host.groups().into_iter();
    let mut failed = groups.filter_map(|group| Some((group.id(), group.failure()?)));
    failed.next().map(|(shard, reason)| format!("{shard}: {reason}"))
}

pub(super) fn collect(host: &Host, into: &mut Families) {
    let ready = checks(host).iter().all(|check| check.problem.is_none());
    into.gauge(
        "godwit_ready",
        "1 when the host can do its part, as /readyz says.",
        &[],
        f64::from(u8::from(ready)),
    );
    into.gauge(
        "godwit_uptime_seconds",
        "How long the host has run.",
        &[],
        host.uptime().as_secs_f64(),
    );
    let config = host.config();
    let id = host.id().0.to_string();
    let labels = [
        ("host", id.as_str()),
        ("zone", config.zone.as_str()),
        ("region", config.region.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    into.gauge(
        "godwit_host_info",
        "Who this is: always 1. Host 0 belongs to no cluster yet.",
        &labels,
        1.0,
    );
    let corrupt = host.scrubs().alarms().len();
    let no_space = usize::from(host.space().own().1.is_some());
    for (kind, raised) in [("no_space", no_space), ("corrupt", corrupt)] {
        into.gauge(
            "godwit_alarms",
            "Alarms that this host has raised, by kind, as `admin alarms` lists them.",
            &[("kind", kind)],
            raised as f64,
        );
    }
}
