//! Fail points: named places where a test makes a step fail or ends the process.
//!
//! A [`Failpoints`] registry belongs to one cluster or test and is handed in; nothing is global, so
//! many hosts live in one process and parallel tests do not meet. A component holds its host's
//! handle ([`HostFailpoints`]) and marks each durable step with [`crate::failpoint!`]. Without
//! debug assertions the macro is the constant Ok and the optimiser removes it.
//!
//! Whether an armed point fires is drawn from the registry's seed, so a run repeats by its seed.

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

#[derive(Debug)]
struct Registry {
    chance: SplitMix64,
    armed: BTreeMap<(u64, &'static str), (Action, Firing)>,
    passed: BTreeMap<(u64, &'static str), u64>,
}

impl Failpoints {
    /// A registry in which nothing is armed.
    pub fn new(seed: u64) -> Failpoints {
        let registry = Registry {
            chance: SplitMix64::new(seed),
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
        match self.points.lock().draw(self.host, name) {
            None => Ok(()),
            Some(Action::ReturnError) => Err(io::Error::other(format!("fail point {name}"))),
            Some(Action::AbortProcess) => std::process::abort(),
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
