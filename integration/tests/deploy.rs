//! kata-deploy on a node that is a folder, with the real containerds to say what they make of their configuration.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use integration::{deploy::Node, environment::Environment, kubelet::Kubelet};

const OURS: [&str; 2] = ["kata", "kata-qemu"];

/// Every containerd here: the release's name, "" for the installed one, and its program.
fn containerds() -> Vec<(&'static str, PathBuf)> {
    let Some(env) = Environment::find() else { return Vec::new() };
    let others = ["1.7", "2"].map(|release| Some((release, env.containerd(release)?.join("containerd"))));
    [("", "containerd".into())].into_iter().chain(others.into_iter().flatten()).collect()
}

/// A dump without what imports it, the names of its handlers, and all else.
fn understood(dump: &str) -> (BTreeSet<String>, toml::Table) {
    let mut table: toml::Table = dump.parse().expect("a dump is TOML");
    table.remove("imports");
    let plugins = table["plugins"].as_table_mut().unwrap();
    let (_, cri) = plugins
        .iter_mut()
        .find(|(name, _)| {
            ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"].contains(&name.as_str())
        })
        .expect("the dump has CRI's tables");
    // containerd 2 keeps a plugin with the old name as well, without runtimes.
    let cri = match cri.get("containerd") {
        Some(_) => cri,
        None => &mut plugins["io.containerd.cri.v1.runtime"],
    };
    let runtimes = cri["containerd"].as_table_mut().unwrap().remove("runtimes").expect("there are handlers");
    let runtimes = runtimes.as_table().unwrap();
    for name in OURS.iter().filter(|name| runtimes.contains_key(**name)) {
        let handler = &runtimes[*name];
        assert_eq!(handler["runtime_type"].as_str(), Some("io.containerd.kata.v2"));
        assert_eq!(handler["privileged_without_host_devices"].as_bool(), Some(true));
        assert_eq!(handler["pod_annotations"].as_array().unwrap()[0].as_str(), Some("io.katacontainers.*"));
    }
    (runtimes.keys().cloned().collect(), table)
}

/// What an administrator may have written: the name of the case, and the text; DIR stands for the file's folder.
fn configurations(release: &str, default: &str) -> Vec<(&'static str, Option<String>)> {
    let crun = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\n\
                \truntime_type = \"io.containerd.runc.v2\"\n";
    let cni = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    conf_dir = \"/etc/x\"\n";
    let mut all = vec![
        ("none", None),
        ("the default", Some(default.to_owned())),
        ("a file of the old version", Some(cni.to_owned())),
        ("no end of the last line", Some(cni.trim_end().to_owned())),
        ("another handler", Some(format!("version = 2\n{crun}"))),
        ("a comment on handlers", Some(format!("{cni}# see containerd.runtimes\n"))),
        ("imports of other things", Some(format!("imports = [\"DIR/other/*.toml\"]\n{cni}"))),
        (
            "imports in lines, and of the folder",
            Some(
                "# imports = [\nversion = 2\nimports = [\n  \"DIR/conf.d/*.toml\",\n]\n[debug]\n  level = \"info\"\n"
                    .into(),
            ),
        ),
        (
            "an import that has CRI's tables",
            Some("version = 2\nimports = [\"DIR/other/cri/*.toml\"]\n".into()),
        ),
    ];
    if release == "2" {
        all.push(("empty imports", Some("version = 3\nimports = []\n[grpc]\n  uid = 0\n".into())));
        all.push(("indented tables", Some("version = 3\n  [grpc]\n  imports = []\n".into())));
    }
    all
}

fn handlers_come_and_go(release: &str) {
    let program = containerds().into_iter().find(|(name, _)| *name == release);
    if let Some((_, program)) = program {
        let default = Node::new(&program, None).dump();
        for (name, text) in configurations(release, &default) {
            let case = format!("containerd {release}, {name}");
            let node = Node::new(&program, None);
            let dir = node.config().parent().unwrap().to_owned();
            let cri = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  tolerate_missing_hugetlb_controller = false\n";
            for (file, text) in
                [("other/cri/cri.toml", cri), ("other/debug.toml", "version = 2\noom_score = -7\n")]
            {
                fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
                fs::write(dir.join(file), text).unwrap();
            }
            if let Some(text) = text {
                fs::write(node.config(), text.replace("DIR", &dir.display().to_string())).unwrap();
            }
            let (before, before_dump) = (node.files(), node.dump());

            node.done("install");
            assert_eq!(node.restarts(), 1, "{case}");
            let (old, new) = (understood(&before_dump), understood(&node.dump()));
            let expected: BTreeSet<_> = old.0.iter().cloned().chain(OURS.map(str::to_owned)).collect();
            assert_eq!(new.0, expected, "{case}");
            assert_eq!(new.1, old.1, "{case}");

            let installed = node.files();
            node.done("install");
            assert_eq!(node.files(), installed, "{case}");
            assert_eq!(node.restarts(), 1, "{case}");

            node.done("cleanup");
            node.done("reset");
            assert_eq!(node.files(), before, "{case}");
            assert_eq!(node.restarts(), 2, "{case}");
            node.done("cleanup reset");
            assert_eq!(node.files(), before, "{case}");
            assert_eq!(node.restarts(), 2, "{case}");
        }
    }
}

