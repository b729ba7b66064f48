//! The folder that says what goes wrong where, see `runtime::fault::plan`.

use std::{fs, path::PathBuf, time::Duration};

use super::{Fault, Point};

/// The folder.
pub struct Plan {
    dir: PathBuf,
}

impl Plan {
    pub fn in_dir(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// For how long a guest is waited for at most.
    pub fn set_patience(&self, patience: Duration) {
        fs::write(self.dir.join("patience"), patience.as_secs().to_string()).expect("write the patience");
    }

    /// From now on this goes wrong there.
    pub fn set(&self, point: &Point, fault: Fault) {
        let plan = format!("{} {} {}", point.name, point.count, fault.action());
        fs::write(self.dir.join("plan"), plan).expect("write the plan");
    }

    /// From now on the step stands still there, until [`Self::go`].
    pub fn hold(&self, point: &Point) {
        let plan = format!("{} {} hold", point.name, point.count);
        fs::write(self.dir.join("plan"), plan).expect("write the plan");
    }

    /// What stands still goes on.
    pub fn go(&self) {
        fs::write(self.dir.join("go"), "").expect("let it go on");
    }

    /// Nothing goes wrong any more, and nothing has.
    pub fn clear(&self) {
        for file in ["plan", "trace", "fired", "go"] {
            let _ = fs::remove_file(self.dir.join(file)); // It may never have been there.
        }
    }

    /// Whether it has gone wrong.
    pub fn fired(&self) -> bool {
        self.dir.join("fired").exists()
    }

    /// What was passed so far, in order.
    pub fn passed(&self) -> Vec<Point> {
        let trace = fs::read_to_string(self.dir.join("trace")).unwrap_or_default();
        let point = |line: &str| {
            let (name, count) = line.split_once(' ')?;
            Some(Point { name: name.into(), count: count.parse().ok()? })
        };
        trace.lines().filter_map(point).collect()
    }
}
