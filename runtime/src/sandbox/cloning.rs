//! The way of most VMs: a clone of a template, which the first one makes. Whatever goes wrong, a VM can still be booted.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use tokio::task::spawn_blocking;

use super::{Sandbox, boot, booting::Started, make_vm_dir, phase};
use crate::{
    agent::{AgentClient, become_template},
    config::{TemplateMemory, TemplateUse},
    container::sizing::{grown, growth, template_size},
    error::{Context, Error, ErrorKind, Result},
    ids::SandboxId,
    template::{Draft, Template, Templates},
    vm::{Channel, MemoryKind, MiB, PORTS, Vm, VmSize, VmSpec},
};

/// How a VM like `wanted` comes from a template.
struct Plan<'a> {
    wanted: &'a VmSpec,
    /// The template's size.
    size: VmSize,
    /// vCPUs in total, and memory to be added.
    growth: (u32, MiB),
    templates: Templates,
}

impl Sandbox {
    /// A clone like `wanted`; `None` if it has to be booted, with the reason in the log. Fails only if booting would,
    /// too.
    pub(super) async fn clone_vm(&self, wanted: &VmSpec) -> Result<Option<Started>> {
        let plan = match self.plan(wanted).await {
            Ok(Some(plan)) => plan,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(%error, "no templates");
                return Ok(None);
            }
        };
        let (template, new) = match self.find_or_make(&plan).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "no template could be made: this VM is booted");
                return Ok(None);
            }
        };
        let error = match self.start_clone(&plan, template).await {
            Ok(started) => return Ok(Some(started)),
            Err(error) => error,
        };
        clear(&wanted.dir).with_context(|| format!("clear {}", wanted.dir.display()))?;
        if let Some(why) = self.share.failure().await {
            // A boot meets this as well, and tells.
            tracing::warn!(%error, why, "no clone could be made, for the share is not served: this VM is booted");
            return Ok(None);
        }
        tracing::warn!(%error, "no clone could be made: this VM is booted, and the template made anew");
        if let Err(error) = blocking(move || plan.templates.condemn(new)).await {
            tracing::warn!(%error, "a template that is not to be used stays");
        }
        Ok(None)
    }

    async fn plan<'a>(&self, wanted: &'a VmSpec) -> Result<Option<Plan<'a>>> {
        let config = &self.setup.config;
        if config.factory.enable_template == TemplateUse::Never || config.template_obstacle().is_some() {
            return Ok(None);
        }
        // The share and the agent's channel may need one each.
        if wanted.nics.len() + 2 > PORTS {
            tracing::info!(interfaces = wanted.nics.len(), "more than a clone takes: this VM is booted");
            return Ok(None);
        }
        let host = boot::Host::look();
        let size = template_size(&config.templates_hypervisor(), host.cpus, host.memory);
        let Some(growth) = growth(size, wanted.size) else {
            tracing::debug!("no template can grow to the size of this VM");
            return Ok(None);
        };
        // Nothing of one sandbox or one template may be in the fingerprint.
        let nowhere = File::open("/dev/null").context("/dev/null")?;
        let mut spec = boot::template_spec(config, wanted, size, "/".into(), nowhere);
        spec.id = SandboxId::new("template")?;
        let Some(fingerprint) = self.setup.hypervisor.fingerprint(&spec).await? else {
            return Ok(None);
        };
        Ok(Some(Plan { wanted, size, growth, templates: Templates::new(config, &fingerprint)? }))
    }

    /// The templates for VMs like this sandbox's, which was not started.
    pub(crate) async fn templates(&self) -> Result<Templates> {
        let wanted = self.wanted()?;
        match self.plan(&wanted).await? {
            Some(plan) => Ok(plan.templates),
            None => Err(self.no_templates()),
        }
    }

    /// Makes the template for VMs like this sandbox's, which was not started, unless there is a good one. False if
    /// somebody else is at it.
    pub(crate) async fn make_template(&self) -> Result<bool> {
        let wanted = self.wanted()?;
        let plan = self.plan(&wanted).await?.ok_or_else(|| self.no_templates())?;
        let templates = plan.templates.clone();
        blocking(move || templates.forgive()).await?;
        Ok(self.find_or_make(&plan).await?.is_some())
    }

    fn wanted(&self) -> Result<VmSpec> {
        let wanted = super::lock(&self.vm_spec).clone();
        wanted.ok_or_else(|| Error::precondition("the sandbox was started already"))
    }

    fn no_templates(&self) -> Error {
        let why = self.setup.config.template_obstacle();
        Error::precondition(
            why.unwrap_or("factory.enable_template is false, or this hypervisor cannot save VMs"),
        )
    }

    /// The template, and whether it was made just now. `None` if somebody else is making one, or in vain.
    async fn find_or_make(&self, plan: &Plan<'_>) -> Result<Option<(Template, bool)>> {
        let began = Instant::now();
        let templates = plan.templates.clone();
        if blocking(move || Ok(templates.failed_lately())).await? {
            tracing::debug!("a clone of a new template has failed lately: this VM is booted");
            return Ok(None);
        }
        let templates = plan.templates.clone();
        match blocking(move || templates.find()).await {
            Ok(Some(template)) => {
                phase("template-find", began);
                return Ok(Some((template, false)));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "this template is not used, a new one is made"),
        }
        if self.setup.config.template_of_its_own {
            tracing::debug!("no template for what annotations ask for: this VM is booted");
            return Ok(None);
        }
        let (templates, memory) = (plan.templates.clone(), plan.size.memory.bytes());
        let Some(draft) = blocking(move || templates.begin(memory)).await? else {
            tracing::debug!("somebody else is making the template: this VM is booted");
            return Ok(None);
        };
        self.make(plan, draft).await?;
        phase("template-make", began);
        let templates = plan.templates.clone();
        Ok(blocking(move || templates.find()).await?.map(|template| (template, true)))
    }

    /// Boots a VM and saves it.
    async fn make(&self, plan: &Plan<'_>, draft: Draft) -> Result<()> {
        let dir = plan.wanted.dir.join("template");
        make_vm_dir(&dir, &self.ledger)?;
        let spec =
            boot::template_spec(&self.setup.config, plan.wanted, plan.size, dir.clone(), draft.memory()?);
        let vm = self.setup.hypervisor.boot(spec, &self.ledger).await?;
        let saved = self.save(&*vm, &draft).await;
        let stopped = vm.stop().await;
        saved.and(stopped).context("make a template")?;
        blocking(move || draft.finish()).await
    }

    async fn save(&self, vm: &dyn Vm, draft: &Draft) -> Result<()> {
        let port = template_port(vm)?;
        let becoming = become_template(&port, &self.setup.config.agent);
        let mut exited = vm.exited();
        tokio::select! {
            ready = becoming => ready?,
            exit = exited.wait_for(Option::is_some) => {
                let reason = exit.ok().and_then(|exit| exit.clone()).map_or_else(String::new, |exit| exit.reason);
                return Err(Error::unavailable(format!("the VM ended: {reason}")));
            }
        }
        // However it fails, such a VM may well be booted.
        vm.save(draft.state()?).await.map_err(|error| error.with_kind(ErrorKind::Internal))
    }

    async fn start_clone(&self, plan: &Plan<'_>, template: Template) -> Result<Started> {
        let began = Instant::now();
        let copied = self.setup.config.factory.template_memory == TemplateMemory::Copied;
        let file = Arc::new(if copied { template.empty_memory() } else { template.own_memory() }?);
        let memory = MemoryKind::File { file: file.clone(), shared: copied };
        let spec = boot::clone_spec(&self.setup.config, plan.wanted, plan.size, memory);
        let rescan = !spec.added.is_empty() || !spec.nics.is_empty() || spec.channel != Channel::Serial;
        // The hypervisor starts while its guest's memory is still on its way.
        let filling = blocking(move || {
            if copied { template.copy_memory(&file) } else { template.check_memory() }?;
            phase("template-memory", began);
            Ok(template)
        });
        let booting = async {
            self.share.serve().await?;
            let vm = self.setup.hypervisor.boot(spec, &self.ledger).await;
            phase("vm-start", began);
            vm
        };
        let (filled, booted) = tokio::join!(filling, booting);
        let vm = booted?;
        let reached = async {
            let template = filled?;
            let began = Instant::now();
            vm.restore(template.into_state()).await?;
            phase("vm-restore", began);
            let began = Instant::now();
            let port = template_port(&*vm)?;
            let agent = AgentClient::wake(&port, vm.agent_address(), rescan, &self.setup.config.agent);
            let (vcpus, memory) = plan.growth;
            let (agent, grown) = tokio::join!(self.greet(&*vm, agent), vm.add_memory(memory));
            let agent = grown.and(agent)?;
            if vcpus > plan.size.vcpus {
                agent.online(vcpus).await?;
            }
            phase("clone-wake", began);
            Ok(agent)
        };
        match reached.await {
            Ok(agent) => {
                let (vcpus, added) = plan.growth;
                Ok(Started { vm, agent: Arc::new(agent), size: grown(plan.size, vcpus, added) })
            }
            Err(error) => {
                if let Err(error) = vm.stop().await {
                    tracing::warn!(%error, "the VM of a failed clone does not end");
                }
                Err(error)
            }
        }
    }
}

/// Takes away what a VM that did not come up has left in the directory of the next.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn template_port(vm: &dyn Vm) -> Result<PathBuf> {
    vm.template_port().ok_or_else(|| Error::internal("the VM has no port for templates"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::internal(error.to_string()))?
}
