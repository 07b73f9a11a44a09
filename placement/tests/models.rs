//! Models in the placement log: kept, made active, rolled back, and bounded in number.

mod log;

use log::{Log, bootstrap};
use placement::{
    Accepted, Command, EventKind, Limits, MODEL_BYTES_MAX, MODELS_MAX, ModelChange, ModelRecord, Origin,
    Refusal, decode_state, encode_state,
};

impl Log {
    fn new() -> Self {
        let mut log = Self::default();
        log.accept(bootstrap(1, 1, Limits::default()));
        log
    }

    fn change(&mut self, change: ModelChange) -> Result<Accepted, Refusal> {
        let command = Command::ChangeModel {
            change,
            origin: Origin::Manual,
            reason: "test".to_owned(),
            now_ms: self.index * 10,
        };
        self.apply(command).into_result()
    }

    fn keep(&mut self, version: &str, activate: bool) -> Result<Accepted, Refusal> {
        let record = Box::new(record(version, "weights"));
        self.change(ModelChange::Keep { record, activate })
    }

    fn activate(&mut self, version: &str) -> Result<Accepted, Refusal> {
        let version = version.to_owned();
        self.change(ModelChange::Activate { version })
    }

    fn active(&self) -> Option<&str> {
        let active = self.placement.models().active();
        active.map(|kept| kept.record.version.as_str())
    }
}

fn record(version: &str, file: &str) -> ModelRecord {
    ModelRecord {
        version: version.to_owned(),
        from_ms: 0,
        to_ms: 1_000,
        window_ms: 100,
        nll_micronats: 900_000,
        ewma_nll_micronats: 1_000_000,
        ece_ppm: 20_000,
        file: file.to_owned(),
    }
}

#[test]
fn a_model_is_kept_made_active_and_rolled_back() {
    let mut log = Log::new();
    assert_eq!(log.active(), None);
    assert!(matches!(
        log.change(ModelChange::Rollback),
        Err(Refusal::Invalid(_))
    ));
    assert_eq!(log.keep("one", false), Ok(Accepted::Applied));
    assert_eq!(log.active(), None, "kept is not active");
    assert_eq!(log.activate("two"), Err(Refusal::UnknownModel("two".to_owned())));
    assert_eq!(log.activate("one"), Ok(Accepted::Applied));
    assert_eq!(log.activate("one"), Ok(Accepted::Unchanged));
    assert_eq!(log.keep("two", true), Ok(Accepted::Applied));
    assert_eq!(
        (log.active(), log.placement.models().next_rollback()),
        (Some("two"), Some("one"))
    );

    let state = encode_state(&log.placement).unwrap();
    assert_eq!(
        decode_state(&state).unwrap(),
        log.placement,
        "it survives a snapshot"
    );

    assert_eq!(log.change(ModelChange::Rollback), Ok(Accepted::Applied));
    assert_eq!(log.active(), Some("one"));
    assert!(
        log.change(ModelChange::Rollback).is_err(),
        "nothing was active before it"
    );
    assert_eq!(
        log.activate("two"),
        Ok(Accepted::Applied),
        "what was rolled back is still kept"
    );
    let events = log.placement.history().events();
    let told: Vec<_> = events
        .filter(|event| event.what == EventKind::ModelChanged)
        .map(|event| event.detail.clone())
        .collect();
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(
        told[4].starts_with("one forecasts again, instead of two"),
        "{told:?}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut log = Log::new();
    log.keep("one", true).unwrap();
    let before = log.placement.models().clone();
    let too_large = "x".repeat(MODEL_BYTES_MAX + 1);
    let no_span = ModelRecord {
        to_ms: 0,
        ..record("two", "")
    };
    for record in [
        record("", ""),
        record("two", &too_large),
        no_span,
        record("one", "other weights"),
    ] {
        let record = Box::new(record);
        let refused = log.change(ModelChange::Keep {
            record,
            activate: true,
        });
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    }
    assert_eq!(log.placement.models(), &before);
    assert_eq!(log.keep("one", true), Ok(Accepted::Unchanged), "the same again");
}

#[test]
fn models_are_bounded_and_the_active_one_and_the_way_back_stay() {
    let mut log = Log::new();
    log.keep("first", true).unwrap();
    log.keep("second", true).unwrap();
    for number in 0..3 * MODELS_MAX {
        log.keep(&format!("idle {number:02}"), false).unwrap();
        assert!(log.placement.models().kept().len() <= MODELS_MAX);
    }
    log.change(ModelChange::Rollback).unwrap();
    assert_eq!(log.active(), Some("first"));
    let kept = log.placement.models().kept();
    assert!(kept.contains_key("idle 23") && !kept.contains_key("idle 00"));
    // However many were active, there is room for one more.
    for number in 0..3 * MODELS_MAX {
        log.keep(&format!("next {number:02}"), true).unwrap();
        assert!(log.placement.models().kept().len() <= MODELS_MAX);
    }
    let mut back = 0;
    while log.change(ModelChange::Rollback).is_ok() {
        assert!(log.active().is_some(), "what is active is kept");
        back += 1;
    }
    assert!(back >= 3, "{back}");
}
