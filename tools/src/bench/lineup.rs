//! Who is measured against whom: runc, each way to a VM that can be set up here, and QEMU driven by hand.
//!
//! A way counts as available only after a container was seen to run that way: a configuration that silently boots a VM
//! where a clone was asked for is told as missing, with the reason.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result, bail, ensure};
use toml_edit::{DocumentMut, Item, Value};

use super::{
    engine::{Engine, Role, Runtime},
    floor::{self, Floor},
    host::process,
    options::{Options, Way},
    pool::{self, Pool},
};

/// A template may be made beside the first VM of a configuration, not before it.
const TRIALS: usize = 3;

/// Who takes part.
pub struct Lineup {
    pub runc: Runtime,
    pub ours: Vec<Contender>,
    pub missing: Vec<(Way, String)>,
    pub floor: Result<Floor, String>,
    /// What our QEMU was started with, for the record.
    pub qemu: Vec<String>,
    /// KiB of a guest's RAM.
    pub guest_kib: u64,
}

/// One way that works here.
pub struct Contender {
    pub way: Way,
    pub runtime: Runtime,
    pool: Option<Mutex<Pool>>,
}

impl Lineup {
    /// Sets up every way that is asked for. Fails only if nothing of ours runs at all.
    pub fn prepare(options: &Options, engine: &Engine) -> Result<Self> {
        let runc = Runtime { name: "io.containerd.runc.v2", config: None };
        let (mut ours, mut missing) = (Vec::new(), Vec::new());
        let mut booted = None;
        for way in Way::ALL {
            // A booted VM tells what the hand-driven one is to be like.
            if way != Way::Cold && !options.ways().contains(&way) {
                continue;
            }
            eprintln!("==> set up: {}", way.label());
            match Contender::prepare(way, options, engine) {
                Ok((contender, qemu)) => {
                    if way == Way::Cold {
                        booted = Some(qemu);
                    }
                    if options.ways().contains(&way) {
                        ours.push(contender);
                    }
                }
                Err(error) if way == Way::Cold => return Err(error.context("boot a VM")),
                Err(error) => missing.push((way, format!("{error:#}"))),
            }
            engine.remove_all();
            engine.settle(0)?;
        }
        let qemu = booted.context("no VM was booted")?;
        eprintln!("==> set up: QEMU by hand");
        let floor = Floor::prepare(&qemu, &options.work.join("floor")).map_err(|error| format!("{error:#}"));
        ensure!(!ours.is_empty(), "none of these ways can be set up: {missing:?}");
        let guest_kib = floor::guest_kib(&qemu)?;
        Ok(Self { runc, ours, missing, floor, qemu, guest_kib })
    }

    /// The way that a start takes as configured by default.
    pub fn usual(&self) -> &Contender {
        let copied = self.ours.iter().find(|contender| contender.way == Way::Copied);
        copied.unwrap_or(&self.ours[0])
    }
}

