//! What the figures should be. Ratios are to runc in the same run, on a machine that emulates.

use super::{options::Way, report::Aim};

pub const SECOND_CONTAINER: Aim = Aim::Ratio(2.0);
/// The fiftieth container of a pod to its second.
pub const POD_GROWTH: Aim = Aim::Value(1.2);
pub const EXEC: Aim = Aim::Ratio(2.0);
/// At least nine tenths of what the raw channel carries.
pub const STREAM: Aim = Aim::Ratio(1.0 / 0.9);
/// An exec among many at a time to one alone.
pub const EXECS: Aim = Aim::Ratio(1.2);
/// Milliseconds of questions to the command line, with a hundred containers, and of what it adds to a start.
pub const CLI_STATE: Aim = Aim::Value(5.0);
pub const CLI_LIST: Aim = Aim::Value(50.0);
pub const CLI_ADDS: Aim = Aim::Value(60.0);
/// What filters between link and tap may cost: at least 0.95 of the tap alone.
pub const NETWORK: Aim = Aim::Ratio(1.0 / 0.95);
/// Milliseconds that one interface adds to a start.
pub const INTERFACE: Aim = Aim::Value(40.0);
/// CPU seconds of a start, the guest's own left out.
pub const CPU_OUTSIDE_GUEST: Aim = Aim::Value(0.1);
/// MiB.
pub const SHIM_PSS: Aim = Aim::Value(6.0);
pub const HOST_PSS: Aim = Aim::Value(30.0);
/// In a minute.
pub const SHIM_WAKE_UPS: Aim = Aim::Value(1.0);
/// The last start to the first.
pub const GROWTH: Aim = Aim::Value(1.2);

/// Of a whole container.
pub fn start(way: Way, small_kernel: bool) -> Option<Aim> {
    match way {
        // Booting a distribution's kernel takes what it takes.
        Way::Cold => small_kernel.then_some(Aim::Ratio(8.0)),
        Way::Private | Way::Copied => Some(Aim::Ratio(2.5)),
        Way::Pool => Some(Aim::Ratio(1.5)),
    }
}

/// From QEMU's start to the agent's first answers, in milliseconds.
pub fn first_answer(way: Way) -> Option<Aim> {
    (way != Way::Cold).then_some(Aim::Value(100.0))
}

/// MiB of a guest's pages that are its own.
pub fn guest_pages(way: Way) -> Option<Aim> {
    match way {
        Way::Cold => None,
        Way::Private => Some(Aim::Value(30.0)),
        Way::Copied | Way::Pool => Some(Aim::Value(60.0)),
    }
}
