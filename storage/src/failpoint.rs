//! Fail points: named places where a test makes a step fail or ends the process.
//!
//! A [`Failpoints`] registry belongs to one cluster or test and is handed in; nothing is global, so
//! many hosts live in one process and parallel tests do not meet. A component holds its host's
//! handle ([`HostFailpoints`]) and marks each durable step with [`crate::failpoint!`]. Without
//! debug assertions the macro is the constant Ok and the optimiser removes it.
//!
//! Whether an armed point fires is drawn from the registry's seed, so a run repeats by its seed. What
//! else happens then is the test's affair ([`Failpoints::when_fired`]): cutting a simulated disk's
//! power there leaves what a power cut at that step would.
//!
//! The points of this crate; others mark their own. `storage/tests/failpoints.rs` holds the table
//! against the code, arms each, and checks that nothing acknowledged is lost.
//!
//! | point | where |
//! |---|---|
//! | `log.create.before_guard` | a new log has nothing on disk yet |
//! | `log.create.after_guard` | it has its guard |
//! | `log.before_move` | a piece of an old segment is read, to be moved forward with the next batch |
//! | `log.before_commit` | a batch is taken off the queue, nothing of it is written |
//! | `log.before_roll` | the same, and the batch begins a segment |
//! | `log.before_vote` | the same, and a vote is in the batch |
//! | `log.before_destroy` | the same, and a group's end is in the batch |
//! | `log.after_commit` | the batch is synced, nobody was told |
//! | `log.after_roll` | the same, and the batch began a segment |
//! | `log.after_vote` | the same, and a vote is in the batch; the guard does not know it |
//! | `log.after_destroy` | the same, and a group's end is in the batch; the guard does not know it |
//! | `log.before_drop` | everybody was told, and a dead segment is to be removed |
//! | `log.after_drop` | the same, and it is removed |
//! | `log.before_guard` | the guard is to be written |
//! | `log.after_guard` | the guard is synced, nobody was told |
//! | `shard.create.before_write` | a new shard has an empty file under another name |
//! | `shard.create.before_rename` | the file is whole |
//! | `shard.create.after_rename` | the file has its name |
//! | `shard.checkpoint.before_write` | a checkpoint is captured, nothing is written |
//! | `shard.checkpoint.before_commit` | it is written and not committed |
//! | `shard.checkpoint.after_commit` | it is committed and synced, the store does not know |
//! | `shard.import.begin` | an import has an empty file |
//! | `shard.import.frame` | a frame verified and is to be stored |
//! | `shard.import.before_finish` | all frames are stored, the file has no owner |
//! | `shard.import.after_finish` | the file has its owner and is synced |
//! | `shard.install.before_replace` | an imported file was read back |
//! | `shard.install.after_replace` | it has the replica's name, memory holds the old state |
//! | `shard.rewrite.begin` | a file is sparse and is to be copied |
//! | `shard.rewrite.piece` | a piece of it is to be written |
//! | `shard.rewrite.before_finish` | all pieces are written, the copy has no owner |
//! | `shard.rewrite.before_replace` | the copy is synced and was read back |
//! | `shard.rewrite.after_replace` | it has the replica's name, memory reads the old file |
//! | `shard.destroy.before_remove` | what lies beside the file is gone |
//! | `shard.destroy.after_remove` | the file is gone |

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::seed::SplitMix64;

/// Passes the fail point `$name` of a [`HostFailpoints`]: an `io::Result<()>`, Ok unless a test armed it.
#[macro_export]
macro_rules! failpoint {
    ($points:expr, $name:literal) => {
        if cfg!(debug_assertions) {
            $crate::failpoint::HostFailpoints::pass(&$points, $name)
        } else {
            ::std::io::Result::<()>::Ok(())
        }
    };
}

/// What happens when a point fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The step goes on: only what [`Failpoints::when_fired`] was given is done.
    Continue,
    /// The step returns an I/O error.
    ReturnError,
    /// The process ends at once, as under SIGKILL.
    AbortProcess,
}

/// When an armed point fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firing {
    /// Each time.
    Always,
    /// Once, the `n`th time it is passed from now on, counted from one.
    Nth(u64),
    /// With probability 1 in `n` each time, drawn from the registry's seed.
    OneIn(u64),
}

/// The registry of one cluster or test. A cheap handle.
#[derive(Debug, Clone)]
pub struct Failpoints {
    registry: Arc<Mutex<Registry>>,
}

/// One host's view of a registry. A cheap handle.
#[derive(Debug, Clone)]
pub struct HostFailpoints {
    points: Failpoints,
    host: u64,
}

