//! Sessions: what makes a mutation that is sent twice take effect once.
//!
//! On each shard the client opens a session, by an entry of its own in the shard's log, before its first mutation
//! there. A mutation is identified by (session, sequence); the shard remembers the outcome of each sequence and
//! answers a repetition from memory. With every mutation goes the low-water mark: the shard may forget what is below,
//! and refuses what arrives from below.
//!
//! **One session id for each shard, not for each client.** A split copies the shard's table of sessions to the child,
//! a merge unites two tables. Were one id used on all shards, each counting from 1, the child would take the client's
//! first mutation there for a repetition of the first on the parent, and confirm it without executing it. With an id
//! for each shard, drawn at random, tables can be copied and united at will, and a mutation that was sent to the
//! parent is repeated to the child under its old identity, which the child knows.
//!
//! **A session id is never opened again.** Once a shard has forgotten a session, a mutation of that session that is
//! still under way somewhere is refused for ever. Reopening the id would let it in.
//!
//! **The low-water mark** is the lowest sequence that is in use; a sequence is in use from [`ShardSession::begin`]
//! until its [`Sequence`] is dropped. That happens when it was answered, and also when it was given up with its
//! outcome unknown: it is then abandoned, nobody will repeat it or ask for it, so its outcome may be forgotten. If it
//! is still under way when a later mutation is applied, it has fallen below the mark and is refused: giving up leaves
//! open whether a mutation took effect, never whether it does so twice. If abandoned sequences held the mark back
//! instead, one lost reply would make the shard remember every later outcome for the rest of the session.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::routes::RoutingTable;

/// The sessions of one client.
#[derive(Default)]
pub(crate) struct Sessions {
    shards: Mutex<BTreeMap<u64, Arc<ShardSession>>>,
}

/// The session on one shard: open, or to be opened.
#[derive(Default)]
pub(crate) struct ShardSession {
    /// Held while the session is being opened, so that one operation does it for all. Holds the id that is being
    /// tried: a repetition after a lost reply opens the same one.
    pub(crate) opening: tokio::sync::Mutex<Option<u64>>,
    open: Mutex<Option<Open>>,
}

struct Open {
    session: u64,
    next: u64,
    in_use: BTreeSet<u64>,
}

/// A sequence in use. Dropping it abandons it, or notes that it was answered: the same thing to the shard.
pub(crate) struct Sequence {
    owner: Arc<ShardSession>,
    pub(crate) session: u64,
    pub(crate) number: u64,
}

impl Sessions {
    pub(crate) fn on_shard(&self, shard_id: u64) -> Arc<ShardSession> {
        Arc::clone(self.shards().entry(shard_id).or_default())
    }

    /// Forgets the sessions on shards that are no more. Mutations under way keep their own hold on theirs.
    pub(crate) fn keep_only(&self, table: &RoutingTable) {
        self.shards().retain(|id, _| table.has_shard(*id));
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ShardSession>>> {
        self.shards.lock().expect("no holder of the sessions panics")
    }
}

impl ShardSession {
    /// The next sequence, if the session is open.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Sequence> {
        let mut state = self.state();
        let open = state.as_mut()?;
        let number = open.next;
        open.next += 1;
        open.in_use.insert(number);
        Some(Sequence {
            owner: Arc::clone(self),
            session: open.session,
            number,
        })
    }

    /// Notes that the shard has opened `session`.
    pub(crate) fn opened(&self, session: u64) {
        *self.state() = Some(Open {
            session,
            next: 1,
            in_use: BTreeSet::new(),
        });
    }

    /// Notes that the shard does not know `session`. False: somebody noticed before.
    pub(crate) fn expired(&self, session: u64) -> bool {
        self.state().take_if(|open| open.session == session).is_some()
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().expect("no holder of a session panics")
    }
}

impl Sequence {
    /// The mark to send with this mutation: every lower sequence is out of use. Never above the sequence itself. 0
    /// for a session that is no longer this client's: nothing more may be forgotten on its account.
    pub(crate) fn low_water(&self) -> u64 {
        let state = self.owner.state();
        let open = state.as_ref().filter(|open| open.session == self.session);
        open.and_then(|open| open.in_use.first().copied()).unwrap_or(0)
    }

    /// Whether this sequence belongs to the session of `owner`, and that session is still open.
    pub(crate) fn is_of(&self, owner: &Arc<ShardSession>) -> bool {
        Arc::ptr_eq(&self.owner, owner)
            && owner
                .state()
                .as_ref()
                .is_some_and(|open| open.session == self.session)
    }

    /// Notes that a shard does not know this sequence's session. False: somebody noticed before.
    pub(crate) fn expired(&self) -> bool {
        self.owner.expired(self.session)
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if let Some(open) = self
            .owner
            .state()
            .as_mut()
            .filter(|open| open.session == self.session)
        {
            open.in_use.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(session: u64) -> Arc<ShardSession> {
        let shard = Arc::new(ShardSession::default());
        shard.opened(session);
        shard
    }

    #[test]
    fn the_mark_is_the_lowest_sequence_in_use() {
        let shard = open(7);
        let first = shard.begin().unwrap();
        let second = shard.begin().unwrap();
        let third = shard.begin().unwrap();
        assert_eq!([first.number, second.number, third.number], [1, 2, 3]);
        assert_eq!(third.low_water(), 1);
        drop(second);
        assert_eq!(
            third.low_water(),
            1,
            "an answer out of order does not move the mark past the first"
        );
        drop(first);
        assert_eq!(third.low_water(), 3);
        drop(third);
        let fourth = shard.begin().unwrap();
        assert_eq!((fourth.number, fourth.low_water()), (4, 4));
    }

    #[test]
    fn an_expired_session_is_replaced_and_the_old_one_leaves_no_trace_in_it() {
        let shard = open(7);
        let old = shard.begin().unwrap();
        assert!(old.expired());
        assert!(!old.expired(), "the second to notice changes nothing");
        assert!(shard.begin().is_none());
        shard.opened(8);
        let new = shard.begin().unwrap();
        assert_eq!((new.session, new.number), (8, 1));
        assert_eq!(old.low_water(), 0);
        assert!(!old.is_of(&shard) && new.is_of(&shard));
        drop(old);
        assert_eq!(
            new.low_water(),
            1,
            "dropping the old sequence 1 does not release the new sequence 1"
        );
    }
}
