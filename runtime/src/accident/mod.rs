//! What died and why: a report for each accident, in the log and, for a while, on the host.

mod report;
mod shelf;

pub use report::{Report, Words};
pub use shelf::Shelf;
