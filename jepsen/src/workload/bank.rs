//! Accounts of one bank, all in one shard: money moves between two of them in a transaction, and their sum never changes.
//!
//! In the history a transfer is a compare-and-set of each of its two keys, with one interval, and a look at the bank a get
//! of each account; so every account is also judged by itself. That the two halves of a transfer take effect together is
//! judged here, by the sum of every look. A transfer whose comparisons failed is not recorded: nobody knows which did.

use client::{Action, ActionResult, Compare, KeyRange, KeyValue, Transaction};

use super::recording::{Missed, RecordingClient, outcome_of, read, text};
use crate::generate::Chance;
use crate::history::{Action as Recorded, Outcome, Read, Swapped};

/// Accounts of a bank.
const ACCOUNTS: usize = 5;
/// What is in each at first.
const FIRST: u64 = 20;
/// The most that one transfer moves.
const AMOUNT_MAX: u64 = 5;

/// The accounts of the bank `name`.
pub(super) fn accounts(name: &str) -> impl Iterator<Item = String> + use<> {
    let name = name.to_owned();
    (0..ACCOUNTS).map(move |number| format!("{name}{number}"))
}

/// What an account holds: a sum, and after it what makes the value one of its kind.
fn sum_in(value: &str) -> Option<u64> {
    value.split(' ').next()?.parse().ok()
}

/// What is wrong with the accounts that were seen together, if anything is.
fn complaint(name: &str, values: &[Option<String>]) -> Option<String> {
    let there: Vec<&String> = values.iter().flatten().collect();
    let sums: Option<Vec<u64>> = there.iter().map(|value| sum_in(value)).collect();
    let sound = match sums {
        // They are made together.
        Some(sums) if sums.len() == ACCOUNTS => sums.iter().sum::<u64>() == FIRST * ACCOUNTS as u64,
        Some(sums) => sums.is_empty(),
        None => false,
    };
    (!sound).then(|| format!("{name}: the accounts held {values:?}"))
}

/// One change of a bank: what each key must hold, and what it holds then.
struct Change {
    keys: Vec<(String, Option<String>, String)>,
}

impl Change {
    /// Makes the accounts.
    fn opening(name: &str, tag: &str) -> Self {
        let keys = accounts(name).map(|key| (key, None, format!("{FIRST} {tag}")));
        Self { keys: keys.collect() }
    }

    /// Moves something from one account to another; `None`: the first is empty.
    fn transfer(name: &str, values: &[Option<String>], chance: &mut Chance, tag: &str) -> Option<Self> {
        let drawn =
            |chance: &mut Chance, below: usize| usize::try_from(chance.below(below as u64)).unwrap_or(0);
        let from = drawn(chance, ACCOUNTS);
        let to = (from + 1 + drawn(chance, ACCOUNTS - 1)) % ACCOUNTS;
        let value = |at: usize| values.get(at).cloned().flatten();
        let (in_from, in_to) = (sum_in(&value(from)?)?, sum_in(&value(to)?)?);
        let amount = (1 + chance.below(AMOUNT_MAX)).min(in_from);
        if amount == 0 {
            return None;
        }
        let key = |at: usize| format!("{name}{at}");
        let keys = vec![
            (key(from), value(from), format!("{} {tag}", in_from - amount)),
            (key(to), value(to), format!("{} {tag}", in_to + amount)),
        ];
        Some(Self { keys })
    }

    fn transaction(&self) -> Transaction {
        self.keys
            .iter()
            .fold(Transaction::new(), |transaction, (key, expect, value)| {
                let compare = match expect {
                    Some(expect) => Compare::value(key.clone(), expect.clone()),
                    None => Compare::absent(key.clone()),
                };
                transaction
                    .when(compare)
                    .then(Action::put(key.clone(), value.clone()))
            })
    }
}

