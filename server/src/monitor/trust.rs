//! What moves were predicted to save, what they saved, and who may propose. Policies are few: at most
//! [`placement::POLICIES_MAX`] an origin.

use placement::{Origin, Placement};

use super::families::Families;

pub(super) fn collect(state: &Placement, into: &mut Families) {
    for origin in Origin::ALL.into_iter().filter(|origin| origin.is_speculative()) {
        let shadow = state.limits().shadow.contains(&origin);
        into.gauge(
            "godwit_origin_in_shadow",
            "1 where an operator has an origin's proposals written down and not carried out.",
            &[("origin", origin.as_str())],
            f64::from(u8::from(shadow)),
        );
        let records = state.trust().records();
        let distrusted =
            records.filter(|(of, policy, _)| *of == origin && state.is_distrusted(origin, policy));
        into.gauge(
            "godwit_policies_distrusted",
            "Policies of an origin that have lost their right to propose: what they predicted did not come true.",
            &[("origin", origin.as_str())],
            distrusted.count() as f64,
        );
    }
    let on_trial = |shadow: bool| {
        let trials = state.trust().trials().values();
        trials.filter(|trial| trial.is_shadow() == shadow).count() as f64
    };
    for (kind, shadow) in [("made", false), ("shadow", true)] {
        into.gauge(
            "godwit_moves_on_trial",
            "Moves whose gain is being measured.",
            &[("kind", kind)],
            on_trial(shadow),
        );
    }
    for (origin, policy, record) in state.trust().records() {
        let labels = [("origin", origin.as_str()), ("policy", policy)];
        for (kind, count) in [("made", record.totals.moves), ("shadow", record.totals.shadows)] {
            into.counter(
                "godwit_moves_judged_total",
                "Moves whose gain was measured and held against what was predicted.",
                &[("origin", origin.as_str()), ("policy", policy), ("kind", kind)],
                count as f64,
            );
        }
        // They fall where moves cost more than they save.
        let gains = [
            (
                "godwit_gain_predicted_seconds",
                "Latency that judged moves were predicted to save, summed over accesses.",
                record.totals.predicted_micros,
            ),
            (
                "godwit_gain_measured_seconds",
                "Latency that they saved, by the accesses that were counted.",
                record.totals.measured_micros,
            ),
        ];
        for (name, help, micros) in gains {
            into.gauge(name, help, &labels, micros as f64 / 1e6);
        }
    }
}
