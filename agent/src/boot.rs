//! The duties of pid 1 in an initrd: early mounts, modules, network loopback, and the power off at the end.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        resource::{Resource, setrlimit},
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::{Mode, umask},
    },
    unistd::{chdir, chroot, sethostname, setsid},
};

use crate::{
    container::make_cgroup_parent,
    error::{Context, Result},
    modules,
};

nix::ioctl_readwrite_bad!(get_interface_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// The default of `fs.nr_open`, above which the kernel grants none.
const OPEN_FILES: u64 = 1 << 20;

/// (source, target, type, flags, data)
type EarlyMount = (&'static str, &'static str, &'static str, MsFlags, &'static str);

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const EARLY_MOUNTS: [EarlyMount; 7] = [
    ("proc", "/proc", "proc", SAFE, ""),
    ("sysfs", "/sys", "sysfs", SAFE, ""),
    ("dev", "/dev", "devtmpfs", MsFlags::MS_NOSUID, ""),
    ("tmpfs", "/dev/shm", "tmpfs", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), ""),
    ("devpts", "/dev/pts", "devpts", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "ptmxmode=0666"),
    ("tmpfs", "/run", "tmpfs", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=0755"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", SAFE.union(MsFlags::MS_RELATIME), "nsdelegate"),
];

/// Everything up to the first thread. A guest that lacks one part may do without, so faults are reported and passed.
pub fn early() {
    umask(Mode::from_bits_truncate(0o022));
    // Each process of a container takes several of ours. A container is told its own limit by its spec.
    report(
        "limit of open files",
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).map_err(Into::into),
    );
    // In a user namespace nobody may ask for more than we have, and engines ask for what the host has.
    report(
        "limit of processes",
        setrlimit(Resource::RLIMIT_NPROC, libc::RLIM_INFINITY, libc::RLIM_INFINITY).map_err(Into::into),
    );
    report("make the root movable", leave_initramfs_root());
    for (source, target, fstype, flags, data) in EARLY_MOUNTS {
        let mounted = fs::create_dir_all(target)
            .map_err(crate::error::Error::from)
            .and_then(|()| mount(Some(source), target, Some(fstype), flags, Some(data)).map_err(Into::into));
        report(target, mounted);
    }
    report("group of all containers", make_cgroup_parent().map_err(Into::into));
    report("/dev/ptmx", use_own_ptmx());
    modules::load_listed();
    report("nodes of devices", modules::make_nodes(Path::new("/dev")));
    // Without a driver for it at the kernel's start, the console could not be opened for us.
    report("/dev/console", use_console());
    report("host name", set_hostname());
    report("loopback", raise_loopback());
    // A session of its own, so that a terminal opened later never becomes the agent's.
    let _ = setsid();
    // SAFETY: nobody reads the environment meanwhile: there is one thread.
    unsafe { std::env::set_var("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") };
}

/// Ends the guest. Returns only if the kernel refuses.
pub fn power_off() -> io::Error {
    nix::unistd::sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

fn report(what: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "boot");
    }
}

/// The kernel refuses to pivot away from its initramfs, which is what every container's root needs. So the root is bound
/// onto a directory and that mount takes the root's place; nothing is copied.
fn leave_initramfs_root() -> Result<()> {
    const NEW_ROOT: &str = "/n";
    fs::create_dir_all(NEW_ROOT)?;
    mount(Some("/"), NEW_ROOT, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    chdir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn use_own_ptmx() -> Result<()> {
    let path = Path::new("/dev/ptmx");
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(std::os::unix::fs::symlink("/dev/pts/ptmx", path)?)
}

/// Puts the standard streams on the console.
fn use_console() -> Result<()> {
    let console =
        fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/console")?;
    nix::unistd::dup2_stdin(&console)?;
    nix::unistd::dup2_stdout(&console)?;
    nix::unistd::dup2_stderr(&console)?;
    Ok(())
}

fn set_hostname() -> Result<()> {
    let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.split_whitespace().next().unwrap_or("localhost");
    sethostname(name).context(name)
}

fn raise_loopback() -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a zeroed ifreq is valid: an empty name and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    // SAFETY: the socket is open, and the struct lives across the call, which fills in the flags.
    unsafe { get_interface_flags(socket.as_raw_fd(), &mut request) }.context("read the flags of lo")?;
    // SAFETY: the call above has set this member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above.
    unsafe { set_interface_flags(socket.as_raw_fd(), &request) }.map(drop).context("raise lo")
}