impl RecordingClient {
    /// Looks at a bank, and then perhaps changes it; `tag` makes the values that it writes its own.
    pub(super) async fn bank(&mut self, name: &str, chance: &mut Chance, tag: &str) -> Result<(), Missed> {
        let values = self.look_at_bank(name).await?;
        if chance.permille(300) {
            return Ok(());
        }
        let change = match values.iter().all(Option::is_none) {
            true => Some(Change::opening(name, tag)),
            false => Change::transfer(name, &values, chance, tag),
        };
        match change {
            Some(change) => self.change_bank(change).await,
            None => Ok(()),
        }
    }

    /// What the accounts hold, as seen in one transaction.
    pub(super) async fn look_at_bank(&mut self, name: &str) -> Result<Vec<Option<String>>, Missed> {
        let call_ns = self.now_ns();
        let look = Transaction::new().then(Action::scan(KeyRange::prefix(name.to_owned()), 0));
        // A look that may or may not have been made has no effect either way.
        let answer = self.client().transact(look).await.ok();
        let results = answer.and_then(|answer| answer.results);
        let Some([ActionResult::Scanned { pairs, .. }]) = results.as_deref() else {
            let first = accounts(name).next().unwrap_or_default();
            self.record(&first, call_ns, Recorded::Get(Outcome::Fail))?;
            return Err(Missed::Failed);
        };
        let return_ns = self.now_ns();
        let found = |key: &str| pairs.iter().find(|pair| *pair.key == *key.as_bytes());
        let mut values = Vec::with_capacity(ACCOUNTS);
        for key in accounts(name) {
            let seen: Read = read(found(&key));
            values.push(found(&key).map(|pair: &KeyValue| text(&pair.value)));
            self.record_until(&key, call_ns, return_ns, Recorded::Get(Outcome::Ok(seen)));
        }
        self.unbalanced.extend(complaint(name, &values));
        Ok(values)
    }

    async fn change_bank(&mut self, change: Change) -> Result<(), Missed> {
        let call_ns = self.now_ns();
        let reply = self.client().transact(change.transaction()).await;
        let outcome = outcome_of(reply, |answer| (answer.succeeded, answer.revision));
        if matches!(outcome, Outcome::Ok((false, _))) {
            return Ok(());
        }
        let return_ns = self.now_ns();
        for (key, expect, value) in change.keys {
            let outcome = match &outcome {
                Outcome::Ok((_, revision)) => Outcome::Ok(Swapped {
                    succeeded: true,
                    prev: None,
                    version: Some(*revision),
                }),
                Outcome::Fail => Outcome::Fail,
                Outcome::Info => Outcome::Info,
            };
            let action = Recorded::Cas {
                expect,
                value,
                outcome,
            };
            self.record_until(&key, call_ns, return_ns, action);
        }
        self.end(&outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(sums: [u64; ACCOUNTS]) -> Vec<Option<String>> {
        sums.map(|sum| Some(format!("{sum} 1.1"))).into()
    }

    #[test]
    fn a_sum_that_changed_and_accounts_that_are_missing_are_complained_of() {
        let complaint = |values: &[Option<String>]| complaint("b", values);
        assert_eq!(complaint(&values([20; ACCOUNTS])), None);
        assert_eq!(complaint(&values([0, 40, 20, 20, 20])), None);
        assert_eq!(complaint(&[const { None }; ACCOUNTS]), None);
        assert!(complaint(&values([19, 20, 20, 20, 20])).is_some());
        let mut torn = values([20; ACCOUNTS]);
        torn[2] = None;
        assert!(complaint(&torn).is_some());
        torn[2] = Some("much".to_owned());
        assert!(complaint(&torn).is_some());
    }

    #[test]
    fn a_transfer_moves_what_is_there() {
        let mut chance = Chance::new(3);
        let mut values = values([20; ACCOUNTS]);
        for _ in 0..500 {
            let Some(change) = Change::transfer("b/", &values, &mut chance, "2.2") else {
                continue;
            };
            assert_eq!(change.keys.len(), 2);
            for (key, expect, value) in change.keys {
                let at: usize = key["b/".len()..].parse().unwrap_or(ACCOUNTS);
                assert_eq!(expect, values[at]);
                values[at] = Some(value);
            }
            assert_eq!(complaint("b", &values), None);
        }
    }
}
