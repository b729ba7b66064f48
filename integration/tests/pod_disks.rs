//! Block devices of the host for a pod's containers, as the kubelet passes those of `volumeDevices`, with the reference first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use integration::kubelet::{KATA, Kubelet, RUNC};
use k8s_cri::v1::{ContainerConfig, Device, Mount};

/// A file as a block device.
struct Loop(PathBuf);

impl Loop {
    /// `None` where the host has no such devices.
    fn over(dir: &Path, name: &str, text: &str) -> Option<Self> {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        match made {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            refused => {
                eprintln!("skipped: no loop device: {refused:?}");
                None
            }
        }
    }

    fn is_used(&self) -> bool {
        let name = self.0.file_name().unwrap().to_str().unwrap().to_owned();
        self.detach();
        // What somebody has open goes when it is closed.
        Path::new("/sys/block").join(name).join("loop").exists()
    }

    fn detach(&self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).output(); // A test may have done so.
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.detach();
    }
}

fn device(disk: &Loop, container_path: &str, permissions: &str) -> Device {
    Device {
        host_path: disk.0.display().to_string(),
        container_path: container_path.into(),
        permissions: permissions.into(),
    }
}

fn with_devices(kubelet: &Kubelet, name: &str, devices: Vec<Device>) -> ContainerConfig {
    ContainerConfig { devices, ..kubelet.script(name, "sleep 1000") }
}

#[test]
fn a_disk_of_the_host_is_one_of_the_container_and_goes_with_its_last() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [RUNC, KATA] {
        let dir = kubelet.containerd.dir();
        let Some(data) = Loop::over(dir, "data", "first") else { return };
        let Some(fixed) = Loop::over(dir, "fixed", "fixed") else { return };
        let pod_config = kubelet.pod("disks");
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let asked = vec![device(&data, "/dev/xvda", "mrw"), device(&fixed, "/dev/disk/b", "mr")];
        let first = kubelet.run(&pod, &with_devices(&kubelet, "first", asked), &pod_config).unwrap();
        let found = kubelet.inside(
            &first,
            "exec 2> /dev/null; stat -c %F /dev/xvda /dev/disk/b; head -c 5 /dev/xvda; echo; head -c 5 /dev/disk/b; echo; \
             wc -c < /dev/xvda; printf other | dd of=/dev/xvda conv=notrunc,fsync && echo written; \
             (printf x > /dev/disk/b) || echo fixed; head -c 5 /dev/xvda",
        );
        let expected = [
            "block special file",
            "block special file",
            "first",
            "fixed",
            "1048576",
            "written",
            "fixed",
            "other",
        ];
        assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{handler}");
        assert_eq!(&fs::read(&data.0).unwrap()[..5], b"other", "{handler}: as the host sees it");

        // Another container has it by another name, and still when the first has gone.
        let asked = vec![device(&data, "/dev/own", "mrw")];
        let second = kubelet.run(&pod, &with_devices(&kubelet, "second", asked), &pod_config).unwrap();
        kubelet.stop_container(&first, 0).unwrap();
        kubelet.remove_container(&first).unwrap();
        let found = kubelet.inside(&second, "head -c 5 /dev/own; ls /dev/xvda 2> /dev/null || echo ' only'");
        assert_eq!(found, "other only\n", "{handler}");
        assert!(!fixed.is_used(), "{handler}: a disk that nobody has is given up");
        kubelet.stop_container(&second, 0).unwrap();
        kubelet.remove_container(&second).unwrap();
        assert!(!data.is_used(), "{handler}: so is the other");

        // What has gone can come again.
        let Some(again) = Loop::over(dir, "again", "again") else { return };
        let asked = vec![device(&again, "/dev/xvda", "mrw")];
        let third = kubelet.run(&pod, &with_devices(&kubelet, "third", asked), &pod_config).unwrap();
        assert_eq!(kubelet.inside(&third, "head -c 5 /dev/xvda"), "again", "{handler}");
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
        assert!(!again.is_used(), "{handler}: with the pod, too");
    }
}

#[test]
fn a_bound_node_of_a_disk_can_be_used_by_who_may() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let Some(disk) = Loop::over(kubelet.containerd.dir(), "disk", "hello") else { return };
    let mut pod_config = kubelet.pod("disks");
    pod_config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap().privileged = true;
    for handler in [RUNC, KATA] {
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let mut config = kubelet.script("bound", "sleep 1000");
        config.mounts = vec![Mount {
            host_path: disk.0.display().to_string(),
            container_path: "/mnt/disk".into(),
            ..Default::default()
        }];
        let script = "head -c 5 /mnt/disk 2> /dev/null || echo refused";
        let id = kubelet.run(&pod, &config, &pod_config).unwrap();
        assert_eq!(kubelet.inside(&id, script), "refused\n", "{handler}: no rule lets it");
        config.metadata.as_mut().unwrap().name = "privileged".into();
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
        context.privileged = true;
        let id = kubelet.run(&pod, &config, &pod_config).unwrap();
        assert_eq!(kubelet.inside(&id, script), "hello", "{handler}: privileged");
        kubelet.remove_pod(&pod).unwrap();
    }
}
