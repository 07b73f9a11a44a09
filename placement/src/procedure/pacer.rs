//! How often an order is repeated.
//!
//! [`super::next_actions`] has no memory and names the same order in every round until its effect is seen. The pacer
//! lets an order through once, then again after a while. It is not in the log and needs not be: a new controller starts
//! with an empty one and repeats orders at once, which is harmless.

use std::collections::BTreeMap;

use super::actions::Action;
use crate::command::{Advance, Command};
use crate::ids::MigrationId;

/// Remembers the last order of each migration and when it was sent.
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    sent: BTreeMap<MigrationId, (Action, u64)>,
}

impl Pacer {
    /// Whether `action` is due at `now_ms`: it differs from the last one, or `repeat_ms` have passed since. A due
    /// action counts as sent. Waiting is always due and never counts.
    pub fn is_due(&mut self, migration: MigrationId, action: &Action, now_ms: u64, repeat_ms: u64) -> bool {
        if matches!(action, Action::Wait { .. }) {
            return true;
        }
        let last = self.sent.get(&migration);
        let again = |sent_ms: u64| now_ms >= sent_ms.saturating_add(repeat_ms);
        let due = last.is_none_or(|(sent, sent_ms)| !is_same_order(sent, action) || again(*sent_ms));
        if due {
            self.sent.insert(migration, (action.clone(), now_ms));
        }
        due
    }

    /// Forgets a migration that has ended.
    pub fn forget(&mut self, migration: MigrationId) {
        self.sent.remove(&migration);
    }
}

/// The stamp of a log entry does not make it another order.
fn is_same_order(sent: &Action, action: &Action) -> bool {
    match (step_of(sent), step_of(action)) {
        (Some(sent), Some(step)) => {
            let named = |step: &Advance| (step.migration, step.expect_state, step.next, step.controller_term);
            // A state that is entered again and again is told by what each step rests on.
            let enters_anew = step.expect_state == step.next;
            named(sent) == named(step) && (!enters_anew || sent.evidence == step.evidence)
        }
        _ => sent == action,
    }
}

fn step_of(action: &Action) -> Option<&Advance> {
    match action {
        Action::Propose(command) => match command.as_ref() {
            Command::Advance(step) => Some(step),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ReplicaId;

    #[test]
    fn an_order_is_repeated_only_after_a_while() {
        let mut pacer = Pacer::default();
        let order = Action::TransferLeader { to: ReplicaId(1) };
        let other = Action::TransferLeader { to: ReplicaId(2) };
        let mut due = |action, now_ms| pacer.is_due(MigrationId(1), action, now_ms, 100);
        assert!(due(&order, 0));
        assert!(!due(&order, 99));
        assert!(due(&order, 100));
        assert!(due(&other, 101));
        assert!(due(&order, 102));
    }
}
