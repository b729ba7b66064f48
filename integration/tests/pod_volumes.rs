//! A pod's volumes, made on the host as the kubelet makes them, with the reference first.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use integration::kubelet::{KATA, KATA_SANDBOX, Kubelet, RUNC};
use k8s_cri::v1::{ContainerConfig, Device, Mount, MountPropagation, PodSandboxConfig};
use nix::{
    mount::{MsFlags, mount},
    sys::stat::{Mode, SFlag, makedev, mknod},
};

/// What the kubelet has of one pod.
struct Pod<'a> {
    kubelet: &'a Kubelet,
    config: PodSandboxConfig,
    id: String,
    dir: PathBuf,
}

impl<'a> Pod<'a> {
    fn run(kubelet: &'a Kubelet, handler: &str) -> Self {
        let config = kubelet.pod("volumes");
        let uid = &config.metadata.as_ref().unwrap().uid;
        let dir = kubelet.containerd.dir().join("pods").join(uid);
        fs::create_dir_all(&dir).unwrap();
        let id = kubelet.run_pod(handler, &config).unwrap();
        Self { kubelet, config, id, dir }
    }

    /// A volume's folder, by the kind's name in the kubelet's tree.
    fn volume(&self, kind: &str, name: &str) -> PathBuf {
        let dir = self.dir.join("volumes").join(format!("kubernetes.io~{kind}")).join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn start(&self, config: &ContainerConfig) -> String {
        let id = self.kubelet.create(&self.id, config, &self.config).unwrap();
        self.kubelet.start_container(&id).unwrap();
        id
    }

    /// Binds a path of a volume where the kubelet keeps those that a container sees alone.
    fn subpath(&self, path: &Path, volume: &str, number: u32) -> PathBuf {
        let point = self.dir.join("volume-subpaths").join(volume).join("main").join(number.to_string());
        fs::create_dir_all(point.parent().unwrap()).unwrap();
        match path.is_dir() {
            true => fs::create_dir(&point).unwrap(),
            false => fs::write(&point, "").unwrap(),
        }
        mount(Some(path), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        point
    }

    fn removed(self) {
        self.kubelet.remove_pod(&self.id).unwrap();
        self.kubelet.containerd.assert_gone(&self.id);
    }
}

fn bound(host: &Path, container: &str) -> Mount {
    Mount { host_path: host.display().to_string(), container_path: container.into(), ..Default::default() }
}

fn read_only(host: &Path, container: &str) -> Mount {
    Mount { readonly: true, ..bound(host, container) }
}

/// Writes a volume of small files as the kubelet does: a new folder, and one link that is replaced at once.
fn write_atomically(volume: &Path, version: &str, files: &[(&str, &str)]) {
    let folder = volume.join(format!("..{version}"));
    fs::create_dir(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
        if !volume.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
        }
    }
    let former = fs::read_link(volume.join("..data")).ok();
    symlink(folder.file_name().unwrap(), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if let Some(former) = former {
        fs::remove_dir_all(volume.join(former)).unwrap();
    }
}

/// Asserts that a container's file soon has this content.
fn assert_soon(pod: &Pod<'_>, container: &str, file: &str, text: &str) {
    // Without a process for each look: they are slow in an emulated guest.
    let script = format!(
        "n=0; until read -r line < {file} && [ \"$line\" = '{text}' ]; do sleep 0.1; done; echo seen"
    );
    let seen = pod.kubelet.exec(container, &script, 60);
    assert!(seen.as_ref().is_ok_and(|(code, _)| *code == 0), "{file}: {text}: {seen:?}");
}

fn facts(pod: &Pod<'_>, container: &str, script: &str) -> Vec<String> {
    let (_, said) = pod.kubelet.exec(container, &format!("exec 2> /dev/null; {script}"), 20).unwrap();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn volumes_are_as_the_kubelet_made_them() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [RUNC, KATA] {
        let pod = Pod::run(&kubelet, handler);
        let host = kubelet.containerd.dir().join(format!("host-{handler}"));
        fs::create_dir_all(host.join("below")).unwrap();
        fs::write(host.join("file"), "of the host\n").unwrap();
        mount(Some("tmpfs"), &host.join("below"), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let memory = pod.volume("empty-dir", "memory");
        mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        let disk = pod.volume("empty-dir", "disk");
        for dir in [&memory, &disk] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::create_dir_all(disk.join("sub/dir")).unwrap();
        fs::write(disk.join("sub/key"), "sub file\n").unwrap();
        let hosts = pod.dir.join("etc-hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n10.1.2.3 pod-host\n").unwrap();
        let last_words = pod.dir.join("containers/main/0123abcd");
        fs::create_dir_all(last_words.parent().unwrap()).unwrap();
        fs::write(&last_words, "").unwrap();
        fs::set_permissions(&last_words, fs::Permissions::from_mode(0o666)).unwrap();

        let mut main = kubelet
            .script("main", "trap 'echo last words > /dev/termination-log; exit 3' TERM; sleep 1000 & wait");
        main.mounts = vec![
            bound(&host, "/host"),
            read_only(&host, "/host-ro"),
            bound(&host.join("file"), "/file"),
            read_only(&host.join("file"), "/file-ro"),
            bound(&memory, "/memory"),
            bound(&disk, "/disk"),
            bound(&pod.subpath(&disk.join("sub/dir"), "disk", 0), "/sub/dir"),
            read_only(&pod.subpath(&disk.join("sub/key"), "disk", 1), "/etc/app/key"),
            bound(&hosts, "/etc/hosts"),
            bound(&last_words, "/dev/termination-log"),
            Mount {
                propagation: MountPropagation::PropagationHostToContainer as i32,
                ..bound(&disk, "/follows")
            },
            Mount {
                propagation: MountPropagation::PropagationBidirectional as i32,
                ..bound(&host.join("below"), "/both")
            },
        ];
        let beside = ContainerConfig {
            mounts: vec![bound(&memory, "/m"), bound(&disk, "/d")],
            ..kubelet.script("beside", "sleep 1000")
        };
        // containerd wants the source of a mount that propagates to be shared on the host.
        mount(Some(&disk), &disk, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        for point in [&disk, &host.join("below")] {
            mount(None::<&str>, point, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        }
        let (main_id, beside_id) = (pod.start(&main), pod.start(&beside));
        let found = facts(
            &pod,
            &main_id,
            "cat /host/file /file-ro /etc/app/key /etc/hosts; echo more >> /file && echo file; \
             echo x > /file-ro || echo file ro; echo x > /host-ro/x || echo dir ro; echo x > /etc/app/key || echo key ro; \
             echo x > /host/made && echo dir; stat -f -c '%b %S' /memory; \
             dd if=/dev/zero of=/memory/big bs=64k count=32 || echo full; ls -l /memory/big | awk '{print $5}'; rm /memory/big; \
             echo m > /memory/x; echo d > /disk/x; echo s > /sub/dir/made; chmod 640 /disk/x; ln -s x /disk/link; \
             ln /disk/x /disk/hard; mkfifo /disk/pipe; stat -c '%a %h %F' /disk/x; stat -c %F /disk/link /disk/pipe; \
             echo b > /host/below/x && echo below; grep -c nameserver /etc/resolv.conf; ls -a /sub/dir | wc -l; \
             stat -c %F /etc/hostname; cat /etc/hostname; ls -d /follows/sub; cat /both/x",
        );
        let expected = [
            "of the host",
            "of the host",
            "sub file",
            "127.0.0.1 localhost",
            "10.1.2.3 pod-host",
            "file",
            "file ro",
            "dir ro",
            "key ro",
            "dir",
            "256 4096",
            "full",
            "1048576",
            "640 2 regular file",
            "symbolic link",
            "fifo",
            "below",
        ];
        assert_eq!(found[..expected.len()], expected, "{handler}");
        let rest = &found[expected.len() + 1..];
        assert_eq!(rest, ["3", "regular file", "pod-host", "/follows/sub", "b"], "{handler}");
        assert_eq!(facts(&pod, &beside_id, "cat /m/x /d/x /d/sub/dir/made"), ["m", "d", "s"], "{handler}");
        // What a container wrote is on the host, and the other way round.
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "of the host\nmore\n");
        assert!(
            host.join("made").exists() && memory.join("x").exists() && disk.join("sub/dir/made").exists()
        );
        fs::write(disk.join("sub/key"), "anew\n").unwrap();
        fs::write(disk.join("sub/dir/made"), "anew\n").unwrap();
        fs::write(memory.join("x"), "anew\n").unwrap();
        for file in ["/etc/app/key", "/sub/dir/made", "/memory/x", "/disk/sub/key"] {
            assert_soon(&pod, &main_id, file, "anew");
        }
        // What is mounted later is seen as well.
        fs::create_dir(disk.join("late")).unwrap();
        mount(Some("tmpfs"), &disk.join("late"), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        fs::write(disk.join("late/file"), "late\n").unwrap();
        assert_soon(&pod, &main_id, "/follows/late/file", "late");
        if handler == KATA {
            // A difference: it shows as well where the volume was not to follow the host.
            assert_soon(&pod, &main_id, "/disk/late/file", "late");
        }
        kubelet.stop_container(&main_id, 10).unwrap();
        assert_eq!(fs::read_to_string(&last_words).unwrap(), "last words\n", "{handler}");
        // A container that starts again finds its volumes.
        kubelet.remove_container(&main_id).unwrap();
        let main_id = pod.start(&main);
        assert_eq!(facts(&pod, &main_id, "cat /memory/x /disk/x"), ["anew", "d"], "{handler}");
        pod.removed();
        assert!(memory.join("x").exists(), "volumes are the kubelet's to remove");
    }
}

#[test]
fn changes_of_small_files_are_seen_at_once_and_as_a_whole() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [RUNC, KATA] {
        let pod = Pod::run(&kubelet, handler);
        let volumes = [
            ("configmap", "/config"),
            ("secret", "/secret"),
            ("downward-api", "/downward"),
            ("projected", "/token"),
        ];
        let folders = volumes.map(|(kind, _)| pod.volume(kind, "v"));
        for (folder, (kind, _)) in folders.iter().zip(volumes) {
            if kind == "secret" || kind == "projected" {
                mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
            }
            write_atomically(folder, "1", &[("key", "first\n"), ("pair", "first\n")]);
        }
        let subpath = pod.subpath(&folders[0].join("key").canonicalize().unwrap(), "config", 0);
        let mut config = kubelet.script("main", "sleep 1000");
        config.mounts =
            folders.iter().zip(volumes).map(|(folder, (_, point))| read_only(folder, point)).collect();
        config.mounts.push(read_only(&subpath, "/alone"));
        let id = pod.start(&config);
        let read = "cat /config/key /secret/key /downward/key /token/key /alone";
        assert_eq!(facts(&pod, &id, read), ["first"; 5], "{handler}");
        for version in ["second", "third"] {
            for folder in &folders {
                let text = format!("{version}\n");
                write_atomically(folder, version, &[("key", &text), ("pair", &text), ("added", &text)]);
            }
            for (_, point) in volumes {
                assert_soon(&pod, &id, &format!("{point}/key"), version);
                // One link was replaced, so all of them are new.
                let all = facts(&pod, &id, &format!("cat {point}/pair {point}/added; ls {point}"));
                assert_eq!(all, [version, version, "added", "key", "pair"], "{handler} {point}");
            }
            // Bound by itself, a file stays what it was: so the documentation of Kubernetes has it.
            assert_eq!(facts(&pod, &id, "cat /alone"), ["first"], "{handler}");
        }
        pod.removed();
    }
}

#[test]
fn volumes_of_other_containerds_are_the_same() {
    for (release, handler) in [("1.7", KATA), ("2", KATA), ("2", KATA_SANDBOX)] {
        let Some(kubelet) = Kubelet::start(release) else { continue };
        let pod = Pod::run(&kubelet, handler);
        let (memory, disk) = (pod.volume("empty-dir", "memory"), pod.volume("empty-dir", "disk"));
        mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        fs::write(disk.join("key"), "sub file\n").unwrap();
        let small = pod.volume("configmap", "small");
        write_atomically(&small, "1", &[("key", "first\n")]);
        let mounts = vec![
            bound(&memory, "/memory"),
            bound(&disk, "/disk"),
            read_only(&small, "/small"),
            read_only(&pod.subpath(&disk.join("key"), "disk", 0), "/etc/app/key"),
        ];
        let ids = ["main", "beside"].map(|name| {
            let mounts = mounts.clone();
            pod.start(&ContainerConfig { mounts, ..kubelet.script(name, "sleep 1000") })
        });
        let script = "cat /small/key /etc/app/key; echo m > /memory/x; echo d > /disk/x; echo shared > /dev/shm/x; \
             echo x > /small/x || echo closed; stat -f -c '%b %S' /memory; hostname";
        let expected = ["first", "sub file", "closed", "256 4096", "pod-host"];
        assert_eq!(facts(&pod, &ids[0], script), expected, "{release} {handler}");
        let found = facts(&pod, &ids[1], "cat /memory/x /disk/x /dev/shm/x");
        assert_eq!(found, ["m", "d", "shared"], "{release} {handler}");
        assert_eq!(fs::read_to_string(disk.join("x")).unwrap(), "d\n");
        write_atomically(&small, "2", &[("key", "second\n")]);
        assert_soon(&pod, &ids[1], "/small/key", "second");
        pod.removed();
    }
}

#[test]
fn a_group_owns_the_volumes_of_its_pod() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [RUNC, KATA] {
        let pod = Pod::run(&kubelet, handler);
        let volume = pod.volume("empty-dir", "group");
        fs::create_dir(volume.join("dir")).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        for (path, mode) in
            [(volume.clone(), 0o2770), (volume.join("dir"), 0o2770), (volume.join("file"), 0o660)]
        {
            chown(&path, None, Some(2000)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut config = kubelet.script("main", "sleep 1000");
        config.mounts = vec![bound(&volume, "/volume")];
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.run_as_user = Some(k8s_cri::v1::Int64Value { value: 1000 });
        context.run_as_group = Some(k8s_cri::v1::Int64Value { value: 3000 });
        context.supplemental_groups = vec![2000];
        let id = pod.start(&config);
        let found = facts(
            &pod,
            &id,
            "echo x > /volume/file && echo written; echo x > /volume/made && echo made; mkdir /volume/dir/more && echo dir; \
             mkfifo /volume/pipe && echo pipe; ln -s x /volume/link && echo link; mv /volume/made /volume/dir/ && echo moved; \
             rm /volume/file && echo removed; stat -c '%u %g' /volume/dir/made /volume/dir/more",
        );
        let expected =
            ["written", "made", "dir", "pipe", "link", "moved", "removed", "1000 2000", "1000 2000"];
        assert_eq!(found, expected, "{handler}");

        let mut config = ContainerConfig { mounts: config.mounts, ..kubelet.script("other", "sleep 1000") };
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.run_as_user = Some(k8s_cri::v1::Int64Value { value: 1001 });
        context.run_as_group = Some(k8s_cri::v1::Int64Value { value: 1001 });
        let id = pod.start(&config);
        let script =
            "echo x > /volume/x || echo no; mkdir /volume/dir/x || echo none; ls /volume || echo closed";
        assert_eq!(facts(&pod, &id, script), ["no", "none", "closed"], "{handler}");
        pod.removed();
    }
}

#[test]
fn what_a_vm_cannot_have_is_refused_by_name() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod = Pod::run(&kubelet, KATA);
    let refusal = |name: &str, change: &dyn Fn(&mut ContainerConfig)| {
        let mut config = kubelet.script(name, "sleep 1000");
        change(&mut config);
        let made = kubelet.create(&pod.id, &config, &pod.config);
        let started = made.and_then(|id| kubelet.start_container(&id));
        started.unwrap_err().message().to_owned()
    };
    let disk = kubelet.containerd.dir().join("disk");
    mknod(&disk, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(7, 200)).unwrap();
    let said = refusal("block", &|config| {
        let host_path = disk.display().to_string();
        config.devices =
            vec![Device { container_path: "/dev/xvda".into(), host_path, permissions: "mrw".into() }];
    });
    assert!(said.contains("/dev/xvda (7:200): the host has no such block device"), "{said}");
    let said = refusal("disk", &|config| config.mounts = vec![bound(&disk, "/disk")]);
    assert!(said.contains("/disk (7:200): the host has no such block device"), "{said}");
    let socket = kubelet.containerd.dir().join("service.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let said = refusal("socket", &|config| config.mounts = vec![bound(&socket, "/run/service.sock")]);
    assert!(
        said.contains("service.sock is a socket of the host, which the guest cannot connect to"),
        "{said}"
    );

    // A folder with one in it is shared, and only the socket is out of reach.
    let id = pod.start(&ContainerConfig {
        mounts: vec![bound(kubelet.containerd.dir(), "/run/host")],
        ..kubelet.script("folder", "sleep 1000")
    });
    assert_eq!(facts(&pod, &id, "stat -c %F /run/host/service.sock"), ["socket"]);
    pod.removed();
}
