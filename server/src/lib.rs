//! The `godwit` binary's parts: configuration, command line, network seam, profiler, trace replay and
//! reports.

pub mod cli;
pub mod config;
pub mod net;
pub mod profiler;
pub mod replay;
