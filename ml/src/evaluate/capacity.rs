//! Keeps what hosts are expected to serve below a limit.
//!
//! Everyone first chooses as if alone. Where a host would then be over its limit, those leave it that lose least by
//! leaving, for each access that leaves with them; one that has yet to move there loses only the gain of the move.
//!
//! What everyone brings is an estimate. A host counts as crowded when it is over its limit by more than chance explains,
//! or those near the limit would come and go with the noise; then it is relieved down to the limit.
//!
//! Must hold: no host is over the limit by more than that afterwards, unless everyone on it has no other place with room.

/// Standard deviations of a host's load by which it must be over its limit.
const DEVIATIONS: f32 = 2.0;

/// What is to be placed: loads, where each would like to be, and what it loses elsewhere.
pub(crate) struct Fitting<'a> {
    /// What each is expected to bring.
    pub loads: &'a [f32],
    /// What each host may take.
    pub limits: &'a [f32],
    /// The variance of an estimated load, as a part of the load; 0 of loads that are known.
    pub variance_part: f32,
}

impl Fitting<'_> {
    /// Moves from crowded hosts what loses least; `loss` is what one has at a host, or none where it may not be. Returns
    /// how many were moved.
    pub(crate) fn fit(&self, places: &mut [usize], loss: impl Fn(usize, usize) -> Option<f32>) -> usize {
        let mut held = vec![0.0f32; self.limits.len()];
        places
            .iter()
            .zip(self.loads)
            .for_each(|(host, load)| held[*host] += load);
        let is_crowded = |host: &usize| {
            let held: f32 = held[*host];
            held > self.limits[*host] + DEVIATIONS * (held * self.variance_part).sqrt()
        };
        let mut crowded: Vec<usize> = (0..self.limits.len()).filter(is_crowded).collect();
        crowded.sort_by(|a, b| held[*b].total_cmp(&held[*a]));
        crowded
            .into_iter()
            .map(|host| self.relieve(host, places, &mut held, &loss))
            .sum()
    }

    fn relieve(
        &self,
        host: usize,
        places: &mut [usize],
        held: &mut [f32],
        loss: &impl Fn(usize, usize) -> Option<f32>,
    ) -> usize {
        let mut leaving: Vec<(f32, usize)> = (0..places.len())
            .filter(|at| places[*at] == host && self.loads[*at] > 0.0)
            .filter_map(|at| {
                let (_, more) = self.elsewhere(at, host, held, loss)?;
                Some((more / self.loads[at], at))
            })
            .collect();
        leaving.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut moved = 0;
        for (_, at) in leaving {
            if held[host] <= self.limits[host] {
                break;
            }
            // Others may have taken the room that it had when it was put in line.
            let Some((to, _)) = self.elsewhere(at, host, held, loss) else {
                continue;
            };
            held[host] -= self.loads[at];
            held[to] += self.loads[at];
            places[at] = to;
            moved += 1;
        }
        moved
    }

    /// The best other host with room, and what is lost there beyond what is at `host`.
    fn elsewhere(
        &self,
        at: usize,
        host: usize,
        held: &[f32],
        loss: &impl Fn(usize, usize) -> Option<f32>,
    ) -> Option<(usize, f32)> {
        let here = loss(at, host).unwrap_or(0.0);
        let room = |to: &usize| *to != host && held[*to] + self.loads[at] <= self.limits[*to];
        (0..self.limits.len())
            .filter(room)
            .filter_map(|to| Some((to, loss(at, to)? - here)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_leave_that_lose_least() {
        let fitting = Fitting {
            loads: &[4.0, 4.0, 4.0, 1.0],
            limits: &[8.0; 3],
            variance_part: 0.0,
        };
        let mut places = [0, 0, 0, 1];
        let losses = [[0.0, 9.0, 9.0], [0.0, 5.0, 2.0], [0.0, 3.0, 4.0], [0.0, 0.0, 0.0]];
        let moved = fitting.fit(&mut places, |at, host| Some(losses[at][host]));
        assert_eq!((moved, places), (1, [0, 2, 0, 1]));
    }

    #[test]
    fn a_host_over_its_limit_by_chance_is_left_alone() {
        let mut fitting = Fitting {
            loads: &[4.0, 4.0, 1.0],
            limits: &[8.0; 2],
            variance_part: 0.25,
        };
        let mut places = [0, 0, 0];
        assert_eq!(
            (fitting.fit(&mut places, |_, _| Some(0.0)), places),
            (0, [0, 0, 0])
        );
        fitting.variance_part = 0.01;
        assert_eq!(fitting.fit(&mut places, |_, _| Some(0.0)), 1);
    }

    #[test]
    fn nobody_goes_where_it_may_not_be_or_where_there_is_no_room() {
        let fitting = Fitting {
            loads: &[3.0, 3.0, 3.0],
            limits: &[4.0; 3],
            variance_part: 0.0,
        };
        let mut places = [0, 0, 2];
        let moved = fitting.fit(&mut places, |_, host| (host != 1).then_some(0.0));
        assert_eq!(
            (moved, places),
            (0, [0, 0, 2]),
            "over the limit, for want of a place"
        );
    }
}
