//! Writing commands into the placement log, wherever its leader is.

use std::time::Duration;

use placement::{Command, HostId, Response};
use raft::ProposeError;

use super::state::Host;
use crate::control::ProposeRequest;

/// How long a command may look for the placement leader.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// One attempt of it, so that a silent host does not eat the whole deadline.
const PROPOSE_ATTEMPT: Duration = Duration::from_secs(3);
const PROPOSE_PAUSE: Duration = Duration::from_millis(100);

/// Why a command did not reach the placement log, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ProposeFailure {
    /// No leader of the placement group was found in time.
    #[error("the placement group has no reachable leader: {0}")]
    NoLeader(String),
    /// It was proposed and may or may not have taken effect.
    #[error("unknown outcome: {0}")]
    Unknown(String),
}

impl Host {
    /// Writes a command into the placement log, wherever its leader is, and returns the answer of `apply`.
    ///
    /// A command may be proposed more than once when an answer is lost on the way: every command is made so that a
    /// second application is refused or changes nothing. A refusal that may be due to the first is told as unknown.
    pub async fn propose(&self, command: &Command) -> Result<Response, ProposeFailure> {
        let encoded = placement::encode(command).map_err(|e| ProposeFailure::NoLeader(e.to_string()))?;
        let started = tokio::time::Instant::now();
        let mut last = "no placement host is known".to_owned();
        // Why an attempt has no answer that may have taken effect.
        let mut open: Option<String> = None;
        while started.elapsed() < PROPOSE_DEADLINE {
            for candidate in self.placement_candidates() {
                match self.propose_at(candidate, encoded.clone().into()).await {
                    Ok(response) => return settled(response, open),
                    Err(ProposeFailure::NoLeader(reason)) => last = reason,
                    Err(ProposeFailure::Unknown(reason)) => open = Some(reason),
                }
            }
            tokio::time::sleep(PROPOSE_PAUSE).await;
        }
        Err(match open {
            Some(reason) => ProposeFailure::Unknown(reason),
            None => ProposeFailure::NoLeader(last),
        })
    }

    /// Proposes through this host's own placement replica. `Ok(None)` when it does not lead.
    pub(crate) async fn propose_here(
        &self,
        command: bytes::Bytes,
    ) -> Result<Option<Response>, ProposeFailure> {
        let Some(local) = self.placement() else {
            return Ok(None);
        };
        match local.group.propose(command).await {
            Ok((_, answer)) => match answer.take::<Response>() {
                Some(response) => Ok(Some(response)),
                None => Err(ProposeFailure::Unknown("the entry had no answer".into())),
            },
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped(_)) => Ok(None),
            Err(ProposeError::Unknown(reason)) => Err(ProposeFailure::Unknown(reason)),
        }
    }

    /// `NoLeader`: certainly not proposed there.
    async fn propose_at(
        &self,
        candidate: Candidate,
        command: bytes::Bytes,
    ) -> Result<Response, ProposeFailure> {
        let not_proposed = ProposeFailure::NoLeader;
        let address = match candidate {
            Candidate::Here => {
                let proposed = self.propose_here(command).await?;
                let not_here = || not_proposed("this host does not lead the placement group".into());
                return proposed.ok_or_else(not_here);
            }
            Candidate::At(address) => address,
        };
        let control = self.channels().control(&address);
        let mut control = control.map_err(|e| not_proposed(e.to_string()))?;
        let cluster_id = self.cluster_id().unwrap_or_default();
        let request = ProposeRequest { cluster_id, command };
        let reply = tokio::time::timeout(PROPOSE_ATTEMPT, control.propose(request)).await;
        let reply = reply.map_err(|_| ProposeFailure::Unknown(format!("{address}: no answer")))?;
        let reply = reply
            .map_err(|status| failure_of(&address, &status))?
            .into_inner();
        if reply.response.is_empty() {
            return Err(not_proposed(format!(
                "{address} does not lead the placement group"
            )));
        }
        serde_json::from_slice(&reply.response)
            .map_err(|e| ProposeFailure::Unknown(format!("{address}: {e}")))
    }

    /// Where the placement leader may be, likeliest first.
    fn placement_candidates(&self) -> Vec<Candidate> {
        let local = self.placement();
        let map = self.map();
        let leader = local.as_ref().and_then(|local| local.group.leader_host());
        let mut hosts: Vec<HostId> = leader.into_iter().collect();
        hosts.extend(
            map.placement
                .values()
                .copied()
                .filter(|host| Some(*host) != leader),
        );
        let mut candidates: Vec<Candidate> = Vec::new();
        for host in hosts {
            if host == self.id() {
                candidates.push(Candidate::Here);
            } else if let Some(known) = map.hosts.get(&host) {
                candidates.push(Candidate::At(known.address.clone()));
            }
        }
        if candidates.is_empty() && local.is_some() {
            candidates.push(Candidate::Here);
        }
        if candidates.is_empty() {
            candidates.extend(self.config().join.iter().cloned().map(Candidate::At));
        }
        candidates
    }
}

enum Candidate {
    Here,
    At(String),
}

/// An answer, in view of an earlier attempt that may have taken effect: then a refusal says nothing of the command.
fn settled(response: Response, open: Option<String>) -> Result<Response, ProposeFailure> {
    match (response, open) {
        (Response::Refused(refusal), Some(lost)) => Err(ProposeFailure::Unknown(format!(
            "{lost}; proposed once more, it was refused: {refusal}"
        ))),
        (response, _) => Ok(response),
    }
}

/// What a status means for the command. One that the connection made up leaves the outcome open, unless there was none.
fn failure_of(address: &str, status: &tonic::Status) -> ProposeFailure {
    let reason = format!("{address}: {}", status.message());
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    let mut causes = causes.peekable();
    let made_up = causes.peek().is_some();
    let connected = !causes.any(|cause| cause.is::<tonic::ConnectError>());
    match status.code() {
        tonic::Code::Unknown => ProposeFailure::Unknown(reason),
        _ if made_up && connected => ProposeFailure::Unknown(reason),
        _ => ProposeFailure::NoLeader(reason),
    }
}

#[cfg(test)]
mod tests {
    use placement::{Accepted, MigrationId, Refusal, ShardId};
    use tonic::{ConnectError, Status};

    use super::*;

    fn refused() -> Response {
        Response::Refused(Refusal::UnknownShard(ShardId(7)))
    }

    #[test]
    fn a_refusal_after_an_open_attempt_tells_nothing() {
        assert_eq!(settled(refused(), None).unwrap(), refused());
        let lost = settled(refused(), Some("h1: no answer".to_owned())).unwrap_err();
        assert!(matches!(lost, ProposeFailure::Unknown(reason) if reason.starts_with("h1: no answer")));
        let accepted = Response::Accepted(Accepted::Proposed(MigrationId(3)));
        assert_eq!(settled(accepted.clone(), Some(String::new())).unwrap(), accepted);
    }

    #[test]
    fn a_connection_that_breaks_leaves_the_outcome_open() {
        let is_open = |status: &Status| matches!(failure_of("h1", status), ProposeFailure::Unknown(_));
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(is_open(&Status::from_error(Box::new(broken))));
        assert!(is_open(&Status::unknown("proposed, and lost")));
        assert!(!is_open(&Status::unavailable("still starting")));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(!is_open(&Status::from_error(Box::new(ConnectError(
            refused.into()
        )))));
    }
}