#[test]
fn handlers_come_beside_the_others_and_go_without_a_trace_under_the_installed_containerd() {
    handlers_come_and_go("");
}

#[test]
fn handlers_come_beside_the_others_and_go_without_a_trace_under_containerd_1_7() {
    handlers_come_and_go("1.7");
}

#[test]
fn handlers_come_beside_the_others_and_go_without_a_trace_under_containerd_2() {
    handlers_come_and_go("2");
}

#[test]
fn what_others_write_in_between_stays() {
    for (release, program) in containerds() {
        let node = Node::new(&program, None);
        let text = "version = 2\nimports = [\"/a/*.toml\"]\n[debug]\n  level = \"info\"\n";
        fs::write(node.config(), text).unwrap();
        node.done("install");
        let installed = fs::read_to_string(node.config()).unwrap();
        let edit = |text: &str| {
            text.replace("/a/*.toml\"", "/a/*.toml\", \"/b/*.toml\"") + "[metrics]\n  address = \"\"\n"
        };
        fs::write(node.config(), edit(&installed)).unwrap();
        node.done("install");
        assert!(fs::read_to_string(node.config()).unwrap().matches("kata-deploy begins").count() <= 1);
        assert!(understood(&node.dump()).0.contains("kata-qemu"), "containerd {release}");
        node.done("cleanup");
        assert_eq!(fs::read_to_string(node.config()).unwrap(), edit(text), "containerd {release}");
    }
}

#[test]
fn what_it_does_not_understand_is_refused_and_left_alone() {
    for (release, program) in containerds() {
        let mut cases = vec![("version = 1\n[debug]\n  level = \"info\"\n", "version")];
        if release != "2" {
            cases.push(("version = 2\nimports = [\"DIR/one.toml\", \"DIR/two.toml\"]\n", "several imports"));
        }
        for (text, why) in cases {
            let node = Node::new(&program, None);
            let dir = node.config().parent().unwrap().display().to_string();
            fs::write(node.config(), text.replace("DIR", &dir)).unwrap();
            for file in ["one.toml", "two.toml"] {
                let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\"\n";
                fs::write(node.config().with_file_name(file), text).unwrap();
            }
            let before = node.files();
            let error = node.refused("install");
            assert!(error.contains(why), "containerd {release}: {error}");
            node.done("cleanup");
            assert_eq!(node.files(), before, "containerd {release}, {text}");
        }
    }
}

fn node() -> Node {
    Node::new("containerd".as_ref(), None)
}

/// A node whose engine is CRI-O, which needs no program to be asked.
fn crio_node() -> Node {
    let mut node = node();
    node.set("KATA_ENGINE", "crio");
    node
}

#[test]
fn cri_o_gets_a_drop_in() {
    let node = crio_node();
    let before = node.files();
    node.done("install");
    node.done("install");
    assert_eq!(node.restarts(), 1);
    let text = fs::read_to_string(node.path("etc/crio/crio.conf.d/50-kata.conf")).unwrap();
    assert_eq!(text, fs::read_to_string(node.image().join("scripts/crio/50-kata.conf")).unwrap());
    node.done("cleanup reset");
    assert_eq!((node.files(), node.restarts()), (before, 2));
}

#[test]
fn files_are_put_and_taken_away_and_what_is_edited_stays() {
    let node = crio_node();
    let before = node.files();
    node.done("install");
    let target = |name| fs::read_link(node.path("usr/local/bin").join(name)).unwrap();
    for name in ["containerd-shim-kata-v2", "kata-runtime"] {
        assert_eq!(target(name), PathBuf::from("/opt/kata/bin").join(name));
        assert!(node.path("opt/kata/bin").join(name).exists());
    }
    let edited = fs::read_to_string(node.configuration()).unwrap() + "default_memory = 512\n";
    fs::write(node.configuration(), &edited).unwrap();
    let drop_in = node.configuration().with_file_name("config.d").join("50-mine.toml");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    fs::write(&drop_in, "").unwrap();
    node.done("install");
    assert_eq!(fs::read_to_string(node.configuration()).unwrap(), edited);
    assert!(node.configuration().with_extension("toml.new").exists());

    node.done("cleanup");
    let left: Vec<_> = node.files().into_keys().filter(|path| !before.contains_key(path)).collect();
    let pending = node.path("run/kata-deploy.restart");
    assert_eq!(left, [drop_in, node.configuration(), pending]);
}

