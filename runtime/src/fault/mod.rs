//! Named points before and after each step that changes the host or talks to the guest, at which a test lets things go
//! wrong.
//!
//! Only a build with the feature `faults` has them; in every other build these functions are nothing. What happens where
//! is written in a folder that the environment names, see [`plan`].

#[cfg(feature = "faults")]
pub mod plan;

use std::time::Duration;

use crate::error::Result;

/// Where a step of ours stands when a point is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// Passes the point `group.step.side`. An error is what the test wants the step to end with.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_group: &str, _step: &str, _side: Side) -> Result<()> {
    Ok(())
}

/// Passes the point `group.step.side`. An error is what the test wants the step to end with.
#[cfg(feature = "faults")]
pub fn point(group: &str, step: &str, side: Side) -> Result<()> {
    let side = if side == Side::Before { "before" } else { "after" };
    plan::pass(&format!("{group}.{step}.{side}"), step)
}

/// Tells of a helper process, which a test may kill.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn started(_role: &str, _pid: u32) {}

/// Tells of a helper process, which a test may kill.
#[cfg(feature = "faults")]
pub fn started(role: &str, pid: u32) {
    plan::started(role, pid);
}

/// How long to wait for the guest; less where a test lets it fall silent.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn patience(usual: Duration) -> Duration {
    usual
}

/// How long to wait for the guest; less where a test lets it fall silent.
#[cfg(feature = "faults")]
pub fn patience(usual: Duration) -> Duration {
    plan::patience(usual)
}
