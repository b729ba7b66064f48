//! Whatever dies, fails or falls silent at whatever step: the container can be removed, nothing is left, and its name
//! can be used again. Over the fake VM at every step, in real VMs at some.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use integration::{
    cgroups::of_helpers,
    environment::Environment,
    faults::{
        Fault, Point,
        fake::Fake,
        matrix::{Ground, Matrix},
        place::ID,
        real::Real,
    },
};

/// For what another life, beside this one, has to clean up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A life has a point in each of the host's hierarchies of cgroups; two of them are like all.
fn is_one_of_many(point: &Point) -> bool {
    point.name.contains(".cgroup.") && point.count > 2
}

async fn assert_nothing_is_left(ground: impl Ground, wanted: impl Fn(&Point, Fault) -> bool) -> Matrix {
    let matrix = Matrix::fill(Arc::new(ground), wanted, |_, _, _| ()).await;
    println!("{matrix}");
    let problems = matrix.problems();
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), matrix.runs(), problems.join("\n"));
    let began = Instant::now();
    let orphaned = || {
        let mut groups = of_helpers(ID);
        groups.retain(|(_, owner)| !Path::new("/proc").join(owner.to_string()).exists());
        groups
    };
    while !orphaned().is_empty() && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(orphaned(), []);
    let missed = matrix.runs() - matrix.fired();
    assert!(missed * 5 < matrix.runs(), "{missed} of {} faults did not come", matrix.runs());
    matrix
}

fn environment() -> Option<Environment> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("skipped: needs root, for the shared tree is made of mounts");
        return None;
    }
    Environment::find()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_whatever_goes_wrong_at_whatever_step() {
    let Some(env) = environment() else { return };
    let fake = Fake::new(Path::new(env!("CARGO_BIN_EXE_fake-shim")), env.setting("virtio_fs_daemon"));
    let matrix = assert_nothing_is_left(fake, |point, _| !is_one_of_many(point)).await;
    assert!(matrix.points() >= 60, "a life has {} points only", matrix.points());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_real_vms_either() {
    let Some(env) = environment() else { return };
    let real = Real::start(env, Path::new(env!("CARGO_BIN_EXE_faulty-shim")));
    // Each fault at every so manieth point, and each at others.
    let sample = |point: &Point, fault: Fault| {
        let place = point.to_string().bytes().fold(0, |sum: usize, byte| sum * 31 % 9973 + usize::from(byte));
        (place + fault as usize * 7).is_multiple_of(40)
    };
    assert_nothing_is_left(real, sample).await;
}
