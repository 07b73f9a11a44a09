//! What Rust cannot do to a process from outside: disks that lose, lie and fail, clocks that run wrong, and a
//! network that delays, loses and repeats packets.
//!
//! Two C sources come with this crate and are compiled on the machine that runs the harness ([`compile`]):
//! a library that is preloaded into a host ([`FaultControl`]), and a switch between network namespaces
//! ([`SwitchControl`]). Both are steered while they run, through small files that they map and this side writes with
//! plain writes; the layouts stand at the top of `native/faults.c` and `native/switch.c`. Each counts what it did, so
//! that a run can show that the fault it asked for took place.
//!
//! A program that is linked statically, or calls the kernel without the C library, is not touched by the library:
//! [`Counters::attached`] and [`Counters::files`] stay zero then, and a harness must look at them.

mod compile;
mod control_file;
mod faults;
mod preload;
mod switch;

#[cfg(test)]
mod testing;

pub use compile::{Artifact, compile, compile_faults, compile_switch, compiler};
pub use faults::{Clock, Counters, CutMoment, FaultControl, Space, SyncFailure, Syncs, UnsyncedWrites};
pub use preload::library_for;
pub use switch::{DEVICE, Link, LinkCounters, Pair, Port, Reachability, Switch, SwitchControl};
