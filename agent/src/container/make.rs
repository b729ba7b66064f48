//! Making a container: what it is to find in the guest, and its init.

use std::{
    fs,
    path::{Path, PathBuf},
};

use oci_spec::runtime as oci;
use protocols::sysctl;
use tokio::task::spawn_blocking;

use super::{
    copy_up, devices,
    launch::{Launcher, StreamsWanted},
    nodes, oom, plain, plan, resources,
};
use crate::{
    error::{Context, Error, Result},
    modules,
    namespaces::SharedNamespaces,
    process::Process,
    safe_path,
};

/// How a guest's containers are kept apart.
pub enum Isolation {
    /// Namespaces, cgroups and a root file system of their own, made by the launcher.
    Full(Launcher),
    /// Plain child processes, for tests without a guest.
    PlainChildren,
}

/// What the sandbox has for a container.
pub struct Surroundings {
    pub shared: Option<SharedNamespaces>,
    /// The process namespace to join.
    pub pid_namespace: Option<PathBuf>,
    pub pipe_size: u32,
}

/// Makes its init, which waits, and what is around it in the guest. A failure may leave something.
pub(super) async fn init(
    id: &str,
    bundle: &Path,
    spec: oci::Spec,
    isolation: &Isolation,
    around: &Surroundings,
) -> Result<(Process, plan::Inherited)> {
    match isolation {
        Isolation::Full(launcher) => {
            let shared =
                around.shared.as_ref().ok_or_else(|| Error::internal("the sandbox has no namespaces"))?;
            let pid_namespace = around.pid_namespace.clone();
            let mut spec = spec;
            nodes::add_for_privileged(&mut spec, nodes::of_guest)?;
            let mut plan = plan::plan(
                id,
                spec,
                &plan::Surroundings { shared, pid_namespace, has_device: &devices::in_guest },
            )?;
            prepare_guest(&plan, shared)?;
            // Until the container has them.
            let _copied_up = copy_up(bundle, &mut plan.spec).await?;
            write_json(&bundle.join("config.json"), &plan.spec)?;
            let process =
                plan.spec.process().as_ref().ok_or_else(|| Error::invalid("process: is missing"))?;
            let streams = streams_wanted(process, &plan.inherited, around.pipe_size);
            let init = launcher.create(id, bundle, streams).await?;
            resources::apply(id, &plan.resources)?;
            if oom::kills(id) > 0 {
                return Err(Error::internal(
                    "unable to start container process: container init was OOM-killed (memory limit too low?)",
                ));
            }
            Ok((init, plan.inherited))
        }
        Isolation::PlainChildren => {
            let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process: is missing"))?;
            Ok((plain::create(bundle, process, around.pipe_size)?, plan::Inherited::default()))
        }
    }
}

async fn copy_up(bundle: &Path, spec: &mut oci::Spec) -> Result<copy_up::CopiedUp> {
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if !mounts.iter().any(|mount| mount.options().iter().flatten().any(|option| option == copy_up::WORD)) {
        return Ok(copy_up::CopiedUp::default());
    }
    let bundle = bundle.to_owned();
    let (made, mounts) = spawn_blocking(move || {
        let made = copy_up::prepare(&bundle, &root, &mut mounts)?;
        Ok::<_, Error>((made, mounts))
    })
    .await
    .map_err(|error| Error::internal(error.to_string()))??;
    spec.set_mounts(Some(mounts));
    Ok(made)
}

/// What a container changes outside of itself.
fn prepare_guest(plan: &plan::Plan, shared: &SharedNamespaces) -> Result<()> {
    for (name, value) in &plan.net_sysctls {
        let files = sysctl::files(name).map(|file| Path::new("/proc/sys").join(file));
        let file = files.iter().find(|file| file.exists()).unwrap_or(&files[0]);
        fs::write(file, value).context(format!("sysctl {name:?}: write {value:?}"))?;
    }
    if let Some(name) = &plan.domain_name {
        shared.set_domain_name(name)?;
    }
    load_filters(&plan.spec);
    make_cwd(&plan.spec)
}

/// Loads what the kernel does not by itself: the older iptables asks for its tables only where this is there. Without, a
/// container that sets filters is told so by its tool.
fn load_filters(spec: &oci::Spec) {
    let capabilities = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let allowed = capabilities.and_then(|sets| sets.bounding().as_ref());
    if allowed.is_some_and(|allowed| allowed.contains(&oci::Capability::NetAdmin)) {
        for name in ["ip_tables", "ip6_tables"] {
            if let Err(error) = modules::load_on_demand(name, "") {
                tracing::debug!(%error, name, "not loaded"); // Built in, as a rule.
            }
        }
    }
}

pub(super) fn streams_wanted(
    process: &oci::Process,
    inherited: &plan::Inherited,
    pipe_size: u32,
) -> StreamsWanted {
    let side = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
    StreamsWanted {
        terminal: process.terminal().unwrap_or(false),
        size: process.console_size().map(|size| (side(size.height()), side(size.width()))),
        owner: inherited.guest_uid(process.user().uid()),
        pipe_size,
    }
}

/// Images name working directories that they do not have; every engine expects the runtime to make them: in the volume
/// where it lies, or in the root file system.
fn make_cwd(spec: &oci::Spec) -> Result<()> {
    let (Some(root), Some(process)) = (spec.root(), spec.process()) else {
        return Ok(());
    };
    let cwd = process.cwd();
    let around = spec.mounts().iter().flatten().filter(|mount| cwd.starts_with(mount.destination()));
    let (base, below) = match around.max_by_key(|mount| mount.destination().as_os_str().len()) {
        None => (root.path().clone(), cwd.as_path()),
        Some(mount) => {
            match (mount.typ().as_deref(), mount.source(), cwd.strip_prefix(mount.destination())) {
                (Some("bind"), Some(source), Ok(below)) if !below.as_os_str().is_empty() => {
                    (source.clone(), below)
                }
                // What any other mount brings is not there yet.
                _ => return Ok(()),
            }
        }
    };
    safe_path::create_dir_all(&base, below).context(format!("process.cwd: create {}", cwd.display()))
}

pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::internal(error.to_string()))?;
    fs::write(path, text).context(format!("write {}", path.display()))
}
