//! Peers side by side: they take turns at each workload, so what the machine does meanwhile meets all of them.

mod contender;
mod matrix;
mod page;
mod row;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use contender::Contender;
pub use matrix::{Cell, Matrix};
pub use page::render_page;
pub use row::{Figures, Outcome, Report, Row};

use crate::load::{Load, Measured, Pace, run};
use crate::peer::{Cluster, Etcd, Godwit, Peer, Route};
use crate::process::Usage;
use crate::workload::{Keys, Kind, Workload};

/// Clients that write every key before anything is measured.
const FILL_CLIENTS: usize = 256;
/// Clients at which the best number of connections is looked for.
const CALIBRATION_CLIENTS: usize = 256;
/// Of the peer's best throughput: the rate of the open loops.
const OPEN_LOOP_SHARE: f64 = 0.7;
/// Hosts of each cluster.
const HOSTS: usize = 3;

/// What a comparison is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cells, rounds and lengths.
    pub matrix: Matrix,
    /// Where etcd is, if not where it is looked for.
    pub etcd: Option<PathBuf>,
    /// Clusters' data: on a real disk, and emptied afterwards.
    pub folder: PathBuf,
    /// Of every random choice.
    pub seed: u64,
    /// More settings of godwit's hosts, as `field=value`.
    pub settings: Vec<String>,
}

/// One run of one contender.
struct Sample {
    measured: Measured,
    used: Usage,
}

/// Compares godwit with etcd; `told` hears of each row as it comes.
///
/// # Errors
/// When there is no etcd, a cluster does not start, or a load fails altogether.
pub async fn compare(options: &Options, mut told: impl FnMut(&Row)) -> anyhow::Result<Report> {
    let etcd = Etcd::find(options.etcd.as_deref())?;
    let mut report = Report {
        peer_version: etcd.version()?,
        ..Report::default()
    };
    for shards in &options.matrix.shards {
        for value_bytes in &options.matrix.value_bytes {
            let mut own = Godwit::own(*shards, Route::Stream)?;
            own.settings = options.settings.clone();
            report.version = own.version()?;
            let stage = Stage::set(options, own, etcd.clone(), *value_bytes).await?;
            stage
                .measure(|row| {
                    told(&row);
                    report.rows.push(row);
                })
                .await?;
        }
    }
    Ok(report)
}

