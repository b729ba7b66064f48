//! The namespaces that the containers of a sandbox share, kept alive by bind mounts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{gettid, sethostname},
};

use crate::error::{Context, Error, Result};

const DIR: &str = "/run/sandbox-ns";

/// Paths of the shared namespaces.
#[derive(Debug, Clone)]
pub struct SharedNamespaces {
    pub ipc: PathBuf,
    pub uts: PathBuf,
    /// The one that the others belong to, if it is not the guest's first.
    pub user: Option<PathBuf>,
    /// Where there is such a one, a process namespace that belongs to it.
    pub pid: Option<PathBuf>,
}

/// Sets the host name where it is called: that of the guest, for containers without a UTS namespace and new namespaces.
/// An empty one leaves it as it is.
pub fn name_guest(hostname: &str) -> Result<()> {
    match hostname {
        "" => Ok(()),
        name => sethostname(name).context(format!("set the host name {name:?}")),
    }
}

impl SharedNamespaces {
    /// Makes both; the host name in the new one is the guest's. Blocks.
    pub fn create() -> Result<Self> {
        // The namespaces are a thread's until they are bound; it is thrown away, and the agent keeps its own.
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS).context("unshare ipc and uts")?;
            let own = PathBuf::from(format!("/proc/self/task/{}/ns", gettid()));
            fs::create_dir_all(DIR).context(DIR)?;
            Ok(Self { ipc: keep(&own, "ipc")?, uts: keep(&own, "uts")?, user: None, pid: None })
        })
        .join()
        .map_err(|_| Error::internal("the thread that makes namespaces panicked"))?
    }

    /// Those of a process with a user namespace, whose own files only few may open. Blocks.
    pub fn held_by(pid: i32) -> Result<Self> {
        let own = PathBuf::from(format!("/proc/{pid}/ns"));
        let keep = |kind: &str| keep_as(&own.join(kind), &format!("{kind}-{pid}"));
        Ok(Self { ipc: keep("ipc")?, uts: keep("uts")?, user: Some(keep("user")?), pid: Some(keep("pid")?) })
    }

    /// Gives the sandbox another host name. Blocks.
    pub fn rename(&self, hostname: &str) -> Result<()> {
        let hostname = hostname.to_owned();
        self.in_uts(move || name_guest(&hostname))
    }

    /// Gives the sandbox another NIS domain name. Blocks.
    pub fn set_domain_name(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        // The file is that of the namespace of whoever opens it.
        self.in_uts(move || {
            fs::write("/proc/sys/kernel/domainname", &name).context(format!("set the domain name {name:?}"))
        })
    }

    fn in_uts(&self, change: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let uts = self.uts.clone();
        std::thread::spawn(move || {
            let namespace = fs::File::open(&uts).context(uts.display())?;
            setns(namespace, CloneFlags::CLONE_NEWUTS).context("enter the uts namespace")?;
            change()
        })
        .join()
        .map_err(|_| Error::internal("the thread that renames the sandbox panicked"))?
    }
}

fn keep(own: &Path, name: &str) -> Result<PathBuf> {
    keep_as(&own.join(name), name)
}

fn keep_as(namespace: &Path, name: &str) -> Result<PathBuf> {
    let path = Path::new(DIR).join(name);
    fs::File::create(&path).context(path.display())?;
    mount(Some(namespace), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context(format!("keep the {name} namespace"))?;
    Ok(path)
}
