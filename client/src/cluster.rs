//! The cluster as one client sees it, behind all of that client's handles; and how the shard map is fetched.
//!
//! The map is fetched from any host that answers, by one operation on behalf of all that wait for it.

use std::{sync::Arc, time::Duration};

use crate::{
    config::ClientConfig,
    error::ConnectError,
    pool::Pool,
    proto::{ShardMapReply, ShardMapRequest, kv_client::KvClient},
    retry::Backoff,
    routes::{MapError, Routes},
    seam::within,
    session::Sessions,
    setback::{Kind, Refusal, Setback},
    shared::Shared,
    transport::describe,
    watch::WatchStreams,
};

/// Streams, shard map and sessions of one client.
pub(crate) struct Cluster {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) routes: Routes,
    pub(crate) sessions: Sessions,
    pub(crate) watches: WatchStreams,
    /// Held by the operation that fetches the map.
    refreshing: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// Fetches the first map; tries again until the deadline, unless trying again cannot help.
    pub(crate) async fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        if config.endpoints.is_empty() {
            return Err(ConnectError::Invalid {
                message: "no endpoints".into(),
            });
        }
        let shared = Shared::new(config);
        let cluster = Self {
            pool: Pool::new(Arc::clone(&shared)),
            routes: Routes::new(&shared.config.origin),
            sessions: Sessions::default(),
            watches: WatchStreams::default(),
            refreshing: tokio::sync::Mutex::default(),
            shared,
        };
        cluster.first_map().await?;
        Ok(cluster)
    }

    async fn first_map(&self) -> Result<(), ConnectError> {
        let clock = &self.shared.config.clock;
        let deadline = clock.now() + self.shared.config.deadline;
        let mut backoff = Backoff::new(&self.shared);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let left = deadline.saturating_sub(clock.now());
            let timed_out = |_| Setback::host_failed("no answer before the deadline");
            let fetched = within(clock, left, self.fetch_from_any())
                .await
                .map_err(timed_out);
            let Setback { kind, cause } = match fetched.flatten() {
                Ok(()) => return Ok(()),
                Err(setback) => setback,
            };
            match kind {
                Kind::Refused(Refusal::WrongCluster) => {
                    return Err(ConnectError::WrongCluster { message: cause });
                }
                Kind::Refused(Refusal::Incompatible) => {
                    return Err(ConnectError::Incompatible { message: cause });
                }
                Kind::Refused(_) => return Err(ConnectError::Invalid { message: cause }),
                _ => {}
            }
            let pause = backoff.next();
            if clock.now() + pause >= deadline {
                return Err(ConnectError::Unreachable { attempts, cause });
            }
            clock.sleep(pause).await;
        }
    }

    /// Fetches the map, unless somebody has since `seen`, the number of answers the caller's route rests on.
    pub(crate) async fn refresh(&self, seen: u64) -> Result<(), Setback> {
        let _one_at_a_time = self.refreshing.lock().await;
        if self.routes.table().fetched > seen {
            return Ok(());
        }
        self.shared.config.clock.sleep(self.jitter()).await;
        self.fetch_from_any().await
    }

    fn jitter(&self) -> Duration {
        self.shared
            .config
            .retry
            .refresh_jitter
            .mul_f64(self.shared.random_fraction())
    }

    /// Asks one address after another, from a random one on, so that clients spread over the hosts.
    async fn fetch_from_any(&self) -> Result<(), Setback> {
        let addresses = self.addresses();
        let first = self.shared.random_below(addresses.len());
        let mut last = None;
        for address in addresses.iter().cycle().skip(first).take(addresses.len()) {
            match self.fetch_from(address).await {
                Ok(()) => return Ok(()),
                Err(setback) => last = Some(setback),
            }
        }
        Err(last.unwrap_or_else(|| Setback::host_failed("no host is known")))
    }

    /// The hosts of the map, then the configured endpoints.
    fn addresses(&self) -> Vec<Arc<str>> {
        let mut addresses = self.routes.table().hosts.clone();
        for endpoint in &self.shared.config.endpoints {
            if !addresses.iter().any(|known| **known == **endpoint) {
                addresses.push(Arc::from(endpoint.as_str()));
            }
        }
        addresses
    }

    async fn fetch_from(&self, address: &str) -> Result<(), Setback> {
        let reply = self.ask_for_map(address).await?;
        if reply.cluster_id.is_empty() {
            // A host that has just joined and was not sent the map yet: no word on which cluster this is.
            return Err(Setback::host_failed(format!("{address} has no shard map yet")));
        }
        if let Err(expected) = self.shared.belongs_to(&reply.cluster_id) {
            let cause = format!(
                "{address} belongs to cluster {}, expected {expected}",
                reply.cluster_id
            );
            return Err(Setback::refused(Refusal::WrongCluster, cause));
        }
        self.shared.counters.refreshes.add(1);
        self.routes.install(reply).map_err(|error| match error {
            MapError::Empty => Setback::host_failed(format!("{address}: {error}")),
            MapError::Gap { .. } => Setback::refused(Refusal::Incompatible, format!("{address}: {error}")),
        })?;
        self.sessions.keep_only(&self.routes.table());
        Ok(())
    }

    /// The whole map, whatever version is known: a new home alone may not have changed the version.
    async fn ask_for_map(&self, address: &str) -> Result<ShardMapReply, Setback> {
        let config = &self.shared.config;
        let mut host = KvClient::new(self.pool.link(address)?.channel())
            .max_decoding_message_size(config.limits.reply_bytes_max);
        let asking = host.shard_map(ShardMapRequest { known_version: 0 });
        match within(&config.clock, config.retry.attempt_timeout, asking).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Err(Setback::refused(
                Refusal::Incompatible,
                format!("{address}: {}", describe(&status)),
            )),
            Ok(Err(status)) => Err(Setback::host_failed(format!("{address}: {}", describe(&status)))),
            Err(_) => Err(Setback::host_failed(format!(
                "{address}: no answer within the time limit"
            ))),
        }
    }
}
