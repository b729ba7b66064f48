//! Into the cgroup that the engine names for a sandbox or a container; and the group of a sandbox's helpers.
//!
//! By the shim a sandbox enters its group if the configuration wants that. An engine of the command line reads what a
//! container uses in the group of its pid and nowhere else: the stand-in is in the group of each container, and the VM in
//! that of its first, unless a limit above would count the guest's kernel as the container's.

use tokio::task::spawn_blocking;

use crate::{
    bundle::{Bundle, Role},
    cgroup::{self, Group},
    config::Config,
    error::{Error, Result},
    ids::SandboxId,
    ledger::{Ledger, Resource},
    oom,
};

/// Makes the group that its helpers are born in, so that none is left when it is killed.
pub(super) fn house(id: &SandboxId, ledger: &Ledger) -> Result<()> {
    // Another root may have a sandbox of that name.
    let name = format!("kata-{id}-{}", std::process::id());
    let group = cgroup::nest(&name, |path| ledger.claim(Resource::Group { path }))?;
    group.into_iter().for_each(|group| ledger.house(group));
    Ok(())
}

/// Moves the sandbox's processes into its group. What they start later is born there.
pub(super) async fn group(
    config: &Config,
    bundle: &Bundle,
    processes: Vec<u32>,
    ledger: &Ledger,
) -> Result<()> {
    let is_wanted = config.runtime.sandbox_cgroup_only;
    if !is_wanted && bundle.stand_in.is_none() {
        return Ok(());
    }
    let group = match named(bundle) {
        Ok(Some(group)) => group,
        Err(error) if is_wanted => return Err(error),
        _ => return Ok(()),
    };
    let is_limited = || group.path(oom::CONTROLLER).is_some_and(|path| oom::tightest(&path).is_some());
    let of_vm = if is_wanted || !is_limited() { processes } else { Vec::new() };
    let processes = of_vm.into_iter().chain(bundle.stand_in).collect();
    if is_wanted {
        return enter(group, processes, ledger).await.1;
    }
    enter_if_free(group, processes, ledger).await;
    Ok(())
}

/// Moves the stand-in of a container in another's VM into the container's group; what that has claimed. The first one's is
/// where the VM is.
pub(super) async fn group_stand_in(bundle: &Bundle, ledger: &Ledger) -> Vec<Resource> {
    let joins = matches!(bundle.role, Role::PodContainer { .. });
    let Some(stand_in) = bundle.stand_in.filter(|_| joins) else { return Vec::new() };
    match named(bundle) {
        Ok(Some(group)) => enter_if_free(group, vec![stand_in], ledger).await,
        _ => Vec::new(),
    }
}

fn named(bundle: &Bundle) -> Result<Option<Group>> {
    let name = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    name.filter(|name| !name.as_os_str().is_empty()).map(Group::named).transpose()
}

/// A container does without what only its figures need.
async fn enter_if_free(group: Group, processes: Vec<u32>, ledger: &Ledger) -> Vec<Resource> {
    if group.has_members() {
        tracing::debug!(%group, "others are in it: it is left alone");
        return Vec::new();
    }
    let (claims, entered) = enter(group, processes, ledger).await;
    if let Err(error) = entered {
        tracing::debug!(%error, "figures are those of the group that the engine is in");
    }
    claims
}

async fn enter(group: Group, processes: Vec<u32>, ledger: &Ledger) -> (Vec<Resource>, Result<()>) {
    let ledger = ledger.clone();
    // The kernel may take its time.
    let entered = spawn_blocking(move || {
        let mut claims = Vec::new();
        let entered = group.enter(&processes, |path, home| {
            let claim = Resource::Cgroup { path, home };
            ledger.claim(claim.clone())?;
            claims.push(claim);
            Ok(())
        });
        (claims, entered)
    });
    entered.await.unwrap_or_else(|error| (Vec::new(), Err(Error::internal(error.to_string()))))
}
