//! A simulated disk: files in memory that lose, tear and corrupt what real disks do.
//!
//! Each file has two images: what a reader sees now, and what is durable. Between them lie the
//! writes that no sync has covered. A power cut ([`SimDisk::crash`], or one armed ahead with
//! [`SimDisk::cut_power_after`]) decides each of those on its own: kept, dropped, or torn at
//! [`SECTOR_BYTES`]. So writes are also reordered with respect to each other, as a disk cache does.
//!
//! What must hold: equal seeds and equal calls give equal outcomes; a file handle opened before a
//! crash never works again (its process is dead); a failed sync behaves as Linux's does: its dirty
//! writes are marked clean, so some never reach the disk although readers still see them, and a
//! second sync reports success for data that is gone.
//!
//! Left out: failing reads, and durability of names apart from content (the disk's operations on
//! names are atomic and durable by contract).

mod disk;
mod image;
mod state;

pub use disk::{SimDisk, SimDiskStats, SyncMode};
pub use image::SECTOR_BYTES;
