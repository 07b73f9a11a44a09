//! `godwit admin cordon`, `uncordon`, `drain` and `decommission`: tells the cluster what a host takes on, and follows a
//! host that leaves until it has.
//!
//! The decision is an entry of the placement log; nothing here has to go on for it to be carried out. Whoever waits
//! only looks, so a host that does not answer for a while, which may be the one that leaves, is asked again.

use std::{io::Write, time::Duration};

use client::{
    AdminError,
    proto::{ChangeAdmissionRequest, DepartureReply, DepartureRequest, HostStatus},
};
use tokio::time::{Instant, sleep};

use super::{
    VerbError,
    admin::Operator,
    departure::{counts, held},
    listing::Listing,
};
use crate::cli::{HostArgs, LeaveArgs};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long a replica of the placement group may take to hear of what was just written.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// What a verb asks for, and how far it follows.
pub(super) struct Wish {
    host: u64,
    admission: &'static str,
    reason: String,
    until: Until,
}

/// When the verb has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The decision is known.
    Known,
    /// The host holds nothing.
    Empty { within: Duration },
    /// The host has left the cluster.
    Gone { within: Duration },
}

impl Wish {
    pub(super) fn cordon(args: HostArgs) -> Self {
        Self::known(args, "cordoned")
    }

    pub(super) fn uncordon(args: HostArgs) -> Self {
        Self::known(args, "open")
    }

    pub(super) fn drain(args: LeaveArgs) -> Self {
        let within = args.limit();
        Self {
            until: within.map_or(Until::Known, |within| Until::Empty { within }),
            ..Self::known(args.host, "draining")
        }
    }

    pub(super) fn decommission(args: LeaveArgs) -> Self {
        let within = args.limit();
        Self {
            until: within.map_or(Until::Known, |within| Until::Gone { within }),
            ..Self::known(args.host, "decommissioning")
        }
    }

    fn known(args: HostArgs, admission: &'static str) -> Self {
        Self {
            host: args.host,
            admission,
            reason: args.reason,
            until: Until::Known,
        }
    }
}

impl LeaveArgs {
    /// How long to wait; `None`: not at all.
    fn limit(&self) -> Option<Duration> {
        self.wait.then_some(Duration::from_secs(self.timeout))
    }
}

impl Until {
    fn within(self) -> Duration {
        match self {
            Until::Known => HEARD_WITHIN,
            Until::Empty { within } | Until::Gone { within } => within,
        }
    }

    fn is_reached(self, wanted: &str, host: &HostStatus, departure: &DepartureReply) -> bool {
        let gone = host.state == "decommissioned";
        match self {
            Until::Known => gone || host.admission == wanted,
            Until::Empty { .. } => gone || host.admission == wanted && departure.remnants.is_empty(),
            Until::Gone { .. } => gone,
        }
    }
}

impl Operator<'_> {
    /// Has the wish logged, and follows the host as far as the wish goes. What changes meanwhile is told to `progress`.
    pub(super) async fn change_admission(
        &self,
        wish: Wish,
        progress: &mut dyn Write,
    ) -> Result<Listing, VerbError> {
        let request = ChangeAdmissionRequest {
            host_id: wish.host,
            admission: wish.admission.to_owned(),
            reason: wish.reason.clone(),
        };
        let reply = self.calls.change_admission(request).await;
        let refused = reply.map_err(self.changing_failed())?.refused;
        match refused.is_empty() {
            true => self.follow(&wish, progress).await,
            false => Err(VerbError::Refused { message: refused }),
        }
    }

    async fn follow(&self, wish: &Wish, progress: &mut dyn Write) -> Result<Listing, VerbError> {
        let (started, mut followed) = (Instant::now(), Followed::default());
        loop {
            match self
                .calls
                .departure(DepartureRequest { host_id: wish.host })
                .await
            {
                Ok(reply) => {
                    if followed.look(wish, &reply)? {
                        return Ok(Listing::Departure(reply));
                    }
                    if wish.until != Until::Known
                        && let Some(line) = followed.news(&reply)
                    {
                        writeln!(progress, "{line}")?;
                        progress.flush()?;
                    }
                    followed.last = Some(reply);
                    followed.silence.clear();
                }
                Err(AdminError::Unreachable { cause }) => followed.silence = cause,
                Err(error) => return Err(self.changing_failed()(error)),
            }
            if started.elapsed() >= wish.until.within() {
                return followed.give_up(wish);
            }
            sleep(LOOK_PAUSE).await;
        }
    }
}

/// What was seen so far of a host that leaves.
#[derive(Default)]
struct Followed {
    /// Whether a look has shown the wish.
    known: bool,
    last: Option<DepartureReply>,
    told: String,
    /// Why the last look had no answer; empty if it had.
    silence: String,
}

