//! containerd killed at each step of a container's life and started again, and other releases of it started over running
//! containers: nothing is lost, nothing is kept, and what was cut off can be repeated.

mod forgotten;
mod pods;
mod steps;
mod upgrades;

use std::path::PathBuf;

use integration::environment::Environment;

/// Where a release's programs are: on `PATH` for Debian's, which is none. `None` if they are not there.
fn programs(env: &Environment, release: Option<&str>) -> Option<Option<PathBuf>> {
    release.map_or(Some(None), |release| env.containerd(release).map(Some))
}
