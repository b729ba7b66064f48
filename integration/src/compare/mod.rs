//! One list of scenarios, carried out by one driver under a real containerd, with runc and with ours: what a client can
//! see must be the same, or differ for a reason that is written down.
//!
//! ```text
//! scenarios (rows of steps) -> session -> driver (client, streams, events) -> outcome per runtime -> verdict
//! ```

mod client;
mod driver;
mod events;
mod messages;
mod plain;
mod row;
mod scenarios;
mod session;
pub mod spec;
mod streams;
mod verdict;

pub use client::Client;
pub use driver::Driver;
pub use row::{INIT, Row, Step, create, exec};
pub use scenarios::all;
pub use session::{Kind, Session};
pub use verdict::{Compared, Verdict, compared, table};
