//! Lives over the fake VM: each in a folder and with a shim of its own, several at a time.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Fault, Outcome, Point,
    life::Life,
    matrix::{Cell, Ground},
    place::Place,
};

/// For an answer of the guest's, which takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// With the fake shim `program`, and what serves the shared tree.
pub struct Fake {
    program: PathBuf,
    virtiofsd: String,
}

impl Fake {
    pub fn new(program: &Path, virtiofsd: String) -> Self {
        Self { program: program.into(), virtiofsd }
    }

    fn place(&self) -> Place {
        let place = Place::make(&self.program, &self.virtiofsd);
        place.plan().set_patience(PATIENCE);
        place
    }
}

impl Ground for Fake {
    /// Most of them wait most of the time.
    fn at_a_time(&self) -> usize {
        6
    }

    fn has(&self, point: &Point, fault: Fault) -> bool {
        let asks = point.name.starts_with("agent.");
        match fault {
            // The guest is in the shim.
            Fault::QemuStopped | Fault::VsockKilled => false,
            _ if fault.is_the_agents() => asks && point.name.ends_with(".before"),
            _ => !(asks && fault.is_the_hosts()),
        }
    }

    async fn points(&self) -> Vec<Point> {
        let place = self.place();
        let (outcome, problems) = Life::begin(&place).await.live().await;
        assert_eq!((outcome, problems), (Outcome::Whole, Vec::new()), "without a fault: {}", place.said());
        place.plan().passed()
    }

    async fn live(&self, point: &Point, fault: Fault) -> Cell {
        let began = Instant::now();
        let place = self.place();
        let plan = place.plan();
        plan.set(point, fault);
        let (outcome, mut problems) = Life::begin(&place).await.live().await;
        let fired = plan.fired();
        // The same name can be used again at once.
        plan.clear();
        match Life::begin(&place).await.live().await {
            (Outcome::Whole, again) => problems.extend(again),
            (other, _) => problems.push(format!("the next one of that name: {other:?}")),
        }
        if !problems.is_empty() {
            problems.push(place.said());
        }
        Cell { outcome, fired, problems, took: began.elapsed() }
    }
}
