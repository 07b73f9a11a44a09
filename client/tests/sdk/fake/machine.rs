//! One shard's key-value machine, as small as the protocol allows.
//!
//! It executes every mutation it is given, except that it answers a (session, sequence) that it remembers from memory.
//! Nothing else makes a repetition harmless: each execution adds 1 to the key's `version`, so a test sees from the
//! version how often a mutation took effect.

use std::collections::BTreeMap;

use bytes::Bytes;
use client::proto::{
    Code, Error, Get, GetResult, KeyValue, Mutation, MutationResult, Scan, ScanResult,
    compare_and_set::Expect, mutation, reply,
};

#[derive(Clone, Default)]
pub(crate) struct Machine {
    pub(crate) id: u64,
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    pub(crate) data: BTreeMap<Bytes, KeyValue>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    /// Pairs in one page of a scan, whatever is asked for.
    pub(crate) page_max: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Session {
    low_water: u64,
    outcomes: BTreeMap<u64, (u64, MutationResult)>,
}

pub(crate) type Outcome = Result<(u64, reply::Result), Error>;

pub(crate) fn error(code: Code) -> Error {
    Error {
        code: code.into(),
        message: String::new(),
        home: None,
    }
}

impl Machine {
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        *self.start <= *key && (self.end.is_empty() || *key < *self.end)
    }

    pub(crate) fn get(&self, get: &Get) -> Outcome {
        if !self.covers(&get.key) {
            return Err(error(Code::StaleRoute));
        }
        let pair = self.data.get(&get.key).cloned();
        Ok((self.revision, reply::Result::Get(GetResult { pair })))
    }

    pub(crate) fn scan(&self, scan: &Scan) -> Outcome {
        if !self.covers(&scan.start) {
            return Err(error(Code::StaleRoute));
        }
        let limit = self.page_max.min(scan.limit as usize);
        let inside = |key: &Bytes| scan.end.is_empty() || *key < scan.end;
        let mut found = self
            .data
            .range(scan.start.clone()..)
            .take_while(|(key, _)| inside(key));
        let pairs = found.by_ref().take(limit).map(|(_, pair)| pair.clone()).collect();
        let next = found.next().map(|(key, _)| key.clone()).unwrap_or_default();
        Ok((self.revision, reply::Result::Scan(ScanResult { pairs, next })))
    }

    /// True: this mutation would be answered from memory.
    pub(crate) fn remembers(&self, mutation: &Mutation) -> bool {
        self.sessions
            .get(&mutation.session)
            .is_some_and(|session| session.outcomes.contains_key(&mutation.sequence))
    }

    pub(crate) fn apply(&mut self, mutation: &Mutation) -> Outcome {
        if mutation.r#gen != self.generation {
            return Err(error(Code::StaleRoute));
        }
        let Some(op) = &mutation.op else {
            return Err(error(Code::Invalid));
        };
        if let mutation::Op::OpenSession(_) = op {
            self.sessions.entry(mutation.session).or_default();
            return Ok((self.revision, reply::Result::Mutation(MutationResult::default())));
        }
        let Some(session) = self.sessions.get_mut(&mutation.session) else {
            return Err(error(Code::SessionExpired));
        };
        if mutation.sequence == 0 || mutation.low_water > mutation.sequence {
            return Err(error(Code::Invalid));
        }
        session.low_water = session.low_water.max(mutation.low_water);
        session.outcomes = session.outcomes.split_off(&session.low_water);
        if mutation.sequence < session.low_water {
            return Err(error(Code::SequenceForgotten));
        }
        if let Some((revision, outcome)) = session.outcomes.get(&mutation.sequence) {
            return Ok((*revision, reply::Result::Mutation(outcome.clone())));
        }
        let outcome = self.execute(op)?;
        let session = self.sessions.get_mut(&mutation.session).expect("looked up above");
        let remembered = MutationResult {
            previous: None,
            ..outcome.clone()
        };
        session
            .outcomes
            .insert(mutation.sequence, (self.revision, remembered));
        Ok((self.revision, reply::Result::Mutation(outcome)))
    }

    fn execute(&mut self, op: &mutation::Op) -> Result<MutationResult, Error> {
        let key = match op {
            mutation::Op::Put(put) => &put.key,
            mutation::Op::Delete(delete) => &delete.key,
            mutation::Op::CompareAndSet(swap) => &swap.key,
            _ => return Err(error(Code::Invalid)),
        };
        if !self.covers(key) {
            return Err(error(Code::StaleRoute));
        }
        let current = self.data.get(key).cloned();
        let existed = current.is_some();
        let outcome = |applied, previous| {
            Ok(MutationResult {
                applied,
                existed,
                previous,
            })
        };
        match op {
            mutation::Op::Put(put) => {
                self.set(key, &put.value);
                outcome(true, current.filter(|_| put.return_previous))
            }
            mutation::Op::Delete(delete) => {
                self.revision += 1;
                self.data.remove(key);
                outcome(true, current.filter(|_| delete.return_previous))
            }
            mutation::Op::CompareAndSet(swap) if holds(swap.expect.as_ref(), current.as_ref()) => {
                self.set(key, &swap.new_value);
                outcome(true, None)
            }
            _ => outcome(false, current),
        }
    }

    fn set(&mut self, key: &Bytes, value: &Bytes) {
        self.revision += 1;
        let pair = self.data.entry(key.clone()).or_insert_with(|| KeyValue {
            key: key.clone(),
            create_revision: self.revision,
            ..KeyValue::default()
        });
        pair.value = value.clone();
        pair.mod_revision = self.revision;
        pair.version += 1;
    }

    /// Cuts the shard at `at`; sessions go to both sides, as the protocol demands.
    pub(crate) fn split(&mut self, at: &Bytes, child_id: u64) -> Machine {
        self.generation += 1;
        let child = Machine {
            id: child_id,
            start: at.clone(),
            data: self.data.split_off(at),
            ..self.clone()
        };
        self.end = at.clone();
        child
    }

    /// Takes over the shard to the right, with its sessions.
    pub(crate) fn merge(&mut self, right: Machine) {
        assert_eq!(self.end, right.start, "only neighbours merge");
        self.generation = self.generation.max(right.generation) + 1;
        self.revision = self.revision.max(right.revision) + 1;
        self.end = right.end;
        self.data.extend(right.data);
        for (id, session) in right.sessions {
            let own = self.sessions.entry(id).or_default();
            own.low_water = own.low_water.max(session.low_water);
            own.outcomes.extend(session.outcomes);
        }
    }
}

fn holds(expect: Option<&Expect>, current: Option<&KeyValue>) -> bool {
    match (expect, current) {
        (Some(Expect::Absent(_)), current) => current.is_none(),
        (Some(Expect::Value(value)), Some(current)) => *value == current.value,
        (Some(Expect::Revision(revision)), Some(current)) => *revision == current.mod_revision,
        _ => false,
    }
}
