//! What moves were predicted to save is held against what they saved, and who falls short proposes in shadow only.

#![allow(clippy::unwrap_used)]

mod log;

use std::collections::BTreeMap;

use log::{Log, bootstrap, join};
use placement::{
    Accepted, Advance, Command, EventKind, Evidence, HostId, Hours, HoursChange, Limits, LimitsChange,
    MeasuredGain, MigrationId, MigrationState, Origin, Proposal, ProposalKind, Reasons, Refusal, ShardId,
    TrustLimits, Weekday, WindowId, decode_state, encode_state,
};

const SHARD: ShardId = ShardId(1);
const POLICY: &str = "burn-model";

impl Log {
    /// Three hosts in three zones with a shard, whose moves are judged two at a time, each over one window.
    fn new() -> Self {
        let mut log = Self::default();
        let limits = Limits {
            trust: TrustLimits {
                moves: 2,
                share_ppm: 500_000,
                windows: 1,
            },
            ..Limits::default()
        };
        log.accept(bootstrap(1, 3, limits));
        log.accept(join(0, 2));
        log.accept(join(0, 3));
        log.accept(Command::ShardReady {
            shard: SHARD,
            now_ms: 3,
        });
        log.accept(Command::TakeControl {
            host: HostId(1),
            now_ms: 4,
        });
        log
    }

    fn home(&self) -> HostId {
        self.placement.shard(SHARD).unwrap().home_host().unwrap()
    }

    fn next_home(&self) -> HostId {
        HostId(self.home().0 % 3 + 1)
    }

    fn wish(&self, origin: Origin, gain_micros: i64) -> Command {
        Command::Propose(Proposal {
            shard: SHARD,
            kind: ProposalKind::Home { to: self.next_home() },
            basis: self.placement.shard(SHARD).unwrap().epoch,
            origin,
            expires_ms: 1_000,
            reasons: Reasons {
                policy: POLICY.to_owned(),
                model: "burn-1".to_owned(),
                gain_micros,
                text: "to be nearer".to_owned(),
                ..Reasons::default()
            },
            window: self.placement.window(),
            now_ms: 10,
        })
    }

    fn advance(
        &mut self,
        migration: MigrationId,
        from: MigrationState,
        to: MigrationState,
        evidence: Evidence,
    ) {
        let controller_term = self.placement.controller_term();
        self.accept(Command::Advance(Advance {
            migration,
            expect_state: from,
            next: to,
            controller_term,
            evidence,
            now_ms: 11,
        }));
    }

    /// Moves the home to the next host, by a forecast.
    fn move_home(&mut self, gain_micros: i64) -> MigrationId {
        use MigrationState::{Done, Proposed, Transferring};
        let wish = self.wish(Origin::Model, gain_micros);
        let Accepted::Proposed(id) = self.accept(wish) else {
            panic!("it is carried out");
        };
        let replica = self.placement.migration(id).unwrap().dst.unwrap().replica;
        self.advance(id, Proposed, Transferring, Evidence::Start);
        // Each move is led in a later term.
        let raft_term = self.index;
        self.advance(id, Transferring, Done, Evidence::Leads { replica, raft_term });
        id
    }

    /// Ends the window; every move on trial has saved `gain_micros` in it.
    fn end_window(&mut self, gain_micros: i64) {
        let window = self.placement.window();
        self.accept(Command::CloseWindow { window, now_ms: 20 });
        let measured = MeasuredGain {
            gain_micros,
            accesses: 10,
            local_before: 2,
            local_after: 9,
        };
        let gains = self.placement.trust().trials().keys().map(|id| (*id, measured));
        let gains: BTreeMap<u64, MeasuredGain> = gains.collect();
        self.accept(Command::RecordGains {
            window,
            gains,
            now_ms: 20,
        });
    }

    fn told(&self, what: EventKind) -> Vec<&str> {
        let events = self.placement.history().events();
        events
            .filter(|event| event.what == what)
            .map(|event| event.detail.as_str())
            .collect()
    }

