//! A life for each point and each fault: the table of how each went, and what should not be.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream};

use super::{Fault, Outcome, Point};

/// Where lives are lived.
pub trait Ground: Send + Sync + 'static {
    /// So many at a time.
    fn at_a_time(&self) -> usize;

    /// Whether that can happen there.
    fn has(&self, point: &Point, fault: Fault) -> bool;

    /// The points of a life in which nothing goes wrong.
    fn points(&self) -> impl Future<Output = Vec<Point>> + Send;

    /// One life, in which that goes wrong, and what must hold afterwards.
    fn live(&self, point: &Point, fault: Fault) -> impl Future<Output = Cell> + Send;
}

/// The matrix, filled.
pub struct Matrix {
    points: Vec<Point>,
    cells: BTreeMap<(usize, Fault), Cell>,
}

/// What came of one run.
pub struct Cell {
    pub outcome: Outcome,
    /// Whether the life passed the point at all; in what runs side by side, the order differs from life to life.
    pub fired: bool,
    pub problems: Vec<String>,
    pub took: Duration,
}

impl Matrix {
    /// Finds the points that a life passes, and lives one for each of them and each fault that `wanted` names. `told` hears
    /// of each run when it has ended.
    pub async fn fill(
        ground: Arc<impl Ground>,
        wanted: impl Fn(&Point, Fault) -> bool,
        told: impl Fn(&Point, Fault, &Cell),
    ) -> Self {
        let points = ground.points().await;
        let rows = points.iter().enumerate();
        let runs: Vec<(usize, Fault)> = rows
            .flat_map(|(row, point)| Fault::ALL.into_iter().map(move |fault| (row, point, fault)))
            .filter(|(_, point, fault)| ground.has(point, *fault) && wanted(point, *fault))
            .map(|(row, _, fault)| (row, fault))
            .collect();
        let live = |(row, fault): (usize, Fault)| {
            let (ground, point) = (ground.clone(), points[row].clone());
            let run = tokio::spawn(async move { ground.live(&point, fault).await });
            async move { ((row, fault), run.await.expect("a run does not panic")) }
        };
        let mut runs = stream::iter(runs).map(live).buffer_unordered(ground.at_a_time());
        let mut cells = BTreeMap::new();
        while let Some(((row, fault), cell)) = runs.next().await {
            told(&points[row], fault, &cell);
            cells.insert((row, fault), cell);
        }
        drop(runs);
        Self { points, cells }
    }

    /// What should not be, a line each.
    pub fn problems(&self) -> Vec<String> {
        let cells = self.cells.iter().filter(|(_, cell)| !cell.problems.is_empty());
        cells
            .map(|((row, fault), cell)| {
                let point = &self.points[*row];
                format!("{point} {fault}: {} ({:?})", cell.problems.join("; "), cell.outcome)
            })
            .collect()
    }

    pub fn points(&self) -> usize {
        self.points.len()
    }

    pub fn runs(&self) -> usize {
        self.cells.len()
    }

    /// In how many runs the fault came.
    pub fn fired(&self) -> usize {
        self.cells.values().filter(|cell| cell.fired).count()
    }
}

/// Rows are points, columns faults. A cell has the call that showed the fault: `create!` was refused, `create?` was cut
/// off by the shim's end, `-` none was. `~` was not reached, and a cell with problems ends with `<<<`.
impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:34}", "")?;
        for fault in Fault::ALL {
            write!(f, " {fault:13}")?;
        }
        writeln!(f)?;
        for (row, point) in self.points.iter().enumerate() {
            if !self.cells.keys().any(|(lived, _)| *lived == row) {
                continue;
            }
            write!(f, "{point:34}")?;
            for fault in Fault::ALL {
                let shown = match self.cells.get(&(row, fault)) {
                    None => String::new(),
                    Some(cell) if !cell.problems.is_empty() => format!("{}<<<", cell.outcome),
                    Some(cell) if !cell.fired => "~".into(),
                    Some(cell) => cell.outcome.to_string(),
                };
                write!(f, " {shown:13}")?;
            }
            writeln!(f)?;
        }
        write!(f, "{} points, {} runs, {} with their fault", self.points(), self.runs(), self.fired())
    }
}