#[test]
fn another_installation_or_a_node_without_qemu_is_refused() {
    let node = crio_node();
    fs::remove_file(node.path("usr/bin/qemu")).unwrap();
    let before = node.files();
    assert!(node.refused("install").contains("/usr/bin/qemu"));
    assert_eq!(node.files(), before);

    node.write("usr/bin/qemu", "", 0o755);
    node.write("usr/local/bin/containerd-shim-kata-v2", "", 0o755);
    let before = node.files();
    assert!(node.refused("install").contains("/usr/local/bin/containerd-shim-kata-v2"));
    assert_eq!(node.files(), before);
}

#[test]
fn a_node_with_sandboxes_is_not_cleaned_up() {
    let node = crio_node();
    node.done("install");
    let installed = node.files();
    fs::create_dir_all(node.path("run/vc/sbs/some-sandbox")).unwrap();
    assert!(node.refused("cleanup reset").contains("1 sandboxes"));
    assert_eq!(node.files(), installed);
    fs::remove_dir(node.path("run/vc/sbs/some-sandbox")).unwrap();
    node.done("cleanup reset");
}

#[test]
fn a_restart_that_failed_is_made_up_for() {
    let mut node = crio_node();
    node.set("KATA_RESTART", "false");
    node.refused("install");
    node.set("KATA_RESTART", node.image().join("../restart").display().to_string());
    node.done("install");
    assert_eq!(node.restarts(), 1);
    node.done("install");
    assert_eq!(node.restarts(), 1);
}

#[test]
fn an_unknown_action_or_engine_is_refused() {
    let mut node = crio_node();
    assert!(node.refused("purge").contains("unknown action: purge"));
    assert!(node.refused("").contains("usage"));
    node.set("KATA_ENGINE", "docker");
    assert!(node.refused("install").contains("neither containerd nor crio"));
}

/// A server that answers every request with a status, and hands each one on, head and body.
fn api(status: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut request, mut length) = (String::new(), 0);
            while !request.ends_with("\r\n\r\n") {
                let begin = request.len();
                assert_ne!(stream.read_line(&mut request).unwrap(), 0, "{request}");
                if let Some(value) = request[begin..].to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            request += &String::from_utf8(body).unwrap();
            if sender.send(request).is_err() {
                break;
            }
        }
    });
    (address, requests)
}

fn labelled_node(api: String) -> Node {
    let mut node = crio_node();
    node.write("account/token", "the-token\n", 0o600);
    node.write("account/ca.crt", "", 0o600);
    node.set("NODE_NAME", "node-7");
    node.set("KATA_ACCOUNT", node.path("account").display().to_string());
    node.set("KATA_API", api);
    node
}

#[test]
fn a_node_is_labelled_by_kubernetes_api() {
    let (address, requests) = api("200 OK");
    let node = labelled_node(address);
    node.done("install");
    node.done("cleanup reset");
    for value in ["\"true\"", "\"cleanup\"", "null"] {
        let request = requests.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(request.starts_with("PATCH /api/v1/nodes/node-7 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nAuthorization: Bearer the-token\r\n"), "{request}");
        assert!(request.contains("\r\nContent-Type: application/merge-patch+json\r\n"), "{request}");
        let body = format!("{{\"metadata\":{{\"labels\":{{\"katacontainers.io/kata-runtime\":{value}}}}}}}");
        assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
    }
}

#[test]
fn a_node_that_cannot_be_labelled_is_not_done() {
    let (address, _requests) = api("403 Forbidden");
    let error = labelled_node(address).refused("install");
    assert!(error.contains("node node-7 cannot be labelled"), "{error}");
}

/// A containerd that has never heard of us, until the script has been there.
fn pods_start_after_it(release: &str) {
    let Some(mut kubelet) = Kubelet::start_without_us(release) else { return };
    let pod_config = kubelet.pod("deployed");
    let error = kubelet.run_pod("kata", &pod_config).unwrap_err();
    // The words that docs/kubernetes.md explains.
    assert!(error.message().contains("no runtime for \"kata\" is configured"), "{error}");

    let env = Environment::find().unwrap();
    let program = if release.is_empty() {
        "containerd".into()
    } else {
        env.containerd(release).unwrap().join("containerd")
    };
    let node = Node::new(&program, Some(kubelet.containerd.dir()));
    let before = fs::read_to_string(node.config()).unwrap();
    node.done("install");
    kubelet.restart_containerd();
    for handler in OURS {
        let pod_config = kubelet.pod("deployed");
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let container = kubelet.run(&pod, &kubelet.script("sleeps", "exec sleep 1000"), &pod_config).unwrap();
        let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_ne!(kubelet.inside(&container, "cat /proc/sys/kernel/random/boot_id"), host);
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
    }
    node.done("cleanup");
    assert_eq!(fs::read_to_string(node.config()).unwrap(), before);
}

#[test]
fn pods_start_by_its_handlers_under_the_installed_containerd() {
    pods_start_after_it("");
}

#[test]
fn pods_start_by_its_handlers_under_containerd_1_7() {
    pods_start_after_it("1.7");
}

#[test]
fn pods_start_by_its_handlers_under_containerd_2() {
    pods_start_after_it("2");
}
