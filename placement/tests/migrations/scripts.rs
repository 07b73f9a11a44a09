//! Runs the golden scripts in `testscripts/migration`, each a story told to one simulated cluster.
//!
//! The commands (ids are written as they print: `s1`, `r2`, `h3`, `m4`):
//!
//! ```text
//! cluster hosts=N zones=N shards=N [dwell=N] [homes_max=N] [catching_up_ms=N]    with its shards initialised
//! propose move SHARD REPLICA HOST | add SHARD HOST | remove SHARD REPLICA | home SHARD HOST
//!         [origin=Manual] [ttl_ms=N] [take_home=yes] [window=N] [conf_ver=N]
//! run [until=STATE of=MIGRATION] [for_ms=N] [kill=each-state] [house=yes]
//!         ticks of 500 ms, a round of the controller in each; house: health, repairs and debris too
//! recover SHARD
//! advance MIGRATION EXPECT NEXT EVIDENCE [term=N] [index=N] [conf_ver=N] [replica=R]    an entry written by hand
//! crash | restart | down | dead | join | cordon | open | drain | decommission | remove HOST, kill, crash_leader SHARD,
//! cancel MIGRATION
//! close_window N, rules rf=N, network prompt | losing | holding, release, transfer SHARD REPLICA
//! lag SHARD N, writes N
//! shard SHARD, group SHARD, migration MIGRATION, owed HOST, host HOST, remnants HOST, events [N]
//! ```

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use goldenscript::{ArgumentConsumer, Context, Runner};
use placement::{
    AbortReason, Accepted, Admission, Advance, Command, ControllerTerm, Evidence, HostId, HostState,
    LagSample, Limits, LimitsChange, LogEnd, MigrationId, MigrationState, Origin, Proposal, ProposalKind,
    Reasons, Remnant, ReplicaId, Response, Rules, ShardId, WindowId, remnants,
};

use crate::cluster::{Cluster, Network, new_host};
use crate::controller::Duties;

const TICK_MS: u64 = 500;
const REASON: &str = "the story wants it";

type Answer = Result<String, Box<dyn Error>>;

#[derive(Default)]
struct Story {
    cluster: Option<Cluster>,
    zones: u64,
}

impl Runner for Story {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Answer {
        let mut args = command.consume_args();
        let answer = match command.name.as_str() {
            "cluster" => self.begin(&mut args),
            "run" => self.run_until(&mut args),
            "shard" | "group" | "migration" | "owed" | "host" | "remnants" | "events" => {
                self.show(&command.name, &mut args)
            }
            name => self.act(name, &mut args),
        }?;
        args.reject_next()?;
        let cluster = self.cluster()?;
        let trace = std::mem::take(&mut cluster.trace);
        let lines = trace.into_iter().chain((!answer.is_empty()).then_some(answer));
        Ok(told(lines.collect()))
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        self.cluster()?.assert_replayable();
        Ok(())
    }
}

impl Story {
    fn cluster(&mut self) -> Result<&mut Cluster, Box<dyn Error>> {
        self.cluster.as_mut().ok_or_else(|| "no cluster yet".into())
    }

