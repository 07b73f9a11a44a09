//! Faults that are ordered from the library in the hosts: disks that fail, clocks that run wrong.
//!
//! Each host has one control file for as long as the cluster lives, so what was ordered holds over a restart until it is
//! called off. A disk that gave back what was not on it leaves its host in doubt: what the host wrote meanwhile may be
//! wrong, and it may find that out, and stop, at any time after. Such a host is started again, and rebuilt when that
//! does not help.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::cluster::{Cluster, Expected};
use crate::native::FaultControl;

/// How long a host whose disk failed may still need to end.
const ENDING_LIMIT: Duration = Duration::from_secs(2);
/// How long a host may take to find that its disk is not what it was.
pub(crate) const REFUSAL_LIMIT: Duration = Duration::from_secs(3);

impl Cluster {
    /// The faults of a host.
    ///
    /// # Errors
    /// When nothing is preloaded into the hosts.
    pub fn faults(&self, number: usize) -> anyhow::Result<Arc<FaultControl>> {
        self.with_host(number, |host| host.control.clone())
            .context("no library is preloaded into the hosts")
    }

    /// Whether the present process of the host obeys its faults already.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn is_attached(&self, number: usize) -> anyhow::Result<bool> {
        let attached = self.faults(number)?.counters()?.attached;
        Ok(self.with_host(number, |host| attached > host.attached_before))
    }

    /// Hosts on which the library never took hold, or of whose files it saw none: what was ordered there proves nothing.
    pub fn untouched(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for number in self.numbers() {
            let Ok(faults) = self.faults(number) else { continue };
            match faults.counters() {
                Ok(counters) if counters.attached > 0 && counters.files > 0 => {}
                counters => lines.push(format!("the library in host {number} saw nothing: {counters:?}")),
            }
        }
        lines
    }

    /// Ends the faults that were ordered for a host; its process is left as it is.
    pub(super) fn call_off(&self, number: usize) -> anyhow::Result<()> {
        let control = self.with_host(number, |host| host.control.clone());
        control.map_or(Ok(()), |control| control.heal())
    }

    /// Ends the faults that were ordered for a host, and starts it if they made it end.
    ///
    /// # Errors
    /// When the control file cannot be written, or the process not be started.
    pub(crate) async fn soothe(&self, number: usize) -> anyhow::Result<()> {
        self.call_off(number)?;
        if self.with_host(number, |host| host.may_end) {
            self.wait_for_end(number, ENDING_LIMIT).await;
        }
        self.start_host(number)?;
        self.expect_end(number, Expected::No);
        Ok(())
    }

    /// Remembers that the disk of host `number`, whose id is `id`, gave back what was not on it.
    pub(crate) fn doubt(&self, number: usize, id: u64) {
        self.with_host(number, |host| {
            host.doubted = Some(id);
            host.may_end = true;
        });
    }

    /// Starts hosts in doubt that have ended.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub(crate) fn revive_doubted(&self, free: impl Fn(usize) -> bool) -> anyhow::Result<()> {
        for number in self.numbers() {
            let ended = self.with_host(number, |host| host.doubted.is_some() && !host.running());
            if ended && free(number) {
                self.start_host(number)?;
            }
        }
        Ok(())
    }

    /// Waits whether a host in doubt, which was started just now, comes up. One that does not is to be rebuilt, and
    /// this says so.
    pub(crate) async fn settle_doubt(&self, number: usize) -> bool {
        let Some(id) = self.with_host(number, |host| host.doubted) else {
            return false;
        };
        let ended = self.wait_for_end(number, REFUSAL_LIMIT).await;
        if ended {
            self.spoil(number, id);
        }
        ended
    }
}
