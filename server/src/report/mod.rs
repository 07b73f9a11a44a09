//! What the demo measured: as JSON, as a table for the terminal, as one HTML page with plots.
//!
//! [`DemoReport`] is the only source of all three; nothing is computed while rendering but layout, so the
//! page can be made again from the JSON. The page is one file without scripts or outside resources.

pub mod html;
pub mod plot;

mod figures;
mod page;
mod table;
mod verdict;

pub use figures::{
    Catalogue, DemoReport, Details, HeadRoom, PolicyResult, ReplicaMoves, Settings, WindowPoint, WritePauses,
};
pub use page::render_page;
pub use table::{head_room_table, policy_table};
pub use verdict::Verdict;
