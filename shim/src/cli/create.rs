//! `create`: a container whose program waits for `start`. Also the first half of `run`.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Child,
    time::SystemTime,
};

use clap::Args;
use containerd_shim_protos::api::CreateTaskRequest;
use nix::unistd::geteuid;
use oci_spec::runtime::LinuxNamespaceType;
use runtime::{
    bundle::{self, Bundle},
    config::Config,
    error::{Context, Error, Result},
    features::SPEC,
    ids::{ContainerId, SandboxId},
    ledger::ProcessId,
};

use super::{
    client::Client,
    clock, console,
    end::undo,
    files,
    global::{Global, container_id},
    join::host_of,
    proxy::Network,
    record::{Home, Record, write_whole},
    size::Size,
    spawn::{self, Role, StandIn},
    streams::Streams,
};
use crate::convert;

#[derive(Debug, Args)]
pub struct Create {
    /// The container's name, which no other has
    #[arg(value_name = "container-id")]
    pub id: String,
    /// The directory with config.json; the current one if none is named
    #[arg(short, long)]
    bundle: Option<PathBuf>,
    /// A unix socket that is sent the master of the container's terminal
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// A file for the pid that stands for the container
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Of no effect: nothing is pivoted on the host
    #[arg(long)]
    no_pivot: bool,
    /// Of no effect: a VM has keyrings of its own
    #[arg(long)]
    no_new_keyring: bool,
    /// Refused but for 0: an open file of the host cannot be one in a VM
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
}

/// Who has the container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Detached,
    /// This command, until the container ends.
    Foreground,
}

/// A container that waits for its start.
pub struct Created {
    pub home: Home,
    pub record: Record,
    pub client: Client,
    pub stand_in: Child,
    /// Of a foreground process: gives the terminal back when dropped.
    pub terminal: Option<console::Raw>,
}

impl Create {
    pub fn run(self, global: &Global) -> Result<()> {
        self.create(global, Mode::Detached).map(drop).context("kata-runtime create failed")
    }

    /// Makes the container. On failure nothing of it is left.
    pub fn create(&self, global: &Global, mode: Mode) -> Result<Created> {
        let id = container_id(&self.id)?;
        if !geteuid().is_root() {
            return Err(Error::precondition(
                "a container needs root, or root of a user namespace: Podman makes one for its users, and so does \
                 unshare --map-root-user --mount",
            ));
        }
        let mut bundle = self.load()?;
        check_terminal(has_terminal(&bundle), mode, self.console_socket.is_some())?;
        refuse_descriptors(self.preserve_fds)?;
        let config = Config::find(global.config.as_deref())?;
        let host = host_of(&global.root, &bundle)?;
        if let Some((_, host)) = &host {
            bundle.role = bundle::Role::PodContainer { sandbox: SandboxId::new(&host.sandbox)? };
        }
        if host.is_none() {
            bundle.sandbox_name = Some(global.root.unused_sandbox(&id)?);
        }
        let sandbox = bundle.sandbox_id(&id)?.to_string();
        let home = global.root.claim(&id)?;
        let mut record = describe(&self.id, &bundle, sandbox, host.is_none(), &config);
        let network = network(&bundle, &config, host.as_ref().and_then(|(_, host)| host.stand_in));
        let made = serve(global, &home, &mut record, &config, host.as_ref())
            .and_then(|()| self.make(mode, &home, &mut record, &bundle, network));
        match made {
            Ok((client, stand_in, terminal)) => Ok(Created { home, record, client, stand_in, terminal }),
            Err(error) => {
                if let Err(left) = undo(&home, &record) {
                    return Err(error.context(format!("(and something is left: {left})")));
                }
                Err(match host {
                    Some((_, host)) => error.context(format!("in the VM of {}", host.id)),
                    None => error,
                })
            }
        }
    }

    fn load(&self) -> Result<Bundle> {
        let dir = self.bundle.as_deref().unwrap_or(Path::new("."));
        let dir = dir.canonicalize().with_context(|| format!("bundle {}", dir.display()))?;
        Bundle::load(&dir)
    }

    fn make(
        &self,
        mode: Mode,
        home: &Home,
        record: &mut Record,
        bundle: &Bundle,
        network: Network,
    ) -> Result<(Client, Child, Option<console::Raw>)> {
        let Ends { streams, console, terminal } =
            Ends::open(has_terminal(bundle), console_size(bundle), mode, self.console_socket.as_deref())?;
        // One that is not there is refused by the server.
        let files = Some(files::of(bundle)).filter(|files| files.rootfs.is_dir());
        let role = Role { container: &self.id, exec: None, network, files, console };
        let mut stand_in = StandIn::start(home, role, &streams)?;
        let client = Client::connect(home, &self.id)?;
        client.create(request(&self.id, bundle, &streams, stand_in.process)?)?;
        stand_in.bind(&self.id, None)?;
        record.stand_in = Some(stand_in.process);
        home.save(record)?;
        write_pid(self.pid_file.as_deref(), stand_in.process)?;
        Ok((client, stand_in.release()?, terminal))
    }
}

