//! Calls from host to host: channels to the control service of each address, opened at first use and kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::Connector;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::control::control_client::ControlClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest control message; a shard map of ten thousand shards fits.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why a call to another host has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// The address makes no sense.
    #[error("address {address}: {reason}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host did not answer, or answered with an error.
    #[error("{address}: {reason}")]
    Failed {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Channels to other hosts.
pub struct Channels {
    connector: Arc<dyn Connector>,
    open: Mutex<BTreeMap<String, Channel>>,
}

impl Channels {
    /// No channels yet; they will be opened with `connector`.
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self {
            connector,
            open: Mutex::default(),
        }
    }

    /// The control service at an address. Connects when it is first called, and again after a failure.
    pub fn control(&self, address: &str) -> Result<ControlClient<Channel>, ControlError> {
        let client = ControlClient::new(self.channel(address)?);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A channel to an address.
    pub fn channel(&self, address: &str) -> Result<Channel, ControlError> {
        let mut open = self.open.lock().expect("no panic under this lock");
        if let Some(channel) = open.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.connect(address)?;
        open.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Closes the channel to an address that nobody has any more.
    pub fn forget(&self, address: &str) {
        self.open
            .lock()
            .expect("no panic under this lock")
            .remove(address);
    }

    fn connect(&self, address: &str) -> Result<Channel, ControlError> {
        let endpoint = Endpoint::try_from(format!("http://{address}"))
            .map_err(|e| ControlError::Address {
                address: address.to_owned(),
                reason: e.to_string(),
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(false);
        let connector = self.connector.clone();
        let connect = tower::service_fn(move |uri: Uri| {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            let connecting = connector.connect(&address);
            async move { connecting.await.map(TokioIo::new) }
        });
        Ok(endpoint.connect_with_connector_lazy(connect))
    }
}
