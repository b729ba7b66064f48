//! Limits: what the control group of a container says, in the words of either version.

use serde_json::{Value, json};

use super::{
    Scenario,
    stage::{Stage, WAITS, group_of_the_host},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "limits",
        covers: &["linux_cgroups_cpus", "linux_cgroups_memory", "linux_cgroups_pids"],
        play: absolute,
    },
    Scenario {
        name: "limits by a relative path",
        covers: &[
            "linux_cgroups_relative_cpus",
            "linux_cgroups_relative_memory",
            "linux_cgroups_relative_pids",
            "linux_cgroups_relative_blkio",
            "linux_cgroups_relative_hugetlb",
            "linux_cgroups_relative_network",
        ],
        play: relative,
    },
    Scenario { name: "limits of pages", covers: &["linux_cgroups_hugetlb"], play: huge_pages },
    Scenario { name: "limits of disks", covers: &["linux_cgroups_blkio"], play: disks },
    Scenario { name: "limits of networks", covers: &["linux_cgroups_network"], play: networks },
    Scenario {
        name: "limits that cannot be",
        covers: &["linux_cgroups_memory", "linux_cgroups_pids"],
        play: impossible,
    },
];

/// Questions whose answers are the same in both versions of control groups.
const QUESTIONS: [(&str, &str); 5] = [
    ("memory", "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes"),
    ("processes", "cd /sys/fs/cgroup; cat pids.max 2>/dev/null || cat pids/pids.max"),
    (
        "time",
        "cd /sys/fs/cgroup; cat cpu.max 2>/dev/null || echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)",
    ),
    // As runc converts shares.
    (
        "weight",
        "cd /sys/fs/cgroup; cat cpu.weight 2>/dev/null || echo $((1 + ($(cat cpu/cpu.shares) - 2) * 9999 / 262142))",
    ),
    ("processors", "cd /sys/fs/cgroup; cat cpuset.cpus 2>/dev/null || cat cpuset/cpuset.cpus"),
];

fn limit(config: &mut Value, path: &str) {
    config["mounts"].as_array_mut().expect("mounts").push(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"],
    }));
    config["linux"]["cgroupsPath"] = json!(path);
    config["linux"]["resources"] = json!({
        "memory": {"limit": 67_108_864},
        "pids": {"limit": 40},
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0", "mems": "0"},
    });
}

/// Asks in a container whose group has that name, and on the host.
fn tell_of_group(stage: &mut Stage<'_>, path: &str) {
    let id = stage.created("", WAITS, |config| limit(config, path));
    stage.cli.run(&["start", &id]).good();
    for (fact, question) in QUESTIONS {
        let answer = stage.cli.run(&["exec", &id, "sh", "-c", question]).good();
        stage.tell(fact, answer);
    }
    let group = group_of_the_host("pids").join(path.trim_start_matches('/'));
    stage.tell("a group of that name is on the host", group.exists());
    stage.remove("");
    stage.tell("and after the end", group.exists());
}

fn absolute(stage: &mut Stage<'_>) {
    let path = format!("/{}", stage.id("at"));
    tell_of_group(stage, &path);
}

fn relative(stage: &mut Stage<'_>) {
    let path = stage.id("at");
    tell_of_group(stage, &path);
}

/// What a container with these limits says, if its runtime can limit that on its kernel.
fn told_of(stage: &mut Stage<'_>, part: &str, fact: &str, question: &str, resources: Value) {
    let ran = stage.run(part, question, |config| {
        config["mounts"].as_array_mut().expect("mounts").push(json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"],
        }));
        config["linux"]["resources"] = resources;
    });
    let told = if ran.code == Some(0) { ran.stdout } else { ran.stderr };
    if told.contains("container could not join or create cgroup") {
        // runc, on a host without that controller.
        return stage.cannot_tell(fact);
    }
    stage.tell(fact, told);
}

fn huge_pages(stage: &mut Stage<'_>) {
    let limit = |size: &str| json!({"hugepageLimits": [{"pageSize": size, "limit": 4_194_304}]});
    let question =
        "cd /sys/fs/cgroup; cat hugetlb.2MB.max 2>/dev/null || cat hugetlb/hugetlb.2MB.limit_in_bytes";
    told_of(stage, "", "2MB", question, limit("2MB"));
    let ran = stage.run("-odd", "true", |config| config["linux"]["resources"] = limit("3MB"));
    stage.tell_ran("pages that there are not", ran, "hugetlb");
}

fn disks(stage: &mut Stage<'_>) {
    let throttle = json!({"blockIO": {"throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 102_400}]}});
    let question =
        "cat /sys/fs/cgroup/io.max 2>/dev/null || cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device";
    told_of(stage, "", "a throttle", question, throttle);
}

fn networks(stage: &mut Stage<'_>) {
    let class = json!({"network": {"classID": 255, "priorities": [{"name": "lo", "priority": 5}]}});
    told_of(stage, "", "class and priority", "echo it ran", class);
}

fn impossible(stage: &mut Stage<'_>) {
    let cases = [
        ("little memory", json!({"memory": {"limit": 4096}}), "memory"),
        ("an absurd period", json!({"cpu": {"quota": 1, "period": 1}}), "invalid argument"),
        ("processors that are no list", json!({"cpu": {"cpus": "many"}}), "many"),
        ("processors nobody has", json!({"cpu": {"cpus": "4000-4001"}}), "cpuset"),
    ];
    for (fact, resources, naming) in cases {
        let part = fact.replace(' ', "-");
        let ran = stage.run(&part, "true", |config| config["linux"]["resources"] = resources);
        stage.tell_ran(fact, ran, naming);
    }
    let question = "cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max";
    told_of(stage, "-none", "no limit of processes", question, json!({"pids": {"limit": -1}}));
}
