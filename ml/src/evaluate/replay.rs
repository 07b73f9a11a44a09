//! Scores a policy offline: replays windows that have passed and asks before each where every shard's home should be.
//!
//! A home may be any of a shard's voters, which stay as the training part chose them: homes are the fast level, voters
//! the slow one. What a policy pays is measured on the window's own accesses, which it has not seen.
//!
//! Must hold: before window w a forecaster has observed windows before w only, and with a lead of n windows, only those
//! before w - n. [`replay_oracle`] alone looks at the window itself.
//! Left out: the time a move takes. A lead of one window stands for it.

use std::collections::BTreeMap;

use placement::planner::{PPM, ShardForecast};
use placement::{ShardId, WindowId, Zone};

use super::voters::Voters;
use crate::forecaster::Forecaster;
use crate::window::{OriginCount, WindowCounts};

/// What a home is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The zone with the largest share.
    MostLikely,
    /// The least expected round trip from the origins to the home.
    ExpectedRtt,
    /// The least expected round trip to the home and from it to its nearest majority of voters.
    ExpectedQuorumRtt,
}

/// How to replay.
#[derive(Clone, Debug)]
pub struct ReplayConfig<'a> {
    /// The zones; their order is that of the matrix.
    pub zones: &'a [Zone],
    /// Round trips in microseconds, origin by home.
    pub rtt_micros: &'a [Vec<u64>],
    /// Where homes may be.
    pub voters: &'a Voters,
    /// What a home is chosen by.
    pub objective: Objective,
    /// The first window that is scored; those before it are only observed.
    pub from: WindowId,
    /// The first window after the scored ones.
    pub to: WindowId,
    /// How many windows more must have ended before a forecast is asked for.
    pub lead_windows: u64,
    /// What staying must have cost before a home moves; 0 moves at once. By [`Objective::MostLikely`] in thousandths of
    /// a remote access, by the others in microseconds summed over accesses.
    pub move_cost: u64,
}

/// What a policy got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayScore {
    /// Accesses scored.
    pub accesses: u64,
    /// Of them, those from the zone of their shard's home.
    pub local: u64,
    /// Sum of the round trips from origin to home.
    pub rtt_micros: u64,
    /// Sum of the homes' round trips to their nearest majority.
    pub quorum_micros: u64,
    /// Times that a home moved.
    pub home_moves: u64,
}

impl ReplayScore {
    /// The share of accesses from the zone of their shard's home.
    pub fn local_access_ratio(&self) -> f64 {
        self.local as f64 / self.accesses.max(1) as f64
    }

    /// The mean round trip from origin to home, in microseconds.
    pub fn mean_rtt_micros(&self) -> f64 {
        self.rtt_micros as f64 / self.accesses.max(1) as f64
    }

    /// The mean round trip from origin to home and from there to its nearest majority, in microseconds.
    pub fn mean_quorum_rtt_micros(&self) -> f64 {
        (self.rtt_micros + self.quorum_micros) as f64 / self.accesses.max(1) as f64
    }
}

/// Scores a forecaster on consecutive windows.
pub fn replay(
    forecaster: &mut dyn Forecaster,
    windows: &[WindowCounts],
    config: &ReplayConfig<'_>,
) -> ReplayScore {
    let mut homes = Homes::new(config.clone());
    let mut observed = 0;
    for window in windows {
        while observed < windows.len() && windows[observed].window.0 + config.lead_windows < window.window.0 {
            forecaster.observe(&windows[observed]);
            observed += 1;
        }
        if window.window >= config.from && window.window < config.to {
            let forecast = forecaster.forecast(window.window);
            forecast
                .shards
                .iter()
                .for_each(|(shard, forecast)| homes.choose(*shard, forecast));
            homes.serve(window);
        }
    }
    homes.score()
}

/// Scores the best home of each shard in each window, knowing the window.
pub fn replay_oracle(windows: &[WindowCounts], config: &ReplayConfig<'_>) -> ReplayScore {
    let mut homes = Homes::new(config.clone());
    for window in windows
        .iter()
        .filter(|window| window.window >= config.from && window.window < config.to)
    {
        for (shard, by_zone) in &window.shards {
            homes.choose(*shard, &hindsight(by_zone));
        }
        homes.serve(window);
    }
    homes.score()
}

