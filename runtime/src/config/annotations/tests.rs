use super::*;
use crate::config::{FactoryConfig, InternetworkingModel, SharedFs, TemplateUse, VirtioFsCache};

const HOST: Host = Host { cpus: 4, memory_mib: 8192 };

/// A file that is there.
fn there(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn file_config() -> Config {
    let path = || PathBuf::from(there("Cargo.toml"));
    let list = |glob: &str| vec![there(glob)];
    Config {
        path: "/etc/kata-containers/configuration.toml".into(),
        hypervisor: HypervisorConfig {
            path: path(),
            kernel: path(),
            initrd: path(),
            virtio_fs_daemon: path(),
            kernel_params: "a=1".into(),
            enable_annotations: vec![".*".into()],
            valid_hypervisor_paths: list("Cargo*"),
            valid_virtio_fs_daemon_paths: list("src/l?b.rs"),
            valid_entropy_sources: vec!["/dev/*random".into()],
            ..Default::default()
        },
        agent: AgentConfig::default(),
        runtime: RuntimeConfig::default(),
        factory: FactoryConfig::default(),
        warnings: Vec::new(),
        template_of_its_own: false,
        sizes: (1.0, 2048),
    }
}

fn with(config: Config, annotations: &[(&str, &str)]) -> Result<(Config, Vec<String>)> {
    config.annotated_on(HOST, annotations.to_vec())
}

/// What the file's configuration becomes.
fn read(name: &str, value: &str) -> Config {
    match with(file_config(), &[(name, value)]) {
        Ok((config, ignored)) if ignored.is_empty() => config,
        other => panic!("{name} {value}: {other:?}"),
    }
}

#[test]
fn what_shapes_the_hypervisor_is_taken() {
    let hypervisor = |name: &str, value: &str| read(&format!("config.hypervisor.{name}"), value).hypervisor;
    let path = |name: &str| PathBuf::from(there(name));
    type Row = (&'static str, String, fn(&mut HypervisorConfig));
    let rows: [Row; 30] = [
        ("path", there("Cargo.toml"), |_| {}),
        ("virtio_fs_daemon", there("src/lib.rs"), |h| h.virtio_fs_daemon = there("src/lib.rs").into()),
        ("entropy_source", "/dev/random".into(), |h| h.entropy_source = "/dev/random".into()),
        ("kernel", there("src/lib.rs"), |h| h.kernel = there("src/lib.rs").into()),
        ("initrd", there("src/lib.rs"), |h| h.initrd = there("src/lib.rs").into()),
        ("firmware", there("src/lib.rs"), |h| h.firmware = there("src/lib.rs").into()),
        ("kernel_params", "b=2 c".into(), |h| h.kernel_params = "a=1 b=2 c".into()),
        ("kernel_params", "".into(), |_| {}),
        ("machine_type", "pc".into(), |h| h.machine_type = "pc".into()),
        ("machine_accelerators", "smm=off".into(), |h| h.machine_accelerators = "smm=off".into()),
        ("cpu_features", "".into(), |h| h.cpu_features = String::new()),
        ("default_vcpus", "2".into(), |h| h.default_vcpus = 2.0),
        ("default_vcpus", " 0.5 ".into(), |h| h.default_vcpus = 0.5),
        ("default_vcpus", "4".into(), |h| h.default_vcpus = 4.0),
        ("default_max_vcpus", "3".into(), |h| h.default_maxvcpus = 3),
        ("default_max_vcpus", "0".into(), |_| {}),
        ("default_memory", "64".into(), |h| h.default_memory = 64),
        ("default_memory", "8192".into(), |h| h.default_memory = 8192),
        ("default_memory", "2 GiB".into(), |_| {}),
        ("default_memory", "512Mi".into(), |h| h.default_memory = 512),
        ("memory_slots", "3".into(), |h| h.memory_slots = 3),
        ("enable_mem_prealloc", "true".into(), |h| h.enable_mem_prealloc = true),
        ("shared_fs", "virtio-9p".into(), |h| h.shared_fs = SharedFs::Virtio9p),
        ("virtio_fs_cache", "none".into(), |h| h.virtio_fs_cache = VirtioFsCache::Never),
        ("virtio_fs_cache", "always".into(), |h| h.virtio_fs_cache = VirtioFsCache::Always),
        ("virtio_fs_extra_args", r#"["-o", "a,b"]"#.into(), |h| {
            h.virtio_fs_extra_args = vec!["-o".into(), "a,b".into()];
        }),
        ("virtio_fs_extra_args", "-o, a".into(), |h| {
            h.virtio_fs_extra_args = vec!["-o".into(), "a".into()];
        }),
        ("msize_9p", "8192".into(), |h| h.msize_9p = 8192),
        ("disable_vhost_net", "1".into(), |h| h.disable_vhost_net = true),
        ("image", there("src/lib.rs"), |h| {
            (h.image, h.initrd) = (there("src/lib.rs").into(), PathBuf::new());
        }),
    ];
    for (name, value, change) in rows {
        let mut expected = file_config().hypervisor;
        change(&mut expected);
        assert_eq!(hypervisor(name, &value), expected, "{name} {value}");
    }
    let config = Config {
        hypervisor: HypervisorConfig {
            initrd: PathBuf::new(),
            image: path("Cargo.toml"),
            ..file_config().hypervisor
        },
        ..file_config()
    };
    let initrd = there("src/lib.rs");
    let (config, _) = with(config, &[("config.hypervisor.initrd", &initrd)]).unwrap();
    assert_eq!((config.hypervisor.initrd, config.hypervisor.image), (initrd.into(), PathBuf::new()));
}

#[test]
fn what_is_about_the_agent_and_the_runtime_needs_nobodys_leave() {
    let mut closed = file_config();
    closed.hypervisor.enable_annotations.clear();
    let modules = " e1000e EEE=1; i915 ;";
    let (config, ignored) = with(
        closed,
        &[
            ("config.agent.kernel_modules", modules),
            ("config.agent.container_pipe_size", "65536"),
            ("config.runtime.disable_guest_seccomp", "false"),
            ("config.runtime.disable_new_netns", "true"),
            ("config.runtime.internetworking_model", "macvtap"),
            ("config.runtime.sandbox_cgroup_only", "TRUE"),
            ("config.runtime.create_container_timeout", "7"),
        ],
    )
    .unwrap();
    assert_eq!(ignored, Vec::<String>::new());
    assert_eq!(config.agent.kernel_modules, ["e1000e EEE=1", "i915"]);
    assert_eq!(config.agent.container_pipe_size, 65536);
    assert_eq!(config.agent.create_deadline().as_secs(), 7);
    let runtime = config.runtime;
    assert!(!runtime.disable_guest_seccomp && runtime.disable_new_netns && runtime.sandbox_cgroup_only);
    assert_eq!(runtime.internetworking_model, InternetworkingModel::Macvtap);
}

#[test]
fn what_cannot_be_is_refused_by_name_value_and_what_is_wanted() {
    for (name, value, words) in [
        ("hypervisor.default_vcpus", "0", "above 0 and at most 4"),
        ("hypervisor.default_vcpus", "-1", "above 0 and at most 4"),
        ("hypervisor.default_vcpus", "4.1", "above 0 and at most 4"),
        ("hypervisor.default_vcpus", "NaN", "above 0 and at most 4"),
        ("hypervisor.default_vcpus", "two", "a number of CPUs"),
        ("hypervisor.default_max_vcpus", "5", "from 0 to 4"),
        ("hypervisor.default_memory", "63", "MiB from 64 to 8192"),
        ("hypervisor.default_memory", "8193", "MiB from 64 to 8192"),
        ("hypervisor.default_memory", "9 GiB", "MiB from 64 to 8192"),
        ("hypervisor.default_memory", "18446744073709551615GiB", "MiB from 64 to 8192"),
        ("hypervisor.default_memory", "512 pages", "MiB from 64 to 8192"),
        ("hypervisor.default_memory", "", "MiB from 64 to 8192"),
        ("hypervisor.memory_slots", "257", "from 0 to 256"),
        ("hypervisor.msize_9p", "4095", "from 4096"),
        ("hypervisor.enable_mem_prealloc", "yes", "true or false"),
        ("hypervisor.shared_fs", "nfs", "expected `virtio-fs` or `virtio-9p`"),
        ("hypervisor.virtio_fs_cache", "some", "expected one of"),
        ("hypervisor.virtio_fs_extra_args", "[1]", "a list of texts"),
        ("hypervisor.kernel", "/nonexistent", "a file of the host"),
        ("hypervisor.kernel", "Cargo.toml", "a file of the host"),
        ("hypervisor.kernel", "", "a file of the host"),
        ("hypervisor.path", "/bin/sh", "valid_hypervisor_paths"),
        ("hypervisor.path", &there("Cargo.none"), "no such file"),
        ("hypervisor.virtio_fs_daemon", &there("src/../src/lib.rs"), "valid_virtio_fs_daemon_paths"),
        ("hypervisor.entropy_source", "/etc/passwd", "valid_entropy_sources"),
        ("hypervisor.enable_hugepages", "true", "not served"),
        ("hypervisor.virtio_fs_cache_size", "1024", "not served"),
        ("hypervisor.blk_logical_sector_size", "512", "not served"),
        ("hypervisor.kernel_hash", "ab", "not compared"),
        ("agent.enable_tracing", "true", "not served"),
        ("agent.container_pipe_size", "-1", "from 0"),
        ("runtime.internetworking_model", "l3forwarding", "expected one of"),
        ("runtime.create_container_timeout", "0", "from 1"),
        ("runtime.sandbox_bind_mounts", "/etc", "not served"),
    ] {
        let name = format!("config.{name}");
        let error = with(file_config(), &[(&name, value)]).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidArgument);
        let error = error.to_string();
        assert!(error.starts_with(&format!("annotation io.katacontainers.{name} is {value:?}: ")), "{error}");
        assert!(error.contains(words), "{error}");
    }
    let error = with(file_config(), &[("config.agent.container_pipe_size", &"9".repeat(5000))]).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn a_name_that_is_not_enabled_is_refused_with_key_and_file() {
    for (enabled, name, allowed) in [
        (&[][..], "default_vcpus", false),
        (&["kernel_params"], "default_vcpus", false),
        (&["kernel_params", "default_v"], "default_vcpus", true),
        (&["kernel"], "kernel_params", true),
        (&["^default_memory$"], "default_vcpus", false),
    ] {
        let mut config = file_config();
        config.hypervisor.enable_annotations = enabled.iter().map(|name| (*name).to_owned()).collect();
        let full = format!("config.hypervisor.{name}");
        match with(config, &[(&full, "1")]) {
            Ok(_) => assert!(allowed, "{enabled:?} {name}"),
            Err(error) => {
                assert!(!allowed, "{enabled:?} {name}: {error}");
                let words = ["enable_annotations", "/etc/kata-containers/configuration.toml", &full];
                assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
            }
        }
    }
}

#[test]
fn what_nobody_reads_is_mentioned() {
    let (config, ignored) = with(
        file_config(),
        &[
            ("config.hypervisor.no_such_key", "1"),
            ("config.runtime.vfio_mode", "vfio"),
            ("config.hypervisor.enable_iommu", "false"),
            ("config.hypervisor.hot_plug_vfio", "no-port"),
            ("config_path", "/etc/other.toml"),
            ("container.resource.swappiness", "60"),
        ],
    )
    .unwrap();
    assert_eq!(config, file_config());
    let about: Vec<_> = ignored.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        about,
        [
            "annotation io.katacontainers.config.hypervisor.no_such_key",
            "annotation io.katacontainers.config_path",
            "annotation io.katacontainers.container.resource.swappiness",
        ]
    );
}

