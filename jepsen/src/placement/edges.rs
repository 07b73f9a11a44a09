//! The states that a migration of each kind may go through.

use super::lines::MigrationKind;
use crate::events::MigrationState::{self, *};

/// Whether `to` may follow `from`. A forced recovery takes the place of what waits for a majority.
pub(super) fn follows(kind: MigrationKind, from: MigrationState, to: MigrationState) -> bool {
    let waits = !matches!(
        kind,
        MigrationKind::Recover | MigrationKind::Split | MigrationKind::Merge
    );
    let superseded = to == Superseded && waits && !from.is_terminal();
    superseded || followers(kind, from).contains(&to)
}

/// What may follow `from`. A table a kind, so that it can be held beside the design.
fn followers(kind: MigrationKind, from: MigrationState) -> &'static [MigrationState] {
    match kind {
        MigrationKind::Move => match from {
            Proposed => &[Adding, Rejected],
            Adding => &[CatchingUp, Aborting],
            CatchingUp => &[Transferring, Switching, Aborting],
            Transferring => &[Switching, Aborting],
            Switching => &[Transferring, Removing, Aborting],
            Removing => &[Cleaning],
            Cleaning => &[Done],
            // A switch that committed after it was given up is carried out.
            Aborting => &[Removing, CleaningDst],
            CleaningDst => &[Aborted],
            _ => &[],
        },
        MigrationKind::Add => match from {
            Proposed => &[Adding, Rejected],
            Adding => &[CatchingUp, Aborting],
            CatchingUp => &[Switching, Aborting],
            Switching => &[Done, Aborting],
            Aborting => &[Done, CleaningDst],
            CleaningDst => &[Aborted],
            _ => &[],
        },
        MigrationKind::Remove => match from {
            Proposed => &[Transferring, Rejected],
            Transferring => &[Switching, Aborted],
            Switching => &[Transferring, Removing],
            Removing => &[Cleaning],
            Cleaning => &[Done],
            _ => &[],
        },
        MigrationKind::Home => match from {
            Proposed => &[Transferring, Rejected],
            Transferring => &[Done, Aborted],
            _ => &[],
        },
        MigrationKind::Split => match from {
            Proposed => &[Splitting, Rejected],
            Splitting => &[Settling],
            Settling => &[Done],
            _ => &[],
        },
        MigrationKind::Merge => match from {
            Proposed => &[Freezing, Rejected],
            Freezing => &[Absorbing, Thawing],
            Absorbing => &[Dissolving],
            Dissolving => &[Done],
            Thawing => &[Aborted],
            _ => &[],
        },
        MigrationKind::Recover => match from {
            Proposed => &[Collecting],
            Collecting => &[Collecting, Reopening],
            // The chosen survivor may die before its data is opened.
            Reopening => &[Collecting, Cleaning],
            Cleaning => &[Cleaning, Done],
            _ => &[],
        },
    }
}