/// Both clusters, filled with values of one size.
struct Stage<'a> {
    options: &'a Options,
    shards: u32,
    value_bytes: usize,
    own: Cluster,
    peer: Cluster,
    /// godwit's, one for each route, then the peer's.
    contenders: Vec<Contender>,
    _folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    async fn set(
        options: &'a Options,
        godwit: Godwit,
        etcd: Etcd,
        value_bytes: usize,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.folder)?;
        let folder = tempfile::tempdir_in(&options.folder).context("a folder for the clusters")?;
        let shards = godwit.shards;
        let own = godwit.start(&in_folder(folder.path(), "godwit")?, HOSTS).await?;
        let peer = etcd.start(&in_folder(folder.path(), "etcd")?, HOSTS).await?;
        let mut contenders = Vec::new();
        for route in &options.matrix.routes {
            let godwit = Godwit {
                route: *route,
                ..godwit.clone()
            };
            contenders.push(Contender::own(*route, Box::new(godwit)));
        }
        contenders.push(Contender::peer(Box::new(etcd)));
        let mut stage = Self {
            options,
            shards,
            value_bytes,
            own,
            peer,
            contenders,
            _folder: folder,
        };
        stage.fill().await?;
        stage.calibrate().await?;
        Ok(stage)
    }

    fn cluster(&self, contender: &Contender) -> &Cluster {
        match contender.is_peer {
            true => &self.peer,
            false => &self.own,
        }
    }

    fn workload(&self, kind: Kind, keys: Keys) -> Workload {
        Workload {
            kind,
            keys,
            key_count: self.options.matrix.key_count,
            value_bytes: self.value_bytes,
        }
    }

    async fn fill(&self) -> anyhow::Result<()> {
        let contenders = [self.contenders.first(), self.contenders.last()];
        for contender in contenders.into_iter().flatten() {
            let cluster = self.cluster(contender);
            let mut accesses = contender.peer.accesses(cluster, 16).await?;
            let load = Load {
                access: accesses.pop().context("a peer without a way to reach it")?,
                workload: self.workload(Kind::Put, Keys::Uniform),
                pace: Pace::Fill {
                    clients: FILL_CLIENTS,
                },
                warm_up_s: 0.0,
                seconds: 0.0,
                slice_s: 0.0,
                seed: self.options.seed,
                steps: None,
            };
            let (measured, _) = run(&load, || cluster.usage()).await?;
            if let Some(failure) = measured.first_failure {
                anyhow::bail!(
                    "{} keys of {} were not written: {failure}",
                    measured.failures,
                    contender.name()
                );
            }
        }
        Ok(())
    }

    /// Finds each contender's best way to connect, for one client and for many, for reads and for writes.
    async fn calibrate(&mut self) -> anyhow::Result<()> {
        let mut contenders = std::mem::take(&mut self.contenders);
        for contender in &mut contenders {
            for kind in contender::CALIBRATED {
                for clients in [1, CALIBRATION_CLIENTS] {
                    let mut tried = Vec::new();
                    for connections in self.options.matrix.connections_for(clients) {
                        let cluster = self.cluster(contender);
                        for access in contender.peer.accesses(cluster, connections).await? {
                            let load = Load {
                                access,
                                workload: self.workload(kind, Keys::Uniform),
                                pace: Pace::Closed { clients },
                                warm_up_s: self.options.matrix.warm_up_s,
                                seconds: self.options.matrix.calibration_s,
                                slice_s: 0.0,
                                seed: self.options.seed,
                                steps: None,
                            };
                            let (measured, _) = run(&load, || cluster.usage()).await?;
                            tried.push((measured.operations, load.access));
                        }
                    }
                    contender.settle(kind, clients, tried);
                }
            }
        }
        self.contenders = contenders;
        Ok(())
    }

    async fn sample(&self, contender: &Contender, cell: &Cell, round: u64) -> anyhow::Result<Sample> {
        let cluster = self.cluster(contender);
        let load = Load {
            access: contender.access(cell)?,
            workload: self.workload(cell.kind, cell.keys),
            pace: cell.pace,
            warm_up_s: self.options.matrix.warm_up_s,
            seconds: self.options.matrix.seconds,
            slice_s: 0.0,
            seed: self.options.seed.wrapping_add(round),
            steps: None,
        };
        let (measured, used) = run(&load, || cluster.usage()).await?;
        Ok(Sample { measured, used })
    }

    /// Tells a row for each cell and route.
    async fn measure(&self, mut told: impl FnMut(Row)) -> anyhow::Result<()> {
        // The peer's best throughput of each kind.
        let mut best: BTreeMap<Kind, f64> = BTreeMap::new();
        for cell in self.options.matrix.cells() {
            for row in self.measured(&cell).await? {
                let best = best.entry(row.workload).or_default();
                *best = best.max(row.peer.ops_s);
                told(row);
            }
        }
        for kind in self.options.matrix.open_loops() {
            let Some(best) = best.get(&kind).filter(|best| **best > 0.0) else {
                continue;
            };
            let cell = Cell {
                kind,
                keys: Keys::Uniform,
                pace: Pace::Open {
                    per_s: best * OPEN_LOOP_SHARE,
                },
            };
            self.measured(&cell).await?.into_iter().for_each(&mut told);
        }
        Ok(())
    }

    /// The contenders take turns at a cell, `rounds` times.
    async fn measured(&self, cell: &Cell) -> anyhow::Result<Vec<Row>> {
        let serving = self
            .contenders
            .iter()
            .filter(|contender| contender.serves(cell.kind));
        let contenders: Vec<&Contender> = serving.collect();
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..self.options.matrix.rounds {
            for (contender, samples) in contenders.iter().zip(&mut samples) {
                samples.push(self.sample(contender, cell, round).await?);
            }
        }
        let outcomes: Vec<Outcome> = samples.iter().map(|samples| Outcome::of(samples)).collect();
        let (peer, own) = outcomes.split_last().context("no contenders")?;
        let peer_connections = contenders.last().map_or(0, |peer| peer.connections(cell));
        let rows = contenders.iter().zip(own).map(|(contender, outcome)| Row {
            shards: self.shards,
            value_bytes: self.value_bytes,
            path: contender.route,
            connections: contender.connections(cell),
            peer_connections,
            ..Row::of(cell, outcome, peer)
        });
        Ok(rows.collect())
    }
}

fn in_folder(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}