    fn change(&mut self, change: LimitsChange) -> Command {
        Command::ChangeLimits {
            change,
            origin: Origin::Manual,
            reason: "test".to_owned(),
            now_ms: 12,
        }
    }
}

#[test]
fn a_move_is_measured_over_the_windows_after_it() {
    let mut log = Log::new();
    let windows = LimitsChange {
        trust_windows: Some(2),
        ..LimitsChange::default()
    };
    let windows = log.change(windows);
    log.accept(windows);
    let (before, after) = (log.home(), log.next_home());
    let id = log.move_home(1_000);
    log.end_window(900);
    assert_eq!(log.told(EventKind::GainMeasured).len(), 0, "one window of two");
    // What is known outlives a restart in the middle of a trial.
    let restarted = decode_state(&encode_state(&log.placement).unwrap()).unwrap();
    assert_eq!(restarted, log.placement);
    log.placement = restarted;
    log.end_window(700);
    let expected = format!(
        "home {before} -> {after}: predicted 2000 us, measured 1600 us in 2 windows of 20 accesses; local 20% -> 90% \
         (burn-model, model burn-1)"
    );
    assert_eq!(log.told(EventKind::GainMeasured), [expected.as_str()]);
    let verdict = log.placement.trust().verdicts().next().unwrap();
    assert_eq!(
        (verdict.trial.migration, verdict.predicted_micros()),
        (Some(id), 2_000)
    );
    let record = log.placement.trust().record(Origin::Model, POLICY).unwrap();
    assert_eq!((record.totals.moves, record.totals.measured_micros), (1, 1_600));
    assert!(log.placement.trust().trials().is_empty());
}

#[test]
fn a_window_is_measured_once() {
    let mut log = Log::new();
    log.move_home(1_000);
    log.end_window(900);
    let again = Command::RecordGains {
        window: WindowId(0),
        gains: BTreeMap::new(),
        now_ms: 21,
    };
    assert_eq!(log.refuse(again), Refusal::StaleWindow { current: WindowId(1) });
}

#[test]
fn a_shard_that_moves_on_ends_the_trial_with_what_was_measured() {
    let mut log = Log::new();
    let windows = LimitsChange {
        trust_windows: Some(3),
        ..LimitsChange::default()
    };
    let windows = log.change(windows);
    log.accept(windows);
    log.move_home(1_000);
    log.end_window(400);
    log.move_home(1_000);
    log.end_window(5_000);
    let told = log.told(EventKind::GainMeasured);
    assert_eq!(told.len(), 1, "the second goes on");
    assert!(
        told[0].contains("predicted 1000 us, measured 400 us in 1 windows"),
        "{told:?}"
    );
}

#[test]
fn whoever_predicts_too_much_proposes_in_shadow_until_it_does_better() {
    let mut log = Log::new();
    for gain in [600, -100] {
        log.move_home(1_000);
        log.end_window(gain);
    }
    assert!(
        log.placement.is_distrusted(Origin::Model, POLICY),
        "500 of 2000 is below half"
    );
    let home = log.home();
    // Others of the same origin, and the same policy's wishes for another reason, are not meant.
    assert!(!log.placement.is_distrusted(Origin::Model, "hour-of-day"));
    assert!(!log.placement.is_distrusted(Origin::Balance, POLICY));

    for gain in [300, 900] {
        assert!(log.placement.is_distrusted(Origin::Model, POLICY));
        let wish = log.wish(Origin::Model, 1_000);
        assert_eq!(log.accept(wish.clone()), Accepted::Shadowed);
        assert_eq!(log.accept(wish), Accepted::Unchanged, "it is on trial already");
        assert_eq!(log.placement.active_migrations().count(), 0);
        log.end_window(gain);
    }
    assert_eq!(log.home(), home, "nothing was carried out");
    assert!(
        !log.placement.is_distrusted(Origin::Model, POLICY),
        "1200 of 2000 is above half"
    );
    let told = log.told(EventKind::TrustChanged);
    assert!(
        told[0].contains("loses its right") && told[1].contains("may propose again"),
        "{told:?}"
    );
    let record = log.placement.trust().record(Origin::Model, POLICY).unwrap();
    assert_eq!((record.totals.moves, record.totals.shadows), (2, 2));
    log.move_home(1_000);
}