/// What a test wants done when a point fires.
#[derive(Clone)]
struct Hook(Arc<dyn Fn(&'static str) + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug)]
struct Registry {
    chance: SplitMix64,
    hook: Option<Hook>,
    armed: BTreeMap<(u64, &'static str), (Action, Firing)>,
    passed: BTreeMap<(u64, &'static str), u64>,
}

impl Failpoints {
    /// A registry in which nothing is armed.
    pub fn new(seed: u64) -> Failpoints {
        let registry = Registry {
            chance: SplitMix64::new(seed),
            hook: None,
            armed: BTreeMap::new(),
            passed: BTreeMap::new(),
        };
        Failpoints {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// The handle that the components of `host` hold.
    pub fn host(&self, host: u64) -> HostFailpoints {
        HostFailpoints {
            points: self.clone(),
            host,
        }
    }

    /// Arms the point `name` of `host`, replacing what was armed there.
    pub fn arm(&self, host: u64, name: &'static str, action: Action, firing: Firing) {
        self.lock().armed.insert((host, name), (action, firing));
    }

    /// Disarms the point `name` of `host`.
    pub fn disarm(&self, host: u64, name: &'static str) {
        self.lock().armed.remove(&(host, name));
    }

    /// Has `hook` called with a point's name each time one fires, before its action.
    pub fn when_fired(&self, hook: impl Fn(&'static str) + Send + Sync + 'static) {
        self.lock().hook = Some(Hook(Arc::new(hook)));
    }

    /// How often each point was passed, by (host, name). Empty without debug assertions.
    pub fn passed(&self) -> BTreeMap<(u64, &'static str), u64> {
        self.lock().passed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry
            .lock()
            .expect("no code panics while it holds the registry")
    }
}

impl HostFailpoints {
    /// A handle for a component that no test disturbs.
    pub fn disarmed() -> HostFailpoints {
        Failpoints::new(0).host(0)
    }

    /// Passes a point; use [`crate::failpoint!`], which costs nothing in release.
    pub fn pass(&self, name: &'static str) -> io::Result<()> {
        let (drawn, hook) = {
            let mut registry = self.points.lock();
            (registry.draw(self.host, name), registry.hook.clone())
        };
        let Some(action) = drawn else {
            return Ok(());
        };
        if let Some(Hook(hook)) = hook {
            hook(name);
        }
        match action {
            Action::Continue => Ok(()),
            Action::ReturnError => Err(io::Error::other(format!("fail point {name}"))),
            Action::AbortProcess => std::process::abort(),
        }
    }
}

impl Registry {
    fn draw(&mut self, host: u64, name: &'static str) -> Option<Action> {
        *self.passed.entry((host, name)).or_default() += 1;
        let (action, firing) = self.armed.get_mut(&(host, name))?;
        let action = *action;
        let fires = match firing {
            Firing::Always => true,
            Firing::OneIn(n) => self.chance.one_in(*n),
            Firing::Nth(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        };
        if fires && matches!(firing, Firing::Nth(_)) {
            self.armed.remove(&(host, name));
        }
        fires.then_some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_fires_on_its_host_the_nth_time_and_once() {
        let points = Failpoints::new(1);
        points.arm(7, "step", Action::ReturnError, Firing::Nth(2));
        let (armed, other) = (points.host(7), points.host(8));
        let fired: Vec<bool> = (0..4).map(|_| failpoint!(armed, "step").is_err()).collect();
        assert_eq!(fired, [false, true, false, false]);
        assert!(failpoint!(other, "step").is_ok());
        assert_eq!(points.passed()[&(7, "step")], 4);
    }

    #[test]
    fn a_hook_is_called_where_a_point_fires() {
        let points = Failpoints::new(1);
        let fired = Arc::new(Mutex::new(Vec::new()));
        let seen = fired.clone();
        points.when_fired(move |name| seen.lock().unwrap().push(name));
        points.arm(1, "armed", Action::Continue, Firing::Always);
        let host = points.host(1);
        assert!(failpoint!(host, "other").is_ok());
        assert!(failpoint!(host, "armed").is_ok());
        assert_eq!(*fired.lock().unwrap(), ["armed"]);
    }

    #[test]
    fn chance_is_drawn_from_the_seed() {
        let fired = |seed| {
            let points = Failpoints::new(seed);
            points.arm(1, "step", Action::ReturnError, Firing::OneIn(4));
            let host = points.host(1);
            (0..400).filter(|_| failpoint!(host, "step").is_err()).count()
        };
        assert_eq!(fired(3), fired(3));
        assert!((60..140).contains(&fired(3)), "{} of 400", fired(3));
    }
}