    fn begin(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer {
        let mut limits = Limits::default();
        if let Some(dwell) = args.take_key("dwell") {
            limits.move_dwell_windows = dwell.parse()?;
        }
        if let Some(catching_up_ms) = args.take_key("catching_up_ms") {
            limits.timeouts.catching_up_ms = catching_up_ms.parse()?;
        }
        if let Some(homes_max) = args.take_key("homes_max") {
            limits.homes_max = homes_max.parse()?;
        }
        let mut key = |key| args.take_key(key).unwrap_or("1").parse::<u64>();
        let (hosts, zones, shards) = (key("hosts")?, key("zones")?, key("shards")?);
        self.zones = zones;
        self.cluster = Some(Cluster::new(hosts, zones, u32::try_from(shards)?, limits, 1));
        let cluster = self.cluster()?;
        cluster.round(Duties::Migrations);
        let shards = cluster
            .placement
            .shards()
            .keys()
            .map(|shard| describe_shard(cluster, *shard));
        Ok(shards.collect::<Vec<_>>().join("\n"))
    }

    fn act(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let zones = self.zones;
        let cluster = self.cluster()?;
        let now_ms = cluster.now_ms;
        let command = match name {
            "propose" => Command::Propose(parse_proposal(cluster, args)?),
            "recover" => Command::RecoverShard {
                shard: ShardId(id(args)?),
                origin: Origin::Manual,
                reason: REASON.to_owned(),
                now_ms,
            },
            "advance" => Command::Advance(parse_advance(cluster, args)?),
            "cancel" => Command::Cancel {
                migration: MigrationId(id(args)?),
                now_ms,
            },
            "down" => Command::SetHostState {
                host: HostId(id(args)?),
                state: HostState::Down,
                now_ms,
            },
            "dead" => Command::DeclareDead {
                host: HostId(id(args)?),
                now_ms,
            },
            "cordon" => admit(args, Admission::Cordoned, now_ms)?,
            "drain" => admit(args, Admission::Draining, now_ms)?,
            "decommission" => admit(args, Admission::Decommissioning, now_ms)?,
            "open" => admit(args, Admission::Open, now_ms)?,
            "remove" => Command::RemoveHost {
                host: HostId(id(args)?),
                origin: Origin::Manual,
                reason: REASON.to_owned(),
                now_ms,
            },
            "pause" => change_limits(|limits, origin| limits.pause = [origin].into(), args, now_ms)?,
            "resume" => change_limits(|limits, origin| limits.resume = [origin].into(), args, now_ms)?,
            "rules" => {
                let replication_factor = args.take_key("rf").ok_or("rf?")?.parse()?;
                let rules = Rules {
                    replication_factor,
                    ..cluster.placement.rules().clone()
                };
                Command::SetRules { rules, now_ms }
            }
            "close_window" => Command::CloseWindow {
                window: WindowId(id(args)?),
                now_ms,
            },
            "join" => {
                let host = HostId(id(args)?);
                cluster.host_joined(host);
                Command::JoinHost {
                    host_id: HostId(0),
                    host: new_host(host.0, zones),
                    now_ms,
                }
            }
            _ => return happen(cluster, name, args),
        };
        let response = cluster.apply(command);
        cluster.initialise_groups();
        Ok(match response {
            Response::Accepted(Accepted::Proposed(id)) => describe_migration(cluster, id),
            Response::Accepted(Accepted::Entered(state)) => format!("entered {state:?}"),
            Response::Accepted(_) => "ok".to_owned(),
            Response::Refused(refusal) => format!("refused: {refusal}"),
        })
    }

    fn run_until(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer {
        let until = args.take_key("until").map(parse_state).transpose()?;
        let of = args.take_key("of").map(parse_id).transpose()?.map(MigrationId);
        let for_ms: u64 = args.take_key("for_ms").unwrap_or("120000").parse()?;
        let kill = args.take_key("kill") == Some("each-state");
        let duties = if args.take_key("house").is_some() {
            Duties::All
        } else {
            Duties::Migrations
        };
        let cluster = self.cluster()?;
        let of = of.or_else(|| cluster.placement.migrations().keys().last().copied());
        let state = |cluster: &Cluster| of.and_then(|id| cluster.placement.migration(id)).map(|m| m.state);
        let end_ms = cluster.now_ms + for_ms;
        let mut killed_in = Vec::new();
        while (until.is_none() || state(cluster) != until) && cluster.now_ms < end_ms {
            cluster.pass(TICK_MS);
            cluster.round(duties);
            if let Some(state) = state(cluster).filter(|state| kill && !killed_in.contains(state)) {
                killed_in.push(state);
                cluster.controller = None;
                cluster.trace.push(format!("-- the controller dies in {state:?}"));
            }
        }
        let reached = until.is_none() || state(cluster) == until;
        Ok(if reached {
            String::new()
        } else {
            format!("still {:?} after {for_ms} ms", state(cluster))
        })
    }

    fn show(&mut self, what: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let cluster = self.cluster()?;
        if what == "events" {
            let count: usize = args.next_pos().unwrap_or("1000").parse()?;
            let events: Vec<_> = cluster.placement.history().events().collect();
            let last = &events[events.len().saturating_sub(count)..];
            return Ok(last
                .iter()
                .map(|e| format!("{:?}: {}", e.what, e.detail))
                .collect::<Vec<_>>()
                .join("\n"));
        }
        let id = id(args)?;
        Ok(match what {
            "shard" => describe_shard(cluster, ShardId(id)),
            "group" => describe_group(cluster, ShardId(id)),
            "host" => describe_host(cluster, HostId(id)),
            "remnants" => describe_remnants(cluster, HostId(id)),
            "owed" => format!(
                "{:?}",
                cluster.placement.owed_tombstones(HostId(id)).collect::<Vec<_>>()
            ),
            _ => describe_migration(cluster, MigrationId(id)),
        })
    }
}

/// The lines, repeated ones once.
fn told(lines: Vec<String>) -> String {
    let runs = lines.chunk_by(|a, b| a == b);
    let line = |run: &[String]| match run {
        [line] => format!("{line}\n"),
        run => format!("{} (x{})\n", run[0], run.len()),
    };
    runs.map(line).collect()
}

/// What happens to the world rather than to the log.
fn happen(cluster: &mut Cluster, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
    match name {
        "crash" => cluster.crash(HostId(id(args)?)),
        "restart" => {
            cluster.restart(HostId(id(args)?));
        }
        "crash_leader" => {
            let group = cluster.groups.get(&ShardId(id(args)?)).ok_or("no group")?;
            let host = group.leader_host().ok_or("no leader")?;
            cluster.crash(host);
            cluster.trace.push(format!("{host} crashes"));
        }
        "kill" => cluster.controller = None,
        "release" => cluster.release(),
        "network" => {
            cluster.network = match args.next_pos() {
                Some("losing") => Network::Losing,
                Some("holding") => Network::Holding,
                _ => Network::Prompt,
            }
        }
        "transfer" => {
            let (shard, to) = (ShardId(id(args)?), ReplicaId(id(args)?));
            let outcome = cluster.hand_over(shard, to).unwrap_or_else(|refusal| refusal);
            return Ok(format!("{shard}: {outcome}"));
        }
        "lag" => {
            let group = cluster.groups.get_mut(&ShardId(id(args)?)).ok_or("no group")?;
            let entries: u64 = args.next_pos().ok_or("entries?")?.parse()?;
            let up = cluster.up.clone();
            group.tick(entries, &up);
            (0..entries / 400).for_each(|_| group.tick(0, &up));
        }
        "writes" => cluster.writes_per_tick = args.next_pos().ok_or("writes?")?.parse()?,
        _ => return Err(format!("unknown command {name}").into()),
    }
    Ok(String::new())
}

pub(crate) fn describe_shard(cluster: &Cluster, shard: ShardId) -> String {
    let Some(shard) = cluster.placement.shard(shard) else {
        return format!("no {shard}");
    };
    let mut out = format!("{} conf_ver {}:", shard.id, shard.epoch.conf_ver);
    for (id, replica) in &shard.replicas {
        let host = cluster
            .placement
            .host(replica.host)
            .map_or("?", |host| &host.zone.0);
        write!(out, " {id}@{}/{host} {:?}", replica.host, replica.role).expect("strings grow");
    }
    let home = shard
        .route_home()
        .map_or("none".to_owned(), |home| home.to_string());
    write!(out, "; home {home}").expect("strings grow");
    out
}

fn describe_host(cluster: &Cluster, host: HostId) -> String {
    let Some(known) = cluster.placement.host(host) else {
        return format!("no {host}");
    };
    format!("{host} {:?} {:?}", known.state, known.admission)
}

fn describe_remnants(cluster: &Cluster, host: HostId) -> String {
    let left = remnants(&cluster.placement, host, cluster.now_ms);
    let line = |part: &Remnant| {
        let replica = part
            .replica
            .map_or("no replica".to_owned(), |replica| replica.to_string());
        let home = if part.is_home { ", home" } else { "" };
        format!("{} {replica}{home}: {}", part.shard, part.holdup)
    };
    match left.is_empty() {
        true => "nothing".to_owned(),
        false => left.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

fn admit(
    args: &mut ArgumentConsumer<'_>,
    admission: Admission,
    now_ms: u64,
) -> Result<Command, Box<dyn Error>> {
    Ok(Command::ChangeAdmission {
        host: HostId(id(args)?),
        admission,
        origin: Origin::Manual,
        reason: REASON.to_owned(),
        now_ms,
    })
}

fn change_limits(
    set: impl FnOnce(&mut LimitsChange, Origin),
    args: &mut ArgumentConsumer<'_>,
    now_ms: u64,
) -> Result<Command, Box<dyn Error>> {
    let name = args.next_pos().ok_or("whose?")?;
    let mut change = LimitsChange::default();
    set(&mut change, Origin::named(name).ok_or("no such origin")?);
    Ok(Command::ChangeLimits {
        change,
        origin: Origin::Manual,
        reason: REASON.to_owned(),
        now_ms,
    })
}

fn describe_group(cluster: &Cluster, shard: ShardId) -> String {
    let Some(group) = cluster.groups.get(&shard) else {
        return format!("no group {shard}");
    };
    let set = |ids: &std::collections::BTreeSet<ReplicaId>| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        format!("[{}]", ids.join(" "))
    };
    let voters: Vec<String> = group.membership.voters.iter().map(set).collect();
    let leader = group
        .leader
        .map_or("none".to_owned(), |leader| leader.to_string());
    let learners = set(&group.membership.learners);
    let lost = match group.entries_lost {
        0 => String::new(),
        lost => format!("; {lost} acknowledged entries lost"),
    };
    format!(
        "{shard} voters {} learners {learners}; leader {leader}{lost}",
        voters.join(" and ")
    )
}

fn describe_migration(cluster: &Cluster, id: MigrationId) -> String {
    let Some(m) = cluster.placement.migration(id) else {
        return format!("no {id}");
    };
    let placed =
        |p: Option<placement::Placed>| p.map_or("-".to_owned(), |p| format!("{}@{}", p.replica, p.host));
    let mut out = format!(
        "{id} {:?} of {} by {:?}: {} to {}, ",
        m.kind,
        m.shard,
        m.origin,
        placed(m.src),
        placed(m.dst)
    );
    write!(out, "{:?}", m.state).expect("strings grow");
    if let Some(reason) = m.abort_reason {
        write!(out, " ({reason:?})").expect("strings grow");
    }
    out
}

fn parse_proposal(cluster: &Cluster, args: &mut ArgumentConsumer<'_>) -> Result<Proposal, Box<dyn Error>> {
    let kind = args.next_pos().ok_or("which kind?")?;
    let shard = ShardId(id(args)?);
    let target = id(args)?;
    let kind = match kind {
        "move" => {
            let take_home = args.take_key("take_home").is_some();
            ProposalKind::Move {
                from: ReplicaId(target),
                to: HostId(id(args)?),
                take_home,
            }
        }
        "add" => ProposalKind::Add { to: HostId(target) },
        "remove" => ProposalKind::Remove {
            from: ReplicaId(target),
        },
        "home" => ProposalKind::Home { to: HostId(target) },
        // The target: the shard that is absorbed.
        "merge" => ProposalKind::Merge {
            next: ShardId(target),
        },
        // The target: the new shard's first key, a byte.
        "split" => ProposalKind::Split {
            at: vec![u8::try_from(target)?],
        },
        kind => return Err(format!("unknown kind {kind}").into()),
    };
    let origin = match args.take_key("origin").unwrap_or("Manual") {
        "Repair" => Origin::Repair,
        "Drain" => Origin::Drain,
        "Rule" => Origin::Rule,
        "Balance" => Origin::Balance,
        "Model" => Origin::Model,
        _ => Origin::Manual,
    };
    let mut basis = cluster
        .placement
        .shard(shard)
        .map(|shard| shard.epoch)
        .unwrap_or_default();
    if let Some(conf_ver) = args.take_key("conf_ver") {
        basis.conf_ver = conf_ver.parse()?;
    }
    let ttl_ms: u64 = args.take_key("ttl_ms").unwrap_or("60000").parse()?;
    let window = args
        .take_key("window")
        .map_or(Ok(cluster.placement.window().0), str::parse)?;
    Ok(Proposal {
        shard,
        kind,
        basis,
        origin,
        expires_ms: cluster.now_ms + ttl_ms,
        reasons: Reasons {
            text: REASON.to_owned(),
            ..Reasons::default()
        },
        window: WindowId(window),
        now_ms: cluster.now_ms,
    })
}

fn parse_advance(cluster: &Cluster, args: &mut ArgumentConsumer<'_>) -> Result<Advance, Box<dyn Error>> {
    let migration = MigrationId(id(args)?);
    let expect_state = parse_state(args.next_pos().ok_or("expected state?")?)?;
    let next = parse_state(args.next_pos().ok_or("next state?")?)?;
    let kind = args.next_pos().ok_or("evidence?")?;
    let mut number = |key: &str, or: u64| args.take_key(key).map_or(Ok(or), parse_id);
    let term = number("term", cluster.placement.controller_term().0)?;
    let (membership_index, conf_ver) = (number("index", 100)?, number("conf_ver", 2)?);
    let replica = ReplicaId(number("replica", 1)?);
    let (lag_entries, gap_ms) = (number("lag", 0)?, number("gap_ms", 1_000)?);
    let sample = |at_ms| LagSample {
        at_ms,
        raft_term: 1,
        lag_entries,
    };
    let evidence = match kind {
        "start" => Evidence::Start,
        "learner" => Evidence::Learner { membership_index },
        "caught_up" => {
            let first = sample(cluster.now_ms);
            Evidence::CaughtUp {
                leader: replica,
                first,
                second: sample(cluster.now_ms + gap_ms),
            }
        }
        "leads" => Evidence::Leads {
            replica,
            raft_term: 1,
        },
        "switched" => Evidence::Switched {
            membership_index,
            conf_ver,
            migration,
        },
        "absent" => Evidence::Absent {
            replica,
            membership_index,
        },
        "tombstone" => Evidence::Tombstone {
            host: HostId(number("host", 1)?),
            replica,
        },
        "host_dead" => Evidence::HostDead {
            host: HostId(number("host", 1)?),
        },
        "fenced" => Evidence::Fenced {
            host: HostId(number("host", 1)?),
            replica,
            end: LogEnd {
                index: membership_index,
                ..LogEnd::default()
            },
        },
        "chosen" => Evidence::Chosen { replica },
        _ => Evidence::GiveUp {
            reason: AbortReason::Deadline,
            conf_ver: None,
        },
    };
    let controller_term = ControllerTerm(term);
    Ok(Advance {
        migration,
        expect_state,
        next,
        controller_term,
        evidence,
        now_ms: cluster.now_ms,
    })
}

fn parse_state(name: &str) -> Result<MigrationState, Box<dyn Error>> {
    use MigrationState::*;
    let all = [
        Proposed,
        Adding,
        CatchingUp,
        Transferring,
        Switching,
        Removing,
        Cleaning,
        Splitting,
        Settling,
        Freezing,
        Absorbing,
        Dissolving,
        Thawing,
        Done,
        Aborting,
        CleaningDst,
        Aborted,
        Rejected,
        Collecting,
        Reopening,
        Superseded,
    ];
    all.into_iter()
        .find(|state| format!("{state:?}") == name)
        .ok_or_else(|| format!("no state {name}").into())
}

fn id(args: &mut ArgumentConsumer<'_>) -> Result<u64, Box<dyn Error>> {
    parse_id(args.next_pos().ok_or("an id is missing")?)
}

fn parse_id(text: &str) -> Result<u64, Box<dyn Error>> {
    Ok(text
        .trim_start_matches(|c: char| c.is_ascii_alphabetic())
        .parse()?)
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts/migration"))
}

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                goldenscript::run(&mut Story::default(), folder().join(stringify!($name))).unwrap();
            }
        )*

        #[test]
        fn every_script_is_run() {
            let mut files: Vec<_> =
                std::fs::read_dir(folder()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            assert_eq!(files, [$(stringify!($name)),*]);
        }
    };
}

stories!(
    aborting_crashes,
    add_and_remove,
    cancel_and_expiry,
    controller_crashes,
    decommission,
    decommission_dead,
    drain,
    drain_home_stays,
    home_move,
    late_switch,
    leaving_refused,
    limits_and_priorities,
    lone_voter_leaves,
    merge,
    merge_crashes,
    merge_killed,
    move_replica,
    never_catches_up,
    orders_lost,
    pause,
    placement_group_grows,
    placement_group_keeps_three,
    recover,
    recover_chosen_dies,
    recover_controller_crashes,
    recover_half_switched,
    recover_refused,
    recover_returns,
    recover_supersedes,
    refused_steps,
    repairs,
    source_dies,
    source_leads,
    split,
    split_crashes,
    target_dies,
);
