//! What the OCI runtime spec asks of a runtime, put to runc and to `kata-runtime` over the same bundles: what a scenario
//! tells must be the same, or differ for a reason that stands in [`differences`].
//!
//! The questions are those of the spec's own tests (`validation/` of its runtime-tools), as they are named there; [`list`]
//! says where each is asked. A container answers many of them at once.
//!
//! ```text
//! scenarios (by theme) -> Stage (containers, probes in them) -> facts for each runtime -> compare::table
//! ```

mod control;
mod devices;
mod differences;
mod hooks;
mod life;
mod limits;
mod list;
mod mounts;
mod namespaces;
mod process;
mod root;
mod security;
mod stage;

use std::time::Instant;

use integration::{
    compare::{Compared, table},
    oci_cli::{Cli, Whose},
};
use stage::Stage;

/// A scenario.
struct Scenario {
    name: &'static str,
    /// The tests of the list whose questions it asks.
    covers: &'static [&'static str],
    play: fn(&mut Stage<'_>),
}

/// What a scenario tells where the other one told something, and it did not.
const UNTOLD: &str = "(nothing)";

/// Plays scenarios with every command line there is, and compares.
fn compare(scenarios: &[Scenario]) {
    let clis = Cli::both();
    let rows: Vec<_> = scenarios.iter().flat_map(|scenario| play(scenario, &clis)).collect();
    let (text, failures) = table(&rows, false);
    eprintln!("{text}");
    assert_eq!(failures, 0, "see the lines that are marked by !");
}

/// What each command line tells, fact by fact.
fn play(scenario: &Scenario, clis: &[Cli]) -> Vec<Compared> {
    let told = clis.iter().map(|cli| {
        let (mut stage, began) = (Stage::new(cli, scenario.name), Instant::now());
        (scenario.play)(&mut stage);
        cli.assert_clean();
        eprintln!("{:?} {} {:.1?}", cli.whose, scenario.name, began.elapsed());
        (cli.whose, stage.told())
    });
    let told: Vec<_> = told.collect();
    let mut facts: Vec<&str> = Vec::new();
    for (fact, _) in told.iter().flat_map(|(_, facts)| facts) {
        if !facts.contains(&fact.as_str()) {
            facts.push(fact);
        }
    }
    let of = |whose, fact: &str| {
        let (_, facts) = told.iter().find(|(one, _)| *one == whose)?;
        facts
            .iter()
            .find(|(name, _)| name == fact)
            .map_or(Some(UNTOLD.to_owned()), |(_, value)| value.clone())
    };
    let compared = |fact: &&str| {
        let title = format!("{}: {fact}", scenario.name);
        let differs = differences::reason(&title);
        Compared { title, differs, runc: of(Whose::Runc, fact), ours: of(Whose::Ours, fact) }
    };
    facts.iter().map(compared).collect()
}

#[test]
fn a_life_is_the_same() {
    compare(life::SCENARIOS);
}

#[test]
fn what_is_done_to_a_container_is_the_same() {
    compare(control::SCENARIOS);
}

#[test]
fn hooks_are_the_same() {
    compare(hooks::SCENARIOS);
}

#[test]
fn a_process_is_the_same() {
    compare(process::SCENARIOS);
}

#[test]
fn a_root_is_the_same() {
    compare(root::SCENARIOS);
}

#[test]
fn mounts_are_the_same() {
    compare(mounts::SCENARIOS);
}

#[test]
fn devices_are_the_same() {
    compare(devices::SCENARIOS);
}

#[test]
fn limits_are_the_same() {
    compare(limits::SCENARIOS);
}

#[test]
fn namespaces_are_the_same() {
    compare(namespaces::SCENARIOS);
}

#[test]
fn security_is_the_same() {
    compare(security::SCENARIOS);
}

/// All scenarios.
fn all() -> impl Iterator<Item = &'static Scenario> {
    let groups: [&'static [Scenario]; 10] = [
        life::SCENARIOS,
        control::SCENARIOS,
        hooks::SCENARIOS,
        process::SCENARIOS,
        root::SCENARIOS,
        mounts::SCENARIOS,
        devices::SCENARIOS,
        limits::SCENARIOS,
        namespaces::SCENARIOS,
        security::SCENARIOS,
    ];
    groups.into_iter().flatten()
}
