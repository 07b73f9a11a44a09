//! The schedule: what happens when, for how long, beside what.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use super::Tally;
use super::fault::{self, Class, Struck, class_of};
use super::field::{Field, shuffled};
use super::migrations;
use crate::generate::Chance;
use crate::process::Cluster;
use crate::record::Recorder;

/// Between two changes of shards: at least, and so much more.
const SHARD_PAUSE_MS: (u64, u64) = (1_000, 2_000);
/// How long a fault lasts.
const FAULT_MS: (u64, u64) = (1_000, 7_000);
/// Between two faults of one lane. The second lane rests longer, so that often one fault is alone.
const QUIET_MS: [(u64, u64); 2] = [(500, 2_500), (3_000, 8_000)];
/// Before a name that found nothing to strike is tried again.
const AGAIN: Duration = Duration::from_millis(300);

/// Injects faults of these names, drawn from the seed, until stopped; then heals the cluster. A name may stand for a
/// class: process, network, shards, controller, disk, clock; then the tally has a line for the class, too.
///
/// # Errors
/// When a name is unknown or [not available](super::available), or the machine refuses a fault. The cluster is healed
/// then, too. That it could not be healed is no error here: [`Cluster::heal`] says it to who asks again.
pub async fn torment(
    cluster: &Cluster,
    recorder: &Recorder,
    names: &[String],
    seed: u64,
    stop: CancellationToken,
) -> anyhow::Result<Tally> {
    let asked = names;
    let names = resolve(cluster, names)?;
    let field = Field::new(cluster, recorder, seed);
    let (moving, others) = names
        .into_iter()
        .partition(|name| class_of(name) == Some(Class::Shards));
    let (moving, others) = (Turns::new(moving), Turns::new(others));
    let watched = CancellationToken::new();
    let injecting = async {
        let ended = tokio::select! {
            ended = inject(&field, &moving, &others) => ended,
            () = stop.cancelled() => Ok(()),
        };
        // What happened happened, healed or not; who asks for recovery heals again, and is told.
        if let Err(reason) = cluster.heal().await {
            tracing::warn!("{reason:#}");
        }
        field.end_all();
        watched.cancel();
        ended
    };
    let (injected, ()) = tokio::join!(injecting, migrations::watch(cluster, recorder, &watched));
    injected?;
    add_classes(field.tally(), asked)
}

fn resolve(cluster: &Cluster, names: &[String]) -> anyhow::Result<Vec<String>> {
    let mut resolved: Vec<String> = Vec::new();
    for name in names {
        for name in fault::expand(name)? {
            if let Some(reason) = fault::available(cluster, &name) {
                bail!("{name} is not available here: {reason}");
            }
            if !resolved.contains(&name) {
                resolved.push(name);
            }
        }
    }
    Ok(resolved)
}

/// Counts each class that was asked for: all of its faults together.
fn add_classes(mut tally: Tally, asked: &[String]) -> anyhow::Result<Tally> {
    for name in asked.iter().filter(|name| class_of(name).is_none()) {
        let members = fault::expand(name)?;
        let times = members.iter().filter_map(|member| tally.0.get(member)).sum();
        tally.0.insert(name.clone(), times);
    }
    Ok(tally)
}

/// Never ends but with an error.
async fn inject(field: &Field<'_>, moving: &Turns, others: &Turns) -> anyhow::Result<()> {
    tokio::try_join!(
        move_shards(field, moving),
        strike_in_turn(field, others, QUIET_MS[0]),
        strike_in_turn(field, others, QUIET_MS[1]),
    )?;
    Ok(())
}

async fn move_shards(field: &Field<'_>, turns: &Turns) -> anyhow::Result<()> {
    loop {
        if let Some(name) = field.chance(|chance| turns.next(chance)) {
            let struck = fault::strike(&name, field).await?;
            // What was asked for and refused began too.
            field.end(&name);
            if struck.is_none() {
                turns.put_off(name);
            }
        }
        field.pause(SHARD_PAUSE_MS).await;
    }
}

async fn strike_in_turn(field: &Field<'_>, turns: &Turns, quiet_ms: (u64, u64)) -> anyhow::Result<()> {
    loop {
        field.pause(quiet_ms).await;
        field.revive_doubted()?;
        let struck = strike_next(field, turns).await?;
        let length = field.length(FAULT_MS);
        fault::hold(&struck, field, length).await?;
        fault::relent(struck, field).await?;
    }
}

/// Tries one name after the other until one strikes.
async fn strike_next(field: &Field<'_>, turns: &Turns) -> anyhow::Result<Struck> {
    loop {
        if let Some(name) = field.chance(|chance| turns.next(chance)) {
            let busy = field.is_open(&name);
            let struck = if busy {
                None
            } else {
                fault::strike(&name, field).await?
            };
            match struck {
                Some(struck) => return Ok(struck),
                None => turns.put_off(name),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Names in a drawn order, each once before any comes again.
#[derive(Debug)]
struct Turns {
    names: Vec<String>,
    left: Mutex<VecDeque<String>>,
}

impl Turns {
    fn new(names: Vec<String>) -> Self {
        Self {
            names,
            left: Mutex::default(),
        }
    }

    fn next(&self, chance: &mut Chance) -> Option<String> {
        let mut left = self.left.lock().expect("no panic with the lock held");
        if left.is_empty() {
            left.extend(shuffled(chance, self.names.clone()));
        }
        left.pop_front()
    }

    /// It found nothing to strike: it comes again when the others of this round had their turn. The last of a round
    /// waits for the next one, or a fault that is exhausted would be tried for ever.
    fn put_off(&self, name: String) {
        let mut left = self.left.lock().expect("no panic with the lock held");
        if !left.is_empty() && !left.contains(&name) {
            left.push_back(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_turn_before_any_has_a_second_one() {
        let names: Vec<String> = (0..5).map(|name| name.to_string()).collect();
        let mut chance = Chance::new(3);
        let turns = Turns::new(names.clone());
        for _ in 0..3 {
            let mut round: Vec<String> = (0..5).filter_map(|_| turns.next(&mut chance)).collect();
            round.sort();
            assert_eq!(round, names);
        }
    }

    #[test]
    fn what_finds_nothing_to_strike_does_not_keep_the_others_waiting() {
        let turns = Turns::new(vec!["never".to_owned(), "always".to_owned()]);
        let mut chance = Chance::new(3);
        let mut struck = 0;
        for _ in 0..40 {
            match turns.next(&mut chance) {
                Some(name) if name == "never" => turns.put_off(name),
                _ => struck += 1,
            }
        }
        assert!(struck >= 10, "{struck}");
    }
}
