//! Traces over hosts: what becomes of a mutation that a client traces, from its call to each replica's log entry.
//!
//! The trace's id and the caller's span travel within the mutation, which goes into the shard's log unchanged: so every
//! replica that applies the entry knows the trace it belongs to. Spans are told to a collector by OTLP where the program
//! was built with the feature `otel` and `OTEL_EXPORTER_OTLP_ENDPOINT` names one; otherwise nobody looks.
//! Which calls are traced, the client decides: hosts follow.

#[cfg(feature = "otel")]
mod otel;
#[cfg(not(feature = "otel"))]
mod silent;

#[cfg(feature = "otel")]
pub(crate) use otel::{Root, applied, begin, served, start, stop};
#[cfg(not(feature = "otel"))]
pub(crate) use silent::{Root, applied, begin, served, start, stop};
