//! Counts of what is left to be linearized, by what it demands and does.

use super::model::{Demand, Effect, Model, Step, Value, Version};

/// The counts.
#[derive(Default)]
pub(super) struct Left {
    /// Certain operations.
    pub(super) certain: usize,
    /// Certain operations that keep the state.
    pub(super) reads: u32,
    /// Certain operations that demand that the state is not something.
    pub(super) nots: u32,
    /// Certain operations whose reply says the version they made.
    pub(super) versions: u32,
    /// By value.
    values: Vec<OfValue>,
}

/// What is left concerning one value.
#[derive(Clone, Copy, Default)]
pub(super) struct OfValue {
    /// Certain operations that demand it.
    pub(super) needed: u32,
    /// All that demand it.
    pub(super) wanted: u32,
    /// All that set it.
    pub(super) makers: u32,
}

impl Left {
    /// All of `model`.
    pub(super) fn new(model: &Model) -> Self {
        let mut left = Self {
            values: vec![OfValue::default(); model.values],
            ..Self::default()
        };
        model.certain.iter().for_each(|step| left.count(step, true, true));
        model
            .unknown
            .iter()
            .for_each(|step| left.count(step, false, true));
        left
    }

    /// What is left concerning `value`; nothing, for one that the search itself made.
    pub(super) fn of(&self, value: Value) -> OfValue {
        self.values.get(value as usize).copied().unwrap_or_default()
    }

    /// Counts an operation in, or out.
    pub(super) fn count(&mut self, step: &Step, certain: bool, comes: bool) {
        let bump = |count: &mut u32| *count = if comes { *count + 1 } else { *count - 1 };
        if let Demand::Is(value) = step.demand {
            let of = &mut self.values[value as usize];
            bump(&mut of.wanted);
            if certain {
                bump(&mut of.needed);
            }
        }
        if let Effect::Set(value) = step.effect {
            bump(&mut self.values[value as usize].makers);
        }
        if !certain {
            return;
        }
        self.certain = if comes { self.certain + 1 } else { self.certain - 1 };
        if step.effect == Effect::Keep {
            bump(&mut self.reads);
        }
        if matches!(step.demand, Demand::Not(_)) {
            bump(&mut self.nots);
        }
        if matches!(step.version, Version::Made(_)) {
            bump(&mut self.versions);
        }
    }
}
