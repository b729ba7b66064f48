//! What the program says of itself, and what its stand-in takes.

use std::fs;

use integration::oci_cli::{Cli, Whose};
use serde_json::{Value, json};

use crate::{WAITS, nothing};

#[test]
fn a_stand_in_is_small() {
    let Some(cli) = Cli::ours() else { return };
    let id = cli.id("small");
    let bundle = cli.bundle("small", WAITS, nothing).display().to_string();
    cli.leave(&["run", "--detach", "--bundle", &bundle, &id], "out").good();
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", cli.state(&id)["pid"])).unwrap();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    let pss: u64 = pss.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = if cli.is_optimized() { 1536 } else { 16384 };
    assert!(pss <= limit, "{pss} KiB");
    cli.run(&["delete", "--force", &id]).good();
    cli.assert_clean();
}

#[test]
fn a_spec_of_ours_runs_and_the_versions_are_told() {
    for cli in Cli::both() {
        let dir = cli.path().join("spec");
        fs::create_dir(&dir).unwrap();
        let bundle = dir.display().to_string();
        cli.run(&["spec", "--bundle", &bundle]).good();
        assert_eq!(
            cli.run(&["spec", "--bundle", &bundle]).refusal().1,
            "File config.json exists. Remove it first"
        );
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["echo", "as it was written"]);
        config["root"]["path"] = json!(cli.path().join("rootfs"));
        fs::write(&path, config.to_string()).unwrap();
        let id = cli.id("spec");
        assert_eq!(cli.run(&["run", "--bundle", &bundle, &id]).good(), "as it was written\n");
        let version = cli.run(&["--version"]).good();
        let program = if cli.whose == Whose::Runc { "runc" } else { "kata-runtime" };
        assert!(
            version.starts_with(&format!("{program} version ")) && version.contains("\nspec: "),
            "{version}"
        );
        let features: Value = serde_json::from_str(&cli.run(&["features"]).good()).unwrap();
        assert!(features["hooks"].as_array().unwrap().contains(&json!("createRuntime")));
        cli.assert_clean();
    }
}
