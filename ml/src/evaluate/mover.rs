//! When a home moves, given an outlook.

use super::outlook::Outlook;

/// A rule of when to move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mover {
    /// Never, from the origin with most accesses.
    Stay,
    /// Only where hosts are crowded, from where accesses cost least: never on plain terms.
    StayCheapest,
    /// To the origin that the shard's number picks, once.
    Spread,
    /// To the origin with the largest share of the next window, if that exceeds the home's by more than this; 0 moves
    /// on any difference.
    Margin(f32),
    /// To the likeliest origin of the next window, once staying is expected to have cost this many times what a move
    /// does since home was last the likeliest: the ski rental.
    Regret(f32),
    /// To where the cheapest walk over the coming windows begins.
    Horizon {
        /// A move is taken to cost this many times what it does: forecasts err, and the best of many looks better than
        /// it is.
        caution: f32,
        /// Windows of the long run that follow those told apart.
        long_run_windows: f32,
    },
}

impl Mover {
    /// The next home of a shard; `regret` is its own of this policy, and zero at the beginning.
    pub(crate) fn choose(
        &self,
        shard: usize,
        home: usize,
        outlook: &Outlook,
        move_cost: f32,
        regret: &mut f32,
    ) -> usize {
        match *self {
            Self::Stay | Self::StayCheapest => home,
            Self::Spread => shard % outlook.origins(),
            Self::Margin(margin) => past_margin(outlook, home, margin),
            Self::Regret(bar) => past_regret(outlook.next(), home, bar * move_cost, regret),
            Self::Horizon {
                caution,
                long_run_windows,
            } => first_step(outlook, home, caution * move_cost, long_run_windows),
        }
    }
}

fn past_margin(outlook: &Outlook, home: usize, margin: f32) -> usize {
    let expected = outlook.next();
    let best = largest(expected, home);
    match expected[best] - expected[home] > margin * outlook.next_accesses() {
        true => best,
        false => home,
    }
}

fn past_regret(expected: &[f32], home: usize, bar: f32, regret: &mut f32) -> usize {
    let best = largest(expected, home);
    *regret += expected[best] - expected[home];
    if best != home && *regret <= bar {
        return home;
    }
    *regret = 0.0;
    best
}

/// Backward over the windows: what the accesses to come are worth from each home, moves on the way paid.
fn first_step(outlook: &Outlook, home: usize, move_cost: f32, long_run_windows: f32) -> usize {
    let mut worth: [f32; ORIGINS_MAX] = [0.0; ORIGINS_MAX];
    let worth = &mut worth[..outlook.origins()];
    let long_run = outlook.long_run().iter();
    worth
        .iter_mut()
        .zip(long_run)
        .for_each(|(worth, demand)| *worth = long_run_windows * demand);
    for window in outlook.windows().rev() {
        let moved = worth.iter().copied().fold(f32::NEG_INFINITY, f32::max) - move_cost;
        worth
            .iter_mut()
            .zip(window)
            .for_each(|(worth, demand)| *worth = worth.max(moved) + demand);
    }
    let best = largest(worth, home);
    match worth[best] - worth[home] > move_cost {
        true => best,
        false => home,
    }
}

/// Most origins that a policy can weigh.
pub const ORIGINS_MAX: usize = 256;

/// The place of the largest; of equals the home, then the first.
fn largest(values: &[f32], home: usize) -> usize {
    (0..values.len()).fold(home, |best, at| if values[at] > values[best] { at } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mover: Mover, home: usize, rows: &[&[f32]], move_cost: f32) -> usize {
        mover.choose(7, home, &Outlook::of(rows), move_cost, &mut 0.0)
    }

    #[test]
    fn a_margin_is_a_difference_of_shares() {
        let rows: [&[f32]; 2] = [&[4.0, 6.0], &[0.0, 0.0]];
        assert_eq!(chosen(Mover::Margin(0.1), 0, &rows, 9.0), 1);
        assert_eq!(chosen(Mover::Margin(0.3), 0, &rows, 9.0), 0);
        let equal: [&[f32]; 2] = [&[1.0, 1.0], &[0.0, 0.0]];
        assert_eq!(chosen(Mover::Margin(0.0), 1, &equal, 9.0), 1);
    }

    #[test]
    fn regret_grows_until_a_move_has_been_paid_for() {
        let outlook = Outlook::of(&[&[1.0, 1.5], &[0.0, 0.0]]);
        let (mut home, mut regret, mut moved) = (0, 0.0, Vec::new());
        for at in 0..4 {
            let next = Mover::Regret(2.0).choose(0, home, &outlook, 0.7, &mut regret);
            moved.extend((next != home).then_some(at));
            home = next;
        }
        assert_eq!((moved, regret), (vec![2], 0.0));
    }

    #[test]
    fn a_walk_moves_where_the_windows_to_come_pay_for_it() {
        let walk = |long_run_windows| Mover::Horizon {
            caution: 1.0,
            long_run_windows,
        };
        // One access more a window: two windows do not pay for a move that costs three, and a long run does.
        let rows: [&[f32]; 3] = [&[0.0, 1.0], &[0.0, 1.0], &[0.0, 1.0]];
        assert_eq!(chosen(walk(0.0), 0, &rows, 3.0), 0);
        assert_eq!(chosen(walk(2.0), 0, &rows, 3.0), 1);
        // An excursion is not worth the way there and back.
        let excursion: [&[f32]; 3] = [&[0.0, 1.5], &[1.0, 0.0], &[1.0, 0.0]];
        assert_eq!(chosen(walk(9.0), 0, &excursion, 1.0), 0);
        assert_eq!(chosen(walk(9.0), 0, &excursion, 0.5), 1);
    }
}