fn hindsight(by_zone: &BTreeMap<Zone, OriginCount>) -> ShardForecast {
    let total: u64 = by_zone.values().map(OriginCount::accesses).sum();
    let ppm = |count: &OriginCount| (count.accesses() * u64::from(PPM) / total.max(1)) as u32;
    ShardForecast {
        reads_milli: total * 1000,
        writes_milli: 0,
        shares: by_zone
            .iter()
            .map(|(zone, count)| (zone.clone(), ppm(count)))
            .collect(),
        uncertainty_ppm: 0,
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Home {
    zone: usize,
    /// What the best alternative would have saved since the last move, in the unit of the move cost.
    regret: u64,
}

/// Where homes are, and what they have served.
pub(super) struct Homes<'a> {
    config: ReplayConfig<'a>,
    homes: BTreeMap<ShardId, Home>,
    score: ReplayScore,
}

impl<'a> Homes<'a> {
    pub(super) fn new(config: ReplayConfig<'a>) -> Self {
        Self {
            config,
            homes: BTreeMap::new(),
            score: ReplayScore::default(),
        }
    }

    /// What they got so far.
    pub(super) fn score(&self) -> ReplayScore {
        self.score
    }

    fn home_of(&self, shard: ShardId) -> Home {
        let first = self.config.voters.of(shard).first().copied().unwrap_or(0);
        self.homes.get(&shard).copied().unwrap_or(Home {
            zone: first,
            regret: 0,
        })
    }

    /// Moves a shard's home to the best of its voters, once staying has cost enough. Of equals the present one stays.
    pub(super) fn choose(&mut self, shard: ShardId, forecast: &ShardForecast) {
        let mut home = self.home_of(shard);
        let voters = self.config.voters.of(shard);
        let share_of = |zone| u64::from(forecast.shares.of(zone));
        let shares: Vec<u64> = self.config.zones.iter().map(share_of).collect();
        let cost = |zone: usize| self.cost_ppm(&shares, zone, voters);
        let cheapest = |zone: &usize| (cost(*zone), *zone != home.zone, *zone);
        let best = voters.iter().map(cheapest).min();
        let staying = cost(home.zone);
        let Some((cheaper, _, best)) = best.filter(|(cost, ..)| *cost < staying) else {
            home.regret = 0;
            self.homes.insert(shard, home);
            return;
        };
        home.regret = home
            .regret
            .saturating_add(self.saved(staying - cheaper, forecast));
        if home.regret >= self.config.move_cost {
            home = Home {
                zone: best,
                regret: 0,
            };
            self.score.home_moves += 1;
        }
        self.homes.insert(shard, home);
    }

    /// What a cost lower by `per_access_ppm` saves over a window, in the unit of the move cost.
    fn saved(&self, per_access_ppm: u64, forecast: &ShardForecast) -> u64 {
        let milli = u128::from(per_access_ppm) * u128::from(forecast.accesses_milli()) / u128::from(PPM);
        let unit = if self.config.objective == Objective::MostLikely {
            1
        } else {
            1000
        };
        u64::try_from(milli / unit).unwrap_or(u64::MAX)
    }

    /// The cost of an access with this home, times one million; by [`Objective::MostLikely`] the share that is remote.
    /// Shares are parts per million, by the zones' numbers.
    fn cost_ppm(&self, shares: &[u64], home: usize, voters: &[usize]) -> u64 {
        let rtt_ppm = || {
            let travelling = shares.iter().zip(self.config.rtt_micros);
            travelling.map(|(share, rtt)| share * rtt[home]).sum()
        };
        match self.config.objective {
            Objective::MostLikely => u64::from(PPM) - shares[home].min(u64::from(PPM)),
            Objective::ExpectedRtt => rtt_ppm(),
            Objective::ExpectedQuorumRtt => {
                let travelling: u64 = rtt_ppm();
                travelling + u64::from(PPM) * self.quorum_micros(home, voters)
            }
        }
    }

    /// The round trip to the nearest majority, the home itself included.
    fn quorum_micros(&self, home: usize, voters: &[usize]) -> u64 {
        let mut others: Vec<u64> = voters
            .iter()
            .filter(|zone| **zone != home)
            .map(|zone| self.config.rtt_micros[home][*zone])
            .collect();
        others.sort_unstable();
        (voters.len() / 2)
            .checked_sub(1)
            .and_then(|at| others.get(at))
            .copied()
            .unwrap_or(0)
    }

    /// Counts what a window's accesses cost.
    pub(super) fn serve(&mut self, window: &WindowCounts) {
        for (shard, by_zone) in &window.shards {
            let home = self.home_of(*shard).zone;
            let quorum = self.quorum_micros(home, self.config.voters.of(*shard));
            for (zone, count) in by_zone {
                self.serve_origin(zone, count.accesses(), home, quorum);
            }
        }
    }

    fn serve_origin(&mut self, zone: &Zone, accesses: u64, home: usize, quorum: u64) {
        let Some(origin) = self.config.zones.iter().position(|known| known == zone) else {
            return;
        };
        self.score.accesses += accesses;
        self.score.local += if origin == home { accesses } else { 0 };
        self.score.rtt_micros += accesses * self.config.rtt_micros[origin][home];
        self.score.quorum_micros += accesses * quorum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baselines::{LastWindow, RuleForecaster};

    const SHARD: ShardId = ShardId(1);

    fn zones() -> Vec<Zone> {
        ["a", "b", "c"].map(Zone::from).to_vec()
    }

    fn rtt() -> Vec<Vec<u64>> {
        vec![vec![1, 10, 100], vec![10, 1, 50], vec![100, 50, 1]]
    }

    /// Windows 0, 1, 2, ... with two accesses each from the named zone.
    fn windows(zones: &[&str]) -> Vec<WindowCounts> {
        let window = |(at, zone): (usize, &&str)| {
            let mut counts = WindowCounts::empty(WindowId(at as u64));
            counts.count(SHARD, &Zone::from(*zone), 1, 1);
            counts
        };
        zones.iter().enumerate().map(window).collect()
    }

    fn score(windows: &[WindowCounts], voters: &Voters, lead_windows: u64, move_cost: u64) -> ReplayScore {
        let (zones, rtt) = (zones(), rtt());
        let config = ReplayConfig {
            zones: &zones,
            rtt_micros: &rtt,
            voters,
            objective: Objective::MostLikely,
            from: WindowId(2),
            to: WindowId(100),
            lead_windows,
            move_cost,
        };
        replay(
            &mut RuleForecaster::new("last-window", &zones, LastWindow::default()),
            windows,
            &config,
        )
    }

    #[test]
    fn the_last_window_is_right_when_nothing_moves_and_wrong_on_alternation() {
        let everywhere = Voters::everywhere(3);
        let still = score(&windows(&["a"; 10]), &everywhere, 0, 0);
        assert_eq!(
            (still.accesses, still.local, still.rtt_micros, still.home_moves),
            (16, 16, 16, 0)
        );
        let alternating = score(
            &windows(&["a", "b", "a", "b", "a", "b", "a", "b"]),
            &everywhere,
            0,
            0,
        );
        assert_eq!((alternating.local, alternating.rtt_micros), (0, 120));
        let led = score(
            &windows(&["a", "b", "a", "b", "a", "b", "a", "b"]),
            &everywhere,
            1,
            0,
        );
        assert_eq!(led.local, 12);
    }

    #[test]
    fn homes_stay_among_the_voters() {
        let training = windows(&["a", "a", "b", "b", "b", "c"]);
        let voters = Voters::busiest(&training, &zones(), 2);
        assert_eq!(voters.of(SHARD), [1, 0]);
        assert_eq!(Voters::nearest(&training, &zones(), &rtt(), 1).of(SHARD), [1]);
        let far = score(&windows(&["c"; 6]), &voters, 0, 0);
        assert_eq!((far.local, far.rtt_micros), (0, 8 * 50));
    }

    #[test]
    fn a_move_waits_until_staying_has_cost_as_much() {
        let log = windows(&["a", "a", "b", "b", "b", "b", "b", "b"]);
        let moves = |cost| score(&log, &Voters::everywhere(3), 0, cost).local;
        assert_eq!((moves(0), moves(5_000), moves(1_000_000)), (10, 6, 0));
    }

    #[test]
    fn the_oracle_is_never_remote_with_voters_everywhere() {
        let (zones, rtt, voters) = (zones(), rtt(), Voters::everywhere(3));
        let config = ReplayConfig {
            zones: &zones,
            rtt_micros: &rtt,
            voters: &voters,
            objective: Objective::ExpectedRtt,
            from: WindowId(0),
            to: WindowId(4),
            lead_windows: 0,
            move_cost: 0,
        };
        let score = replay_oracle(&windows(&["a", "b", "c", "a", "b"]), &config);
        assert_eq!((score.accesses, score.local, score.rtt_micros), (8, 8, 8));
        assert_eq!(score.quorum_micros, 2 * (10 + 10 + 50 + 10));
    }
}
