//! A program without traces: every call does nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::TraceSource;
use client::proto::Request;

/// There is no span.
pub(crate) enum Root {}

impl Root {
    pub(crate) fn source(&self) -> Arc<dyn TraceSource> {
        match *self {}
    }

    pub(crate) fn end(self) {
        match self {}
    }
}

pub(crate) fn start(_service: &str, _instance: &str) -> Result<(), String> {
    Ok(())
}

pub(crate) async fn stop() {}

pub(crate) fn begin(_name: &'static str) -> Option<Root> {
    None
}

pub(crate) fn served(_request: &Request, _took: Duration) {}

pub(crate) fn applied<T, E>(
    _payload: Option<&Bytes>,
    _index: u64,
    apply: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    apply()
}
