//! Killed while a shim stands at a step of its work.

use std::path::Path;

use integration::{
    environment::Environment,
    faults::Point,
    restarts::{Back, Stage},
};

use super::programs;

const FAKE: &str = env!("CARGO_BIN_EXE_fake-shim");
const FAULTY: &str = env!("CARGO_BIN_EXE_faulty-shim");
/// Containers that one containerd is killed under.
const AT_A_TIME: usize = 12;
/// Real VMs that it is killed over, and how many different selections there are.
const REAL_ONES: usize = 8;
const OFFSETS: usize = 3;

/// A life has a point in each of the host's hierarchies of cgroups; two of them are like all.
fn is_one_of_many(point: &Point) -> bool {
    point.name.contains(".cgroup.") && point.count > 2
}

/// Rounds for all of the points, so many at a time.
fn play(stage: &Stage, points: &[Point], first: Back) {
    let mut back = first;
    let mut fates = Vec::new();
    for round in points.chunks(AT_A_TIME) {
        let played = stage.round(round, back);
        played.iter().for_each(|fate| println!("{fate}"));
        fates.extend(played);
        back = back.other();
    }
    let wrong: Vec<_> =
        fates.iter().filter(|fate| !fate.problems.is_empty()).map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), fates.len(), wrong.join("\n"));
    let missed = fates.iter().filter(|fate| fate.call.is_none()).count();
    assert!(missed * 3 <= fates.len(), "{missed} of {} steps were not reached", fates.len());
    assert_eq!(stage.remains(), Vec::<String>::new(), "{}", stage.containerd().log());
}

/// Over the fake VM, where each `nth` of them is played.
fn comes_back(release: Option<&str>, first: Back, nth: usize) {
    let Some(env) = Environment::find() else { return };
    let Some(programs) = programs(&env, release) else { return };
    let stage = Stage::fake(env, programs, Path::new(FAKE));
    let points: Vec<_> = stage.points().into_iter().filter(|point| !is_one_of_many(point)).collect();
    assert!(points.len() >= 60, "a life has {} points only", points.len());
    let points: Vec<_> = points.into_iter().step_by(nth).collect();
    play(&stage, &points, first);
}

/// In real VMs some of them are played, from every part of a life; others with another `offset`.
fn comes_back_over_real_vms(release: Option<&str>, first: Back, offset: usize) {
    let Some(env) = Environment::find() else { return };
    let Some(programs) = programs(&env, release) else { return };
    let stage = Stage::real(env, programs, Path::new(FAULTY));
    let points = stage.points();
    let nth = points.len().div_ceil(REAL_ONES);
    let points: Vec<_> = points.into_iter().skip(nth * offset / OFFSETS).step_by(nth).collect();
    play(&stage, &points, first);
}

#[test]
fn a_killed_containerd_1_6_comes_back_at_every_step() {
    comes_back(None, Back::During, 1);
}

#[test]
fn a_killed_containerd_2_comes_back_at_every_third_step() {
    comes_back(Some("2"), Back::After, 3);
}

#[test]
fn a_killed_containerd_1_6_comes_back_over_real_vms() {
    comes_back_over_real_vms(None, Back::During, 0);
}

#[test]
fn a_killed_containerd_1_7_comes_back_over_real_vms() {
    comes_back_over_real_vms(Some("1.7"), Back::After, 1);
}

#[test]
fn a_killed_containerd_2_comes_back_over_real_vms() {
    comes_back_over_real_vms(Some("2"), Back::During, 2);
}
