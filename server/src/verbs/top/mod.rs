//! `godwit top`: looks at all hosts again and again, and shows what happened in between.

mod frame;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use client::AdminClient;
use client::proto::{HostStatus, MigrationsRequest, ShardsRequest};
use futures_util::future::join_all;
use storage::clock::Clock;

use super::connect;
use super::outcome::{Exit, VerbError};
use crate::cli::{ConnectArgs, TopArgs};
use crate::serve::SystemClock;
use frame::{Look, frame};

/// Another screen, no cursor, and lines cut where the screen ends; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// To the first line; what is left of one; what is left of the screen.
const TOP: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Shows frames until it is interrupted, or one.
///
/// # Errors
/// When no host answers, or there is neither a terminal nor `--once`.
pub async fn top(connect: &ConnectArgs, args: &TopArgs, out: &mut dyn Write) -> Result<Exit, VerbError> {
    let watcher = Watcher {
        connect,
        calls: connect::operator(connect)?,
        migrations: args.migrations,
    };
    let pause = Duration::from_millis(args.interval);
    let first = watcher.look().await?;
    if args.once {
        tokio::time::sleep(pause).await;
        writeln!(out, "{}", frame(&first, &watcher.look().await?))?;
        return Ok(Exit::Ok);
    }
    if !std::io::stdout().is_terminal() {
        return Err(VerbError::NoTerminal);
    }
    write!(out, "{ENTER}")?;
    out.flush()?;
    let shown = tokio::select! {
        shown = watcher.show(first, pause, out) => shown,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // The terminal is given back whatever happened.
    write!(out, "{LEAVE}")?;
    out.flush()?;
    shown.map(|()| Exit::Ok)
}

struct Watcher<'a> {
    connect: &'a ConnectArgs,
    calls: AdminClient,
    migrations: u32,
}

impl Watcher<'_> {
    async fn show(&self, first: Look, pause: Duration, out: &mut dyn Write) -> Result<(), VerbError> {
        let mut before = first;
        loop {
            tokio::time::sleep(pause).await;
            let now = self.look().await?;
            write!(out, "{TOP}")?;
            for line in frame(&before, &now).lines() {
                write!(out, "{line}{REST_OF_LINE}\r\n")?;
            }
            write!(out, "{REST_OF_SCREEN}")?;
            out.flush()?;
            before = now;
        }
    }

    /// Asks everything; hosts that do not answer are left out.
    async fn look(&self) -> Result<Look, VerbError> {
        let failed = || connect::failed(self.connect, "godwit admin status");
        let status = self.calls.status().await.map_err(failed())?;
        let hosts = self.calls.hosts().await.map_err(failed())?.hosts;
        let shards = self
            .calls
            .shards(ShardsRequest::default())
            .await
            .map_err(failed())?
            .shards;
        let request = MigrationsRequest {
            include_ended: false,
            limit: self.migrations,
        };
        let migrations = self.calls.migrations(request).await.map_err(failed())?.migrations;
        let limits = self.calls.limits().await.map_err(failed())?.limits;
        let asking = hosts.iter().map(|host| self.look_at(host));
        let (mut usage, mut loads) = (Vec::new(), Vec::new());
        for (host, used, load) in join_all(asking).await {
            usage.extend(used.map(|used| (host, used)));
            loads.extend(load.map(|load| (host, load)));
        }
        Ok(Look {
            at_ms: SystemClock.now_ms(),
            status,
            hosts,
            shards,
            migrations,
            limits: limits.unwrap_or_default(),
            usage: usage.into_iter().collect(),
            loads: loads.into_iter().collect(),
        })
    }

    async fn look_at(
        &self,
        host: &HostStatus,
    ) -> (
        u64,
        Option<client::proto::UsageReply>,
        Option<client::proto::LoadReply>,
    ) {
        let asked = tokio::join!(
            self.calls.usage_of(&host.address),
            self.calls.load_of(&host.address)
        );
        (host.host_id, asked.0.ok(), asked.1.ok())
    }
}
