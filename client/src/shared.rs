//! What every part of one client refers to: its settings, its counts, and the cluster it belongs to.

use std::sync::{Arc, Mutex, OnceLock};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{config::ClientConfig, proto::Hello, stats::Counters};

/// The parts of a client that never change hands.
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) counters: Counters,
    /// The cluster this client belongs to, once one has answered.
    cluster_id: OnceLock<Arc<str>>,
    random: Mutex<SmallRng>,
}

impl Shared {
    pub(crate) fn new(config: ClientConfig) -> Arc<Self> {
        let cluster_id = OnceLock::new();
        if let Some(named) = &config.cluster_id {
            cluster_id.get_or_init(|| Arc::from(named.as_str()));
        }
        let random = match config.seed {
            Some(seed) => SmallRng::seed_from_u64(seed),
            None => SmallRng::from_rng(&mut rand::rng()),
        };
        Arc::new(Self {
            config,
            counters: Counters::default(),
            cluster_id,
            random: Mutex::new(random),
        })
    }

    /// What to say first on a stream.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            cluster_id: self.cluster_id.get().map(|id| id.to_string()).unwrap_or_default(),
            user_id: self.config.user_id.clone(),
            origin: self.config.origin.clone(),
        }
    }

    /// Whether `answered` is this client's cluster; the first one to answer becomes it. `Err`: the other one's id.
    pub(crate) fn belongs_to(&self, answered: &str) -> Result<(), Arc<str>> {
        let expected = self.cluster_id.get_or_init(|| Arc::from(answered));
        if **expected == *answered {
            Ok(())
        } else {
            Err(Arc::clone(expected))
        }
    }

    /// A random number; never 0, which some fields take for "none".
    pub(crate) fn random(&self) -> u64 {
        self.with_random(|random| random.random_range(1..=u64::MAX))
    }

    /// A random number below `bound`.
    pub(crate) fn random_below(&self, bound: usize) -> usize {
        self.with_random(|random| random.random_range(0..bound))
    }

    /// A fraction in `[0, 1)`.
    pub(crate) fn random_fraction(&self) -> f64 {
        self.with_random(|random| random.random())
    }

    fn with_random<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.random.lock().expect("drawing a number does not panic"))
    }
}
