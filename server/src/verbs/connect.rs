//! From `--connect` to the SDK's clients. The one place where verbs take chance from the operating system.

use std::{sync::Arc, time::Duration};

use client::{
    AdminClient, AdminError, BoxFuture, Client, ClientConfig, Clock, ConnectError, ReadMode, TraceSource,
};

use super::VerbError;
use crate::cli::ConnectArgs;

/// As whom, from where and for how long keys are read and written.
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) origin: String,
    pub(super) deadline: Duration,
    pub(super) read_mode: ReadMode,
    /// The trace that mutations belong to.
    pub(super) trace: Option<Arc<dyn TraceSource>>,
}

/// A connected client, whose next operation has what is left of the verb's deadline.
pub(super) struct Connected {
    pub(super) client: Client,
    clock: Arc<dyn Clock>,
    ends: Duration,
}

impl Connected {
    /// Connects; connecting counts against the deadline.
    pub(super) async fn open(connect: &ConnectArgs, caller: &Caller) -> Result<Self, VerbError> {
        let mut config = ClientConfig::new(&connect.connect);
        config.user_id = caller.user.clone();
        config.origin = caller.origin.clone();
        config.deadline = caller.deadline;
        config.trace.clone_from(&caller.trace);
        let clock = Arc::clone(&config.clock);
        let ends = clock.now() + caller.deadline;
        let client = Client::connect(config)
            .await
            .map_err(|error| unconnected(connect, error))?;
        let client = client
            .with_deadline(ends.saturating_sub(clock.now()))
            .with_read_mode(caller.read_mode);
        Ok(Self { client, clock, ends })
    }

    /// Completes when the verb's deadline passes.
    pub(super) fn deadline(&self) -> BoxFuture<()> {
        self.clock.sleep(self.ends.saturating_sub(self.clock.now()))
    }
}

/// A connected client whose every operation may take `deadline`; of `cluster_id`, where that is named.
pub(super) async fn client_of(
    connect: &ConnectArgs,
    cluster_id: Option<String>,
    deadline: Duration,
) -> Result<Client, VerbError> {
    let mut config = ClientConfig::new(&connect.connect);
    config.cluster_id = cluster_id;
    config.deadline = deadline;
    Client::connect(config)
        .await
        .map_err(|error| unconnected(connect, error))
}

/// A client for operators' calls, to any host that answers.
pub(super) fn operator(connect: &ConnectArgs) -> Result<AdminClient, VerbError> {
    operator_of(&connect.connect)
}

/// A client for operators' calls to the first host of the list alone.
pub(super) fn operator_of_first(connect: &ConnectArgs) -> Result<AdminClient, VerbError> {
    operator_of(connect.connect.get(..1).unwrap_or_default())
}

/// The addresses as messages name them.
pub(super) fn addresses(connect: &ConnectArgs) -> String {
    connect.connect.join(", ")
}

/// What an operator's call to any host failed with; `look` names the verb that shows whether it took effect.
pub(super) fn failed(connect: &ConnectArgs, look: &'static str) -> impl FnOnce(AdminError) -> VerbError {
    let addresses = addresses(connect);
    move |error| match error {
        AdminError::Unreachable { cause } => VerbError::Unreachable { addresses, cause },
        AdminError::UnknownOutcome { cause } => VerbError::Unconfirmed { cause, look },
        source => VerbError::Admin { addresses, source },
    }
}

fn operator_of(addresses: &[String]) -> Result<AdminClient, VerbError> {
    AdminClient::new(ClientConfig::new(addresses)).map_err(|source| VerbError::Admin {
        addresses: addresses.join(", "),
        source,
    })
}

fn unconnected(connect: &ConnectArgs, error: ConnectError) -> VerbError {
    let addresses = addresses(connect);
    match error {
        ConnectError::Unreachable { cause, .. } => VerbError::Unreachable { addresses, cause },
        source => VerbError::Connect { addresses, source },
    }
}