impl Followed {
    /// Whether the wish is fulfilled.
    fn look(&mut self, wish: &Wish, reply: &DepartureReply) -> Result<bool, VerbError> {
        let host = reply.host.as_ref().ok_or(VerbError::NoHost(wish.host))?;
        let reached = wish.until.is_reached(wish.admission, host, reply);
        let as_wished = host.admission == wish.admission;
        // A replica that has not heard of it yet tells what was.
        if !reached && self.known && !as_wished {
            return Err(VerbError::Overtaken {
                host: wish.host,
                admission: host.admission.clone(),
            });
        }
        self.known |= as_wished;
        Ok(reached)
    }

    /// A line, if there is something new to say.
    fn news(&mut self, reply: &DepartureReply) -> Option<String> {
        let line = counts(reply);
        (line != self.told).then(|| {
            self.told.clone_from(&line);
            line
        })
    }

    fn give_up(self, wish: &Wish) -> Result<Listing, VerbError> {
        match (wish.until, self.last) {
            (Until::Known, Some(reply)) => Ok(Listing::Departure(reply)),
            (until, last) => {
                let silence = (!self.silence.is_empty()).then(|| format!("nobody answers: {}", self.silence));
                let told: Vec<String> = last.as_ref().map(held).into_iter().chain(silence).collect();
                Err(VerbError::NotEmptied {
                    host: wish.host,
                    seconds: until.within().as_secs(),
                    held: told.join("; "),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use client::proto::Remnant;

    use super::*;

    fn wish(until: Until) -> Wish {
        Wish {
            host: 4,
            admission: "draining",
            reason: String::new(),
            until,
        }
    }

    fn reply(admission: &str, state: &str, remnants: usize) -> DepartureReply {
        let remnant = Remnant {
            shard_id: 7,
            replica_id: 31,
            is_home: true,
            waits_for: "no other host is up and can take it".into(),
        };
        DepartureReply {
            host: Some(HostStatus {
                host_id: 4,
                admission: admission.into(),
                state: state.into(),
                ..HostStatus::default()
            }),
            remnants: vec![remnant; remnants],
        }
    }

    #[test]
    fn a_drain_is_over_when_nothing_is_left_and_a_decommissioning_when_the_host_is_gone() {
        let within = Duration::from_secs(1);
        let reached = |until: Until, reply: DepartureReply| {
            let host = reply.host.clone().unwrap();
            until.is_reached("draining", &host, &reply)
        };
        let empty = Until::Empty { within };
        assert!(!reached(empty, reply("draining", "draining", 1)));
        assert!(reached(empty, reply("draining", "draining", 0)));
        assert!(
            !reached(empty, reply("open", "up", 0)),
            "a replica that has not heard of it shows nothing"
        );
        let gone = Until::Gone { within };
        assert!(!reached(gone, reply("draining", "draining", 0)));
        assert!(reached(gone, reply("draining", "decommissioned", 0)));
        assert!(reached(Until::Known, reply("draining", "down", 3)));
    }

    #[test]
    fn a_wish_that_another_operator_took_back_is_not_waited_for() {
        let wish = wish(Until::Empty {
            within: Duration::from_secs(1),
        });
        let mut followed = Followed::default();
        assert!(!followed.look(&wish, &reply("open", "up", 2)).unwrap());
        assert!(!followed.look(&wish, &reply("draining", "draining", 2)).unwrap());
        let error = followed.look(&wish, &reply("open", "up", 2)).unwrap_err();
        assert!(
            error.to_string().contains("host 4 is open"),
            "somebody uncordoned it: {error}"
        );
    }

    #[test]
    fn what_is_stuck_is_named_with_what_it_waits_for() {
        let followed = Followed {
            last: Some(reply("draining", "draining", 1)),
            ..Followed::default()
        };
        let within = Duration::from_secs(9);
        let error = followed.give_up(&wish(Until::Empty { within })).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("after 9 s") && text.contains("shard 7"), "{text}");
        assert!(text.contains("no other host is up"), "{text}");
        let silent = Followed {
            silence: "a:1: no answer".into(),
            ..Followed::default()
        };
        let error = silent.give_up(&wish(Until::Known)).unwrap_err();
        assert!(error.to_string().contains("a:1: no answer"), "{error}");
        // It may have left, and whoever could say so is not among those that were asked.
        let deserted = Followed {
            last: Some(reply("draining", "draining", 1)),
            silence: "a:1: refused".into(),
            ..Followed::default()
        };
        let text = deserted
            .give_up(&wish(Until::Gone { within }))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("shard 7") && text.contains("nobody answers: a:1"),
            "{text}"
        );
    }

    #[test]
    fn progress_is_told_once() {
        let mut followed = Followed::default();
        assert!(followed.news(&reply("draining", "draining", 2)).is_some());
        assert!(followed.news(&reply("draining", "draining", 2)).is_none());
        assert!(followed.news(&reply("draining", "draining", 1)).is_some());
    }
}