impl Contender {
    fn prepare(way: Way, options: &Options, engine: &Engine) -> Result<(Self, Vec<String>)> {
        let config = options.work.join(format!("{}.toml", way.word()));
        configure(&options.config, &config, &settings(way, &options.work))?;
        let pool = match way {
            Way::Pool => Some(Mutex::new(Pool::start(&options.kata_runtime, &config, &options.work)?)),
            _ => None,
        };
        let contender =
            Self { way, runtime: Runtime { name: "io.containerd.kata.v2", config: Some(config) }, pool };
        let mut last = None;
        for trial in 0..TRIALS {
            contender.ready(0)?;
            let id = format!("trial-{}-{trial}", way.word());
            engine.start(&contender.runtime, &id, Role::Alone)?;
            let seen = contender.seen(engine, &id);
            engine.remove(&id)?;
            engine.settle(0)?;
            match seen {
                Ok(qemu) => return Ok((contender, qemu)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no trial was made")?)
    }

    /// Waits until a start is what it is called: for a pool, until there is a VM in it.
    pub fn ready(&self, in_use: usize) -> Result<()> {
        let Some(pool) = &self.pool else { return Ok(()) };
        pool.lock().map_err(|_| anyhow::anyhow!("the pool's lock is poisoned"))?.fill(in_use)
    }

    /// QEMU's command line behind a container, if that came to be this way.
    fn seen(&self, engine: &Engine, id: &str) -> Result<Vec<String>> {
        let qemu = engine.sandbox(id)?.hypervisor.context("no QEMU is behind the container")?;
        let line = process::arguments(qemu);
        let cloned = line.iter().any(|word| word == "-incoming");
        match (self.way, &self.pool) {
            (Way::Cold, _) if cloned => bail!("a VM was cloned where one was to be booted"),
            (Way::Private | Way::Copied, _) if !cloned => bail!("the VM was booted, not cloned"),
            (Way::Pool, Some(pool)) => {
                let pool = pool.lock().map_err(|_| anyhow::anyhow!("the pool's lock is poisoned"))?;
                ensure!(pool.is_maker_of(qemu), "the VM did not come from the pool");
            }
            _ => {}
        }
        Ok(line)
    }
}

/// What is different in a way's configuration. All that it keeps on the host is below `work`.
fn settings(way: Way, work: &Path) -> Vec<(&'static str, Value)> {
    let template: PathBuf = work.join(format!("template-{}", way.word()));
    let text = |path: PathBuf| Value::from(path.to_string_lossy().into_owned());
    let mut settings = match way {
        Way::Cold => vec![("factory.enable_template", Value::from(false))],
        _ => vec![("factory.enable_template", Value::from(true)), ("factory.template_path", text(template))],
    };
    match way {
        Way::Cold => {}
        Way::Private => settings.extend([
            ("factory.template_memory", Value::from("private")),
            // A process beside QEMU would map the template's pages, not the clone's.
            ("hypervisor.qemu.shared_fs", Value::from("virtio-9p")),
        ]),
        Way::Copied => settings.push(("factory.template_memory", Value::from("copied"))),
        Way::Pool => settings.extend([
            ("factory.template_memory", Value::from("copied")),
            ("factory.vm_cache_number", Value::from(pool::SIZE as i64)),
            ("factory.vm_cache_endpoint", text(work.join("cache.sock"))),
        ]),
    }
    settings
}

/// Writes a configuration with keys set that it must know. To boot is what it does where it knows of nothing else.
pub fn configure(from: &Path, to: &Path, settings: &[(&str, Value)]) -> Result<()> {
    let text = fs::read_to_string(from).with_context(|| format!("read {}", from.display()))?;
    let mut document: DocumentMut = text.parse().with_context(|| from.display().to_string())?;
    for (key, value) in settings {
        let mut path = key.split('.');
        // Looked up first: the mutable look-up makes what is not there.
        if path.clone().try_fold(document.as_item(), |item, part| item.get(part)).is_none() {
            if value.as_bool() == Some(false) {
                continue;
            }
            bail!("the configuration knows no {key}");
        }
        let place = path.try_fold(document.as_item_mut(), |item: &mut Item, part| item.get_mut(part));
        *place.context("looked up above")? = Item::Value(value.clone());
    }
    fs::write(to, document.to_string()).with_context(|| format!("write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_configured_or_its_missing_key_named() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let work = Path::new("/w");
        fs::write(&from, "[hypervisor.qemu]\nshared_fs = \"virtio-fs\"\n").unwrap();
        configure(&from, &to, &settings(Way::Cold, work)).unwrap();
        let error = configure(&from, &to, &settings(Way::Copied, work)).unwrap_err().to_string();
        assert_eq!(error, "the configuration knows no factory.enable_template");

        let factory =
            "[factory]\nenable_template = \"auto\"\ntemplate_path = \"/t\"\ntemplate_memory = \"copied\"\n";
        fs::write(&from, format!("[hypervisor.qemu]\nshared_fs = \"virtio-fs\"\n{factory}")).unwrap();
        configure(&from, &to, &settings(Way::Private, work)).unwrap();
        let written: toml::Table = fs::read_to_string(&to).unwrap().parse().unwrap();
        assert_eq!(written["factory"]["enable_template"].as_bool(), Some(true));
        assert_eq!(written["factory"]["template_path"].as_str(), Some("/w/template-private"));
        assert_eq!(written["hypervisor"]["qemu"]["shared_fs"].as_str(), Some("virtio-9p"));
    }
}