#[test]
fn nobody_loses_the_right_where_the_rule_is_off_and_an_operator_gives_it_back() {
    let mut log = Log::new();
    for _ in 0..2 {
        log.move_home(1_000);
        log.end_window(0);
    }
    assert!(log.placement.is_distrusted(Origin::Model, POLICY));
    let off = |moves| LimitsChange {
        trust_moves: Some(moves),
        ..LimitsChange::default()
    };
    for (moves, distrusted) in [(0, false), (2, true)] {
        let change = log.change(off(moves));
        log.accept(change);
        assert_eq!(log.placement.is_distrusted(Origin::Model, POLICY), distrusted);
    }
    let restore = Command::RestoreTrust {
        restored: Origin::Model,
        origin: Origin::Manual,
        reason: "a new model".to_owned(),
        now_ms: 30,
    };
    assert_eq!(log.accept(restore.clone()), Accepted::Applied);
    assert_eq!(log.accept(restore), Accepted::Unchanged);
    assert!(!log.placement.is_distrusted(Origin::Model, POLICY));
    assert!(log.told(EventKind::TrustChanged)[1].contains("a new model"));
}

#[test]
fn an_origin_in_shadow_is_written_down_and_not_carried_out() {
    let mut log = Log::new();
    // What waited before does not start.
    let wish = log.wish(Origin::Model, 1_000);
    let Accepted::Proposed(waits) = log.accept(wish) else {
        panic!("it is carried out");
    };
    let shadow = LimitsChange {
        shadow: [Origin::Model].into(),
        ..LimitsChange::default()
    };
    let shadow = log.change(shadow);
    log.accept(shadow);
    let migration = log.placement.migration(waits).unwrap();
    assert_eq!(
        log.placement.start_refusal(migration, 12),
        Some(Refusal::Shadowed(Origin::Model))
    );
    log.accept(Command::Expire { now_ms: 2_000 });
    let later = |command| match command {
        Command::Propose(proposal) => Command::Propose(Proposal {
            expires_ms: 10_000,
            ..proposal
        }),
        other => other,
    };
    let wish = later(log.wish(Origin::Model, 1_000));
    assert_eq!(log.accept(wish), Accepted::Shadowed);
    let told = log.told(EventKind::Shadowed);
    assert_eq!(told, ["by Model, not carried out: to be nearer"]);
    // Other origins go on.
    let wish = later(log.wish(Origin::Balance, 0));
    assert!(matches!(log.accept(wish), Accepted::Proposed(_)));

    let repair = LimitsChange {
        shadow: [Origin::Repair].into(),
        ..LimitsChange::default()
    };
    let repair = log.change(repair);
    assert!(
        matches!(log.refuse(repair), Refusal::Invalid(_)),
        "repairs are never only imagined"
    );
    let out = LimitsChange {
        unshadow: [Origin::Model].into(),
        ..LimitsChange::default()
    };
    let out = log.change(out);
    log.accept(out);
    assert!(!log.placement.is_shadowed(Origin::Model, POLICY));
}

