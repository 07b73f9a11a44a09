//! How it stands with a host that takes nothing more, or is to leave: in one line.

use client::proto::{DepartureReply, HostStatus, Remnant};

use super::text::escaped;

/// Remnants named in one message.
const REMNANTS_MAX: usize = 8;

/// A host's state, with what an operator has decided of it where that does not show in the state.
pub(super) fn host_state(host: &HostStatus) -> String {
    let state = escaped(host.state.as_bytes());
    let silent = matches!(host.state.as_str(), "down" | "dead");
    match host.admission.as_str() {
        "" | "open" => state,
        admission if silent => format!("{state}, {}", escaped(admission.as_bytes())),
        _ => state,
    }
}

/// How it stands with a host, in one line.
pub(super) fn counts(departure: &DepartureReply) -> String {
    let Some(host) = &departure.host else {
        return "no such host".to_owned();
    };
    let (id, state) = (host.host_id, host_state(host));
    let homes = departure
        .remnants
        .iter()
        .filter(|remnant| remnant.is_home)
        .count();
    let replicas = departure
        .remnants
        .iter()
        .filter(|remnant| remnant.replica_id != 0)
        .count();
    let holds = format!("{} and {}", number(replicas, "replica"), number(homes, "home"));
    match (host.state.as_str(), host.admission.as_str()) {
        ("decommissioned", _) => format!("host {id} has left the cluster for good"),
        (_, "draining") if departure.remnants.is_empty() => {
            format!("host {id} is drained: it holds nothing, and is a member until it is decommissioned")
        }
        (_, "draining" | "decommissioning") => format!("host {id} is {state}: {holds} left"),
        (_, "cordoned") => format!("host {id} is {state}: it keeps {holds}, and takes no more"),
        _ => format!("host {id} is {state}: it takes replicas and homes"),
    }
}

fn number(of: usize, what: &str) -> String {
    match of {
        1 => format!("1 {what}"),
        more => format!("{more} {what}s"),
    }
}

/// What a host still holds, and what each part waits for, in one line.
pub(super) fn held(departure: &DepartureReply) -> String {
    let name = |remnant: &Remnant| {
        let shard = match remnant.shard_id {
            0 => "the placement group".to_owned(),
            id => format!("shard {id}"),
        };
        format!("{shard}: {}", escaped(remnant.waits_for.as_bytes()))
    };
    let mut named: Vec<String> = departure.remnants.iter().take(REMNANTS_MAX).map(name).collect();
    let besides = departure.remnants.len().saturating_sub(REMNANTS_MAX);
    if besides > 0 {
        named.push(format!("{besides} more"));
    }
    let holds = counts(departure);
    match named.is_empty() {
        true => holds,
        false => format!("{holds}; {}", named.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::verbs::listing::Listing;

    #[test]
    fn a_host_that_leaves_says_how_far_it_is() {
        let remnant = |shard_id, replica_id, is_home| Remnant {
            shard_id,
            replica_id,
            is_home,
            waits_for: "about to be moved".into(),
        };
        let departure = |state: &str, admission: &str, remnants: Vec<Remnant>| DepartureReply {
            host: Some(HostStatus {
                host_id: 4,
                state: state.into(),
                admission: admission.into(),
                ..HostStatus::default()
            }),
            remnants,
        };
        let held_now = || vec![remnant(0, 9, false), remnant(7, 31, true), remnant(8, 0, false)];
        let said = |departure| Listing::Departure(departure).text();
        assert_eq!(
            said(departure("draining", "draining", held_now())),
            "host 4 is draining: 2 replicas and 1 home left"
        );
        assert_eq!(
            said(departure("dead", "decommissioning", held_now())),
            "host 4 is dead, decommissioning: 2 replicas and 1 home left"
        );
        assert_eq!(
            said(departure("cordoned", "cordoned", held_now())),
            "host 4 is cordoned: it keeps 2 replicas and 1 home, and takes no more"
        );
        assert!(said(departure("draining", "draining", vec![])).starts_with("host 4 is drained"));
        assert_eq!(
            said(departure("decommissioned", "decommissioning", vec![])),
            "host 4 has left the cluster for good"
        );
        let many = vec![remnant(7, 31, true); 10];
        let text = held(&departure("draining", "draining", many));
        assert!(
            text.contains("shard 7: about to be moved; ") && text.ends_with("; 2 more"),
            "{text}"
        );
        let document = Listing::Departure(departure("down", "draining", held_now())).document();
        assert_eq!(document["host"]["admission"], "draining");
        assert_eq!(document["remnants"][0]["shard_id"], 0);
        assert_eq!(document["remnants"][2]["replica_id"], Value::Null);
    }
}
