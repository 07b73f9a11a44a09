//! How connections are opened and accepted: the network seam of a host.
//!
//! Opening: [`client::TcpConnector`] for a real network, [`DelayedConnector`] around it to emulate
//! the distance between zones on one machine. Accepting: [`incoming`], which caps connections and
//! outlives accept errors. Everything above takes a connector and a stream of connections and cannot
//! tell a real network from an emulated or a simulated one.

mod accept;
mod connect;
mod delayed;
mod distance;
mod lane;

pub use accept::{AcceptOptions, AcceptedIo, Listener, incoming};
pub use connect::DelayedConnector;
pub use delayed::{BUFFERED_BYTES_MAX, DelayedIo};
pub use distance::{AddressZones, DistanceError, read_rtt_matrix};