#[test]
fn bets_start_in_maintenance_windows_alone() {
    let mut log = Log::new();
    let change = |change| Command::ChangeHours {
        change,
        origin: Origin::Manual,
        reason: "at night".to_owned(),
        now_ms: 12,
    };
    // The log's time is a Thursday, soon after midnight.
    let hours = |day, start_minute| Hours {
        days: [day].into(),
        start_minute,
        minutes: 60,
    };
    let wish = log.wish(Origin::Model, 1_000);
    let Accepted::Proposed(waits) = log.accept(wish.clone()) else {
        panic!("without windows there is no waiting");
    };
    let Accepted::HoursAdded { id } = log.accept(change(HoursChange::Add(hours(Weekday::Fri, 0)))) else {
        panic!("it is added");
    };
    let migration = log.placement.migration(waits).unwrap();
    assert_eq!(
        log.placement.start_refusal(migration, 13),
        Some(Refusal::OutsideHours(Origin::Model))
    );
    let friday_ms = 24 * 3_600_000;
    let later = placement::Migration {
        expires_ms: 2 * friday_ms,
        ..migration.clone()
    };
    assert_eq!(log.placement.start_refusal(&later, friday_ms), None);
    assert!(
        log.placement
            .start_refusal(&later, friday_ms + 3_600_000)
            .is_some(),
        "its end is not in it"
    );
    log.accept(Command::Expire { now_ms: 1_000 });
    let later = |command: Command| match command {
        Command::Propose(proposal) => Command::Propose(Proposal {
            expires_ms: 10_000,
            ..proposal
        }),
        other => other,
    };
    assert_eq!(
        log.refuse(later(wish.clone())),
        Refusal::OutsideHours(Origin::Model)
    );
    let by_hand = later(log.wish(Origin::Manual, 0));
    assert!(
        matches!(log.accept(by_hand), Accepted::Proposed(_)),
        "operators do not wait"
    );
    log.accept(Command::Expire { now_ms: 20_000 });

    // One that is open is enough, and none is no restriction.
    let Accepted::HoursAdded { id: second } = log.accept(change(HoursChange::Add(hours(Weekday::Thu, 0))))
    else {
        panic!("it is added");
    };
    assert!(log.placement.in_hours(20_000));
    log.accept(change(HoursChange::Remove(second)));
    assert!(!log.placement.in_hours(20_000));
    assert_eq!(
        log.refuse(change(HoursChange::Remove(second))),
        Refusal::UnknownHours(second)
    );
    let restarted = decode_state(&encode_state(&log.placement).unwrap()).unwrap();
    assert_eq!(restarted.hours().len(), 1);
    log.accept(change(HoursChange::Remove(id)));
    assert!(log.placement.in_hours(20_000));
    assert!(matches!(
        log.refuse(change(HoursChange::Add(hours(Weekday::Mon, 1_440)))),
        Refusal::Invalid(_)
    ));
    let told = log.told(EventKind::HoursChanged);
    assert!(
        told[0].contains("fri 00:00 UTC for 60 min by Manual: at night"),
        "{told:?}"
    );
}

#[test]
fn the_past_is_compacted_by_age_and_its_totals_are_kept() {
    let mut log = Log::new();
    let first = log.move_home(1_000);
    let told = log.placement.history().events().count();
    let day_ms = 24 * 3_600_000;
    let quiet = |window, now_ms| Command::CloseWindow {
        window: WindowId(window),
        now_ms,
    };
    // Thirty days later all is there; a moment after that only what happened then.
    log.accept(quiet(0, 11 + 30 * day_ms));
    assert!(log.placement.migration(first).is_some());
    let kept = log.placement.history().events().count();
    assert_eq!(kept, 3, "the steps at 11 ms are not too old");
    log.accept(quiet(1, 12 + 30 * day_ms));
    assert_eq!(log.placement.history().events().count(), 2);
    assert_eq!(log.placement.migration(first), None);
    let totals = log.placement.history().totals();
    let dropped = totals.dropped.unwrap();
    assert_eq!(
        (dropped.events, dropped.until_ms),
        (u64::try_from(told).unwrap(), 11)
    );
    assert_eq!(totals.ended_by[&Origin::Model][&MigrationState::Done], 1);
    assert_eq!(totals.events[&EventKind::Proposed], 1);

    // A smaller number is obeyed at once, and 0 is any age.
    let change = log.change(LimitsChange {
        history_age_ms: Some(0),
        history_events: Some(3),
        ..LimitsChange::default()
    });
    log.accept(change);
    assert_eq!(log.placement.history().events().count(), 3);
    log.accept(quiet(2, 900 * day_ms));
    assert_eq!(
        log.placement.history().events().count(),
        3,
        "they are old, and three"
    );
    let none = log.change(LimitsChange {
        history_events: Some(0),
        ..LimitsChange::default()
    });
    assert!(matches!(log.refuse(none), Refusal::Invalid(_)));
}
