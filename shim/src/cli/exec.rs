//! `exec`: one more process in a container.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use containerd_shim_protos::api::ExecProcessRequest;
use protobuf::well_known_types::any::Any;
use runtime::{
    error::{Context, Error, Result},
    process::Status,
};
use serde_json::{Value, json};

use super::{
    client::Client,
    create::{Ends, Mode, check_terminal, refuse_descriptors, write_pid},
    end, foreground,
    global::Global,
    proxy::Network,
    record::{Home, Record},
    size::Size,
    spawn::{Role, StandIn},
    streams::Streams,
};

#[derive(Debug, Args)]
pub struct Exec {
    #[arg(value_name = "container-id")]
    id: String,
    /// The program and its arguments, unless --process has them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// A unix socket that is sent the master of the process's terminal
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// The working directory in the container
    #[arg(long)]
    cwd: Option<String>,
    /// NAME=VALUE, as often as needed
    #[arg(short, long)]
    env: Vec<String>,
    /// With a terminal
    #[arg(short, long)]
    tty: bool,
    /// UID or UID:GID
    #[arg(short, long)]
    user: Option<String>,
    /// One more group, as often as needed
    #[arg(short = 'g', long)]
    additional_gids: Vec<u32>,
    /// A file with the OCI's process in JSON
    #[arg(short, long)]
    process: Option<PathBuf>,
    /// Return as soon as it runs
    #[arg(short, long)]
    detach: bool,
    /// A file for the pid that stands for the process
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Of no effect: labels are the host's policy
    #[arg(long)]
    process_label: Option<String>,
    /// Of no effect: profiles are the host's policy
    #[arg(long)]
    apparmor: Option<String>,
    /// It gains no rights by what it runs
    #[arg(long)]
    no_new_privs: bool,
    /// One more capability, as often as needed
    #[arg(short, long)]
    cap: Vec<String>,
    /// Refused but for 0: an open file of the host cannot be one in a VM
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    /// Refused: a process is in its container's cgroup
    #[arg(long)]
    cgroup: Vec<String>,
    /// Of no effect: a process cannot be made where all stand still
    #[arg(long)]
    ignore_paused: bool,
    /// Of no effect: what is started is adopted by nobody here
    #[arg(long)]
    no_subreaper: bool,
}

impl Exec {
    /// The code of the process, if it was waited for.
    pub fn run(self, global: &Global) -> Result<ExitCode> {
        self.exec(global).context("exec failed")
    }

    fn exec(&self, global: &Global) -> Result<ExitCode> {
        let (home, record) = global.find(&self.id)?;
        match end::status(&home, &record)? {
            Status::Stopped => return Err(Error::precondition("cannot exec in a stopped container")),
            Status::Pausing | Status::Paused => {
                return Err(Error::precondition("cannot exec in a paused container"));
            }
            Status::Created | Status::Running => {}
        }
        refuse_descriptors(self.preserve_fds)?;
        if !self.cgroup.is_empty() {
            return Err(Error::unimplemented("--cgroup: a process is in the cgroup of its container"));
        }
        let spec = self.spec(&record)?;
        let terminal = spec["terminal"].as_bool().unwrap_or(false);
        let mode = if self.detach { Mode::Detached } else { Mode::Foreground };
        check_terminal(terminal, mode, self.console_socket.is_some())?;
        let ends = Ends::open(terminal, size(&spec), mode, self.console_socket.as_deref())?;
        let signals = (mode == Mode::Foreground).then(foreground::catch_signals).transpose()?;
        let stand_in = self.launch(&home, &record, &spec, ends.console, &ends.streams)?;
        let code = match signals {
            None => Ok(ExitCode::SUCCESS),
            Some(signals) => foreground::wait(stand_in, signals),
        };
        drop(ends.terminal);
        code
    }

    /// What runs: the process that a file has, or the container's own with what the flags change of it.
    fn spec(&self, record: &Record) -> Result<Value> {
        if let Some(file) = &self.process {
            return read(file);
        }
        if self.command.is_empty() {
            return Err(Error::invalid("process args cannot be empty"));
        }
        let mut spec = read(&record.bundle.join("config.json"))?["process"].take();
        spec["args"] = json!(self.command);
        spec["terminal"] = json!(self.tty);
        if let Some(cwd) = &self.cwd {
            spec["cwd"] = json!(cwd);
        }
        if self.no_new_privs {
            spec["noNewPrivileges"] = json!(true);
        }
        extend(&mut spec["env"], &self.env);
        for set in ["bounding", "effective", "permitted"] {
            if !self.cap.is_empty() {
                extend(&mut spec["capabilities"][set], &self.cap);
            }
        }
        if let Some(user) = &self.user {
            let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
            let number = |text: &str| {
                text.parse::<u32>()
                    .map_err(|_| Error::invalid(format!("--user {user}: {text:?} is no number")))
            };
            spec["user"]["uid"] = json!(number(uid)?);
            if user.contains(':') {
                spec["user"]["gid"] = json!(number(gid)?);
            }
        }
        extend(&mut spec["user"]["additionalGids"], &self.additional_gids);
        Ok(spec)
    }

    /// Runs it; the stand-in that stands for it.
    fn launch(
        &self,
        home: &Home,
        record: &Record,
        spec: &Value,
        console: Option<OwnedFd>,
        streams: &Streams,
    ) -> Result<process::Child> {
        let exec = name();
        let network = match record.stand_in {
            Some(stand_in) => Network::Path(format!("/proc/{}/ns/net", stand_in.pid).into()),
            None => Network::Host,
        };
        let role = Role { container: &self.id, exec: Some(&exec), network, files: None, console };
        let mut stand_in = StandIn::start(home, role, streams)?;
        let client = Client::connect(home, &self.id)?;
        let text = serde_json::to_vec(spec).context("encode the process")?;
        client.exec(ExecProcessRequest {
            exec_id: exec.clone(),
            terminal: streams.terminal,
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            spec: Some(Any { type_url: "Process".into(), value: text, ..Default::default() }).into(),
            ..Default::default()
        })?;
        stand_in.bind(&self.id, Some(&exec))?;
        client.start(&exec)?;
        write_pid(self.pid_file.as_deref(), stand_in.process)?;
        stand_in.release()
    }
}

/// A name that no other process of the container has.
fn name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("exec-{}-{}", process::id(), since.as_nanos())
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

/// Adds to a list, or makes one of it.
fn extend<T: serde::Serialize>(list: &mut Value, more: &[T]) {
    if more.is_empty() {
        return;
    }
    let mut all = list.take().as_array().cloned().unwrap_or_default();
    all.extend(more.iter().map(|item| json!(item)));
    *list = all.into();
}

fn size(spec: &Value) -> Option<Size> {
    let side = |name| spec["consoleSize"][name].as_u64().and_then(|side| u16::try_from(side).ok());
    Some(Size { rows: side("height")?, columns: side("width")? })
        .filter(|size| size.rows > 0 && size.columns > 0)
}