#[test]
fn others_annotations_and_marks_are_no_settings() {
    let of =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect::<Vec<_>>();
    let all = of(&["io.kubernetes.cri.container-type", "io.katacontainers.pkg.oci.bundle_path", "a"]);
    let (config, ignored) = file_config().annotated(all.iter().map(|(name, value)| (name, value))).unwrap();
    assert_eq!((config, ignored), (file_config(), Vec::new()));
    let ours = of(&["io.katacontainers.config.agent.container_pipe_size"]);
    file_config().annotated(ours.iter().map(|(name, value)| (name, value))).unwrap_err();
}

#[test]
fn limits_of_the_file_hold_and_what_excludes_each_other_is_told() {
    let mut config = file_config();
    (config.hypervisor.default_maxvcpus, config.hypervisor.default_maxmemory) = (2, 4096);
    for (name, value, allowed) in [
        ("default_vcpus", "2", true),
        ("default_vcpus", "3", false),
        ("default_max_vcpus", "3", false),
        ("default_memory", "4096", true),
        ("default_memory", "4097", false),
    ] {
        let name = format!("config.hypervisor.{name}");
        assert_eq!(with(config.clone(), &[(&name, value)]).is_ok(), allowed, "{name} {value}");
    }
    // One annotation limits the other.
    let both = [("config.hypervisor.default_vcpus", "3"), ("config.hypervisor.default_max_vcpus", "2")];
    assert!(with(file_config(), &both).is_err());

    let file = there("Cargo.toml");
    let both = [("config.hypervisor.image", file.as_str()), ("config.hypervisor.initrd", &file)];
    assert!(with(file_config(), &both).unwrap_err().to_string().contains("exclude each other"));
    let mut config = file_config();
    config.factory.enable_template = TemplateUse::Always;
    let error = with(config, &both[..1]).unwrap_err().to_string();
    assert!(error.contains("factory.enable_template"), "{error}");
}

#[test]
fn sizes_are_a_clones_and_all_else_takes_a_template_of_its_own() {
    for (name, value, own) in [
        ("hypervisor.default_vcpus", "2", false),
        ("hypervisor.default_memory", "4096", false),
        ("hypervisor.kernel_params", "b", true),
        ("hypervisor.memory_slots", "2", true),
        ("agent.container_pipe_size", "4096", true),
        ("agent.kernel_modules", "loop", false),
        ("runtime.disable_guest_seccomp", "false", false),
    ] {
        let config = read(&format!("config.{name}"), value);
        assert_eq!(config.template_of_its_own, own, "{name}");
        let base = config.templates_hypervisor();
        assert_eq!((base.default_vcpus, base.default_memory), (1.0, 2048), "{name}");
        assert_ne!(config, file_config(), "no VM that is kept ready is like it");
    }
    assert_eq!(read("config.hypervisor.default_vcpus", "1"), file_config());
}