/// Finds the container its server: a new one, or its `host`'s.
fn serve(
    global: &Global,
    home: &Home,
    record: &mut Record,
    config: &Config,
    host: Option<&(Home, Record)>,
) -> Result<()> {
    home.save(record)?;
    record.server = match host {
        Some((theirs, host)) => {
            home.share(theirs)?;
            host.server
        }
        None => Some(spawn::server(global, home, &record.sandbox, &config.path)?),
    };
    home.save(record)
}

/// The caller's ends of a process's streams.
pub struct Ends {
    pub streams: Streams,
    /// A terminal that was made for it.
    pub console: Option<OwnedFd>,
    /// The caller's, which is its terminal.
    pub terminal: Option<console::Raw>,
}

impl Ends {
    pub fn open(terminal: bool, size: Option<Size>, mode: Mode, socket: Option<&Path>) -> Result<Self> {
        Ok(match (terminal, mode) {
            (false, _) => Self { streams: Streams::plain()?, console: None, terminal: None },
            (true, Mode::Foreground) => {
                let terminal = console::Raw::take()?;
                Self { streams: Streams::terminal()?, console: None, terminal: Some(terminal) }
            }
            (true, Mode::Detached) => {
                let socket = socket.ok_or_else(|| Error::invalid("--console-socket is missing"))?;
                let console = console::hand_over(socket, size)?;
                Self { streams: Streams::terminal()?, console: Some(console), terminal: None }
            }
        })
    }
}

/// Refuses what runc refuses, in its words.
pub fn check_terminal(terminal: bool, mode: Mode, socket: bool) -> Result<()> {
    match (mode, terminal, socket) {
        (Mode::Detached, true, false) => Err(Error::invalid(
            "cannot allocate tty if kata-runtime will detach without setting console socket",
        )),
        (Mode::Foreground, _, true) | (_, false, true) => {
            Err(Error::invalid("cannot use console socket if kata-runtime will not detach or allocate tty"))
        }
        _ => Ok(()),
    }
}

pub fn refuse_descriptors(number: u32) -> Result<()> {
    match number {
        0 => Ok(()),
        _ => Err(Error::unimplemented(
            "--preserve-fds: an open file of the host cannot be handed to a process in a VM",
        )),
    }
}

pub fn write_pid(file: Option<&Path>, process: ProcessId) -> Result<()> {
    file.map_or(Ok(()), |file| write_whole(file, process.pid.to_string().as_bytes()))
}

fn describe(id: &str, bundle: &Bundle, sandbox: String, is_first: bool, config: &Config) -> Record {
    Record {
        oci_version: SPEC.into(),
        id: id.into(),
        bundle: bundle.dir.clone(),
        rootfs: bundle.rootfs(),
        created: clock::rfc3339(SystemTime::now()),
        owner: geteuid().as_raw(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        sandbox,
        is_first,
        config: Some(config.path.clone()),
        stand_in: None,
        server: None,
    }
}

fn request(id: &str, bundle: &Bundle, streams: &Streams, stand_in: ProcessId) -> Result<CreateTaskRequest> {
    let sandbox = bundle.sandbox_id(&ContainerId::new(id)?)?.to_string();
    let is_new = !matches!(bundle.role, bundle::Role::PodContainer { .. });
    let place = convert::with_place(&convert::Place { stand_in: stand_in.pid, sandbox, is_new })?;
    Ok(CreateTaskRequest {
        id: id.into(),
        bundle: bundle.dir.display().to_string(),
        terminal: streams.terminal,
        stdin: streams.stdin.clone(),
        stdout: streams.stdout.clone(),
        stderr: streams.stderr.clone(),
        options: Some(place).into(),
        ..Default::default()
    })
}

/// Where the stand-in is to be, and the VM with it; where the `host`'s is, if that is the container's that it joins.
fn network(bundle: &Bundle, config: &Config, host: Option<ProcessId>) -> Network {
    if let Some(host) = host {
        return Network::Path(format!("/proc/{}/ns/net", host.pid).into());
    }
    match bundle.namespace(LinuxNamespaceType::Network) {
        Some(Some(path)) => Network::Path(path),
        Some(None) if !config.runtime.disable_new_netns => Network::New,
        _ => Network::Host,
    }
}

fn has_terminal(bundle: &Bundle) -> bool {
    bundle.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
}

fn console_size(bundle: &Bundle) -> Option<Size> {
    let size = bundle.spec.process().as_ref()?.console_size()?;
    let (rows, columns) = (u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?);
    (rows > 0 && columns > 0).then_some(Size { rows, columns })
}
