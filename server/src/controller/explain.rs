//! What the balancer would do, and why, without doing it.
//!
//! The planner is asked with the forecast, the memory and the limits that the next plan would have; what it answers is told
//! and thrown away.

use placement::planner::{Account, Forecast, Mode, Plan, account, plan};
use placement::{ShardId, WindowId};

use super::Controller;
use super::balance::{BalanceError, Balancer};
use crate::config::PolicyName;

/// What was judged, and by which policy; `None`: by none, so that no accesses are expected.
pub(crate) struct Outlook<T> {
    pub(crate) policy: Option<PolicyName>,
    pub(crate) model: String,
    pub(crate) judged: T,
}

impl Controller {
    /// What would be proposed for the window that is open.
    pub(crate) async fn dry_run(&self, replicas: bool) -> Result<Outlook<Plan>, BalanceError> {
        let balancer = self.balancer.lock().await;
        let mode = match replicas {
            true => Mode::HomesAndReplicas,
            false => Mode::Homes,
        };
        self.look_ahead(&balancer, |policy, forecast| {
            self.judge(&balancer, policy, forecast, mode, plan)
        })
    }

    /// What a shard's places are worth, and what would be proposed; `None` for a shard that is not known, or whose home is
    /// not.
    pub(crate) async fn explain(
        &self,
        shard: ShardId,
    ) -> Result<Outlook<Option<(Account, Plan)>>, BalanceError> {
        let balancer = self.balancer.lock().await;
        self.look_ahead(&balancer, |policy, forecast| {
            let mode = Mode::HomesAndReplicas;
            self.judge(&balancer, policy, forecast, mode, |input, memory| {
                Some((account(input, memory, shard)?, plan(input, memory)))
            })
        })
    }

    fn look_ahead<T>(
        &self,
        balancer: &Balancer,
        judge: impl FnOnce(PolicyName, &Forecast) -> Result<T, BalanceError>,
    ) -> Result<Outlook<T>, BalanceError> {
        let window = self.next_window(balancer);
        let forecaster = balancer.forecaster.as_ref();
        let forecast = forecaster.map(|forecaster| forecaster.forecast(window));
        let policy = balancer.policy.filter(|_| forecast.is_some());
        let forecast = forecast.unwrap_or_else(|| Forecast {
            window,
            ..Forecast::default()
        });
        // Without a forecast nothing is gained anywhere, whatever the options.
        let by = policy.unwrap_or(PolicyName::StaticMajority);
        Ok(Outlook {
            policy,
            judged: judge(by, &forecast)?,
            model: forecast.model,
        })
    }

    /// The window that was planned last: until it ends, that is the one that a new plan would be for.
    fn next_window(&self, balancer: &Balancer) -> WindowId {
        let by_clock = WindowId(self.clock.now_ms() / self.host.config().profiler.window_ms);
        balancer.memory.window().unwrap_or(by_clock)
    }
}
