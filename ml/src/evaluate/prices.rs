//! What room at a host costs: a price for each access served there, high enough that no host is wanted by more than it
//! may serve.
//!
//! These are the multipliers of the hosts' limits. They are found as in online linear programming (Agrawal, Wang and
//! Ye, "A dynamic near-optimal algorithm for online linear programming", 2014): one after the other chooses for itself,
//! prices included, and at once the price of the host that it chose rises, and that of all others falls, so that those
//! that are alike do not all choose the same host. After some passes those leave a crowded host that lose least by it.
//! From there they follow what hosts do serve, window by window (dual ascent), so that the limit holds in the mean over
//! many windows and a busy hour may exceed it.
//!
//! Must hold: a price is never negative, and is zero at a host that nobody is kept from.

/// Passes over all that choose, from no prices at all.
pub(crate) const PASSES: usize = 12;
/// How far a price moves in the first pass, in losses, at a host that is chosen by all that it may serve and as much
/// again.
const FIRST_STEP: f32 = 0.4;
/// Passes after which a step is half as long as the first.
const HALVED_AFTER: f32 = 3.0;
/// How far a price moves after a window of the mean size, in losses, at a host that served twice what it may.
const FOLLOWING_STEP: f32 = 0.015;

/// Prices of hosts under one limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    /// In losses an access.
    by_host: Vec<f32>,
    fair_share_max: Option<f64>,
}

impl Prices {
    /// No host costs anything. A host may serve so many times the mean over hosts, if there is a limit.
    pub fn new(hosts: usize, fair_share_max: Option<f64>) -> Self {
        Self {
            by_host: vec![0.0; hosts],
            fair_share_max,
        }
    }

    /// What an access costs at each host beyond its round trip, in losses.
    pub fn by_host(&self) -> &[f32] {
        &self.by_host
    }

    /// What a host may serve of so much in all.
    pub fn limit(&self, total: f32) -> Option<f32> {
        Some(self.fair_share_max? as f32 * total / self.by_host.len() as f32)
    }

    /// What an access at a host says against whoever chose it: its price, less what an access may pay in the mean.
    /// Whoever serves as much as the limits allow comes to nothing over many accesses, whatever room costs.
    pub(crate) fn excess(&self, host: usize) -> f32 {
        let share = self.limit(1.0).unwrap_or(0.0);
        self.by_host[host] - share * self.by_host.iter().sum::<f32>()
    }

    pub(crate) fn reset(&mut self) {
        self.by_host.fill(0.0);
    }

    /// Takes in what each host would serve at these prices; `pass` counts from 0.
    pub(crate) fn adjust(&mut self, held: &[f32], pass: usize) {
        let total = held.iter().sum::<f32>();
        let Some(limit) = self.limit(total).filter(|limit| *limit > 0.0) else {
            return;
        };
        for (price, held) in self.by_host.iter_mut().zip(held) {
            *price = (*price + step(pass) * (held / limit - 1.0)).max(0.0);
        }
    }

    /// Takes in what each host served in a window that has ended; a window has `mean` accesses.
    pub(crate) fn follow(&mut self, served: &[u64], mean: f32) {
        let total = served.iter().sum::<u64>() as f32;
        let (Some(limit), Some(usual)) = (self.limit(total), self.limit(mean)) else {
            return;
        };
        for (price, served) in self.by_host.iter_mut().zip(served) {
            let over = (*served as f32 - limit) / usual.max(f32::MIN_POSITIVE);
            *price = (*price + FOLLOWING_STEP * over).max(0.0);
        }
    }

    /// Takes in that `load` of `total` has chosen a host; `pass` counts from 0.
    pub fn charge(&mut self, host: usize, load: f32, total: f32, pass: usize) {
        let Some(limit) = self.limit(total).filter(|limit| *limit > 0.0) else {
            return;
        };
        let length = step(pass);
        let fall = length * load / total;
        for price in &mut self.by_host {
            *price = (*price - fall).max(0.0);
        }
        self.by_host[host] += length * load / limit;
    }
}

fn step(pass: usize) -> f32 {
    FIRST_STEP / (1.0 + pass as f32 / HALVED_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_leave_a_crowded_host_that_lose_least() {
        // Forty want to be at host 0, which may serve half of them; the later ones lose more elsewhere.
        let mut prices = Prices::new(2, Some(1.0));
        let mut stay = Vec::new();
        for pass in 0..PASSES {
            stay.clear();
            for at in 0..40usize {
                // In no order of loss.
                let loss = (at * 7 % 40) as f32 / 40.0;
                let host = usize::from(prices.by_host()[0] > loss + prices.by_host()[1]);
                stay.extend((host == 0).then_some(loss));
                prices.charge(host, 1.0, 40.0, pass);
            }
        }
        assert!((18..=22).contains(&stay.len()), "{stay:?}");
        assert!(stay.iter().all(|loss| *loss > 0.4), "{stay:?}");
    }

    #[test]
    fn those_that_are_alike_do_not_all_choose_the_same_host() {
        let mut prices = Prices::new(3, Some(1.2));
        let mut held = [0.0; 3];
        for pass in 0..PASSES {
            held = [0.0; 3];
            for _ in 0..60 {
                let cost = |host: usize| [0.0, 0.3, 0.31][host] + prices.by_host()[host];
                let host = (0..3).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap();
                held[host] += 1.0;
                prices.charge(host, 1.0, 60.0, pass);
            }
        }
        assert!(
            held.iter().all(|held| *held <= 27.0),
            "24 may be at each: {held:?}"
        );
    }

    #[test]
    fn a_price_follows_what_is_served_in_the_mean_over_windows() {
        // Two hosts may serve three quarters of all each; every other window the first is asked for everything.
        let mut prices = Prices::new(2, Some(1.5));
        for _ in 0..50 {
            prices.follow(&[100, 0], 100.0);
            prices.follow(&[50, 50], 100.0);
        }
        assert!(
            prices.by_host()[0] < 1e-5,
            "in the mean it serves no more than it may: {prices:?}"
        );
        for _ in 0..10 {
            prices.follow(&[75, 0], 75.0);
        }
        let expected = 10.0 * FOLLOWING_STEP * (75.0 - 56.25) / 56.25;
        assert!((prices.by_host()[0] - expected).abs() < 1e-5, "{prices:?}");
        assert_eq!(prices.by_host()[1], 0.0);
        // Three quarters of all accesses at the first host are what it may serve.
        let even = 0.75 * prices.excess(0) + 0.25 * prices.excess(1);
        assert!(even.abs() < 1e-6, "{prices:?}");
    }

    #[test]
    fn without_a_limit_nothing_costs() {
        let mut prices = Prices::new(2, None);
        prices.adjust(&[9.0, 0.0], 0);
        prices.follow(&[9, 0], 9.0);
        prices.charge(0, 9.0, 9.0, 0);
        assert_eq!((prices.by_host(), prices.limit(9.0)), ([0.0; 2].as_slice(), None));
    }
}
