//! containerd's types <-> the engine's. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, ExecProcessRequest, Mount, ProcessInfo, StateResponse, Status as WireStatus,
        UpdateTaskRequest,
    },
    events::task as events,
};
use oci_spec::runtime as oci;
use protobuf::{
    CodedInputStream, CodedOutputStream, Message,
    rt::skip_field_for_tag,
    well_known_types::{any::Any, timestamp::Timestamp},
};
use runtime::{
    bundle,
    container::Listed,
    error::{Context, Error, ErrorKind, Result},
    events::Event,
    process::{Exit, Process, Status},
    stdio::Stdio,
    storage::RootfsMount,
};
use serde::{Deserialize, Serialize};
use ttrpc::r#async::TtrpcContext;

/// Whose request it is, in the metadata of each.
const NAMESPACE: &str = "containerd-namespace-ttrpc";
/// Options of our own command line's: [`Place`] as JSON.
const PLACE: &str = "io.katacontainers.place";
/// Field 2 of `runtimeoptions.v1.Options`, a string.
const CONFIG_PATH_TAG: u32 = 2 << 3 | 2;

/// An error as containerd decides by it.
pub fn status(error: &Error) -> ttrpc::Error {
    let mut words = error.to_string();
    // Go's errdefs put their own word at the end, and clients take it off again.
    if let Some(class) = class(error.kind()).filter(|class| !words.ends_with(class)) {
        words = format!("{words}: {class}");
    }
    ttrpc::Error::RpcStatus(ttrpc::get_status(code(error.kind()), words))
}

/// The words of an error without the one that [`status`] has put at their end.
pub fn plain_words(kind: ErrorKind, words: &str) -> String {
    let plain = class(kind).and_then(|class| words.strip_suffix(class)?.strip_suffix(": "));
    plain.unwrap_or(words).to_owned()
}

fn class(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::InvalidArgument => Some("invalid argument"),
        ErrorKind::NotFound => Some("not found"),
        ErrorKind::AlreadyExists => Some("already exists"),
        ErrorKind::FailedPrecondition => Some("failed precondition"),
        ErrorKind::Unavailable => Some("unavailable"),
        ErrorKind::Unimplemented => Some("not implemented"),
        ErrorKind::DeadlineExceeded | ErrorKind::WrongState | ErrorKind::Internal => None,
    }
}

fn code(kind: ErrorKind) -> ttrpc::Code {
    match kind {
        ErrorKind::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
        ErrorKind::NotFound => ttrpc::Code::NOT_FOUND,
        ErrorKind::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
        ErrorKind::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
        ErrorKind::Unavailable => ttrpc::Code::UNAVAILABLE,
        ErrorKind::DeadlineExceeded => ttrpc::Code::DEADLINE_EXCEEDED,
        ErrorKind::Unimplemented => ttrpc::Code::UNIMPLEMENTED,
        ErrorKind::WrongState | ErrorKind::Internal => ttrpc::Code::UNKNOWN,
    }
}

/// A point in time, to whole seconds before 1970.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since,
        Err(before) => {
            let seconds = before.duration().as_secs().try_into().map_or(i64::MIN, |seconds: i64| -seconds);
            return Timestamp { seconds, ..Default::default() };
        }
    };
    Timestamp {
        seconds: since.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: since.subsec_nanos() as i32,
        ..Default::default()
    }
}

/// The configuration file that the task's options name. Options of other kinds, such as runc's, name none.
pub fn config_path(options: Option<&Any>) -> Result<Option<String>> {
    let Some(options) = options.filter(|options| options.type_url.ends_with("runtimeoptions.v1.Options"))
    else {
        return Ok(None);
    };
    let mut path = String::new();
    let mut fields = CodedInputStream::from_bytes(&options.value);
    let mut read = || {
        while let Some(tag) = fields.read_raw_tag_or_eof()? {
            match tag {
                CONFIG_PATH_TAG => path = fields.read_string()?,
                other => skip_field_for_tag(other, &mut fields)?,
            }
        }
        Ok(())
    };
    read().map_err(|error: protobuf::Error| {
        Error::invalid(format!("options: {}: {error}", options.type_url))
    })?;
    Ok((!path.is_empty()).then_some(path))
}

/// Where a caller that made a process to stand for the container wants it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    /// The process.
    pub stand_in: u32,
    pub sandbox: String,
    /// Whether that is there already, or to be made.
    pub is_new: bool,
}

/// The container's place, if the caller says one.
pub fn place(options: Option<&Any>) -> Result<Option<Place>> {
    let Some(options) = options.filter(|options| options.type_url == PLACE) else {
        return Ok(None);
    };
    serde_json::from_slice(&options.value).context("options").map(Some)
}

/// Options that say a container's place.
pub fn with_place(place: &Place) -> Result<Any> {
    let value = serde_json::to_vec(place).context("options")?;
    Ok(Any { type_url: PLACE.into(), value, ..Default::default() })
}

/// The streams of a container's init.
pub fn create_stdio(request: &CreateTaskRequest, context: &TtrpcContext) -> Stdio {
    stdio(&request.stdin, &request.stdout, &request.stderr, request.terminal, context)
}

/// The streams of an exec.
pub fn exec_stdio(request: &ExecProcessRequest, context: &TtrpcContext) -> Stdio {
    stdio(&request.stdin, &request.stdout, &request.stderr, request.terminal, context)
}

fn stdio(stdin: &str, stdout: &str, stderr: &str, terminal: bool, context: &TtrpcContext) -> Stdio {
    let namespace = context.metadata.get(NAMESPACE).and_then(|values| values.first()).cloned();
    Stdio {
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr: stderr.into(),
        terminal,
        namespace: namespace.unwrap_or_default(),
    }
}

/// What an exec runs: the OCI process as JSON, whatever the type is called.
pub fn exec_process(request: &ExecProcessRequest) -> Result<oci::Process> {
    let spec = request.spec.as_ref().ok_or_else(|| Error::invalid("spec: is missing"))?;
    let process = bundle::read_process(&spec.value).with_context(|| format!("spec ({})", spec.type_url))?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("spec: args: names no program"));
    }
    Ok(process)
}

/// The limits of an update: the OCI's resources as JSON, whatever the type is called.
pub fn resources(request: &UpdateTaskRequest) -> Result<oci::LinuxResources> {
    let given = request.resources.as_ref().ok_or_else(|| Error::invalid("resources: is missing"))?;
    serde_json::from_slice(&given.value)
        .map_err(|error| Error::invalid(format!("resources ({}): {error}", given.type_url)))
}

/// A process of a container, with what containerd prints beside it.
pub fn process_info(listed: Listed) -> Result<ProcessInfo> {
    let Listed { pid, exec } = listed;
    let Some(exec) = exec else {
        return Ok(ProcessInfo { pid, ..Default::default() });
    };
    // Field 1 of ProcessDetails is the exec's id.
    let mut details = Vec::new();
    let mut output = CodedOutputStream::vec(&mut details);
    let written = output.write_string(1, &exec).and_then(|()| output.flush());
    drop(output);
    written.map_err(|error| Error::internal(format!("encode ProcessDetails: {error}")))?;
    let type_url = "containerd.runc.v1.ProcessDetails".into();
    let info = Some(Any { type_url, value: details, ..Default::default() });
    Ok(ProcessInfo { pid, info: info.into(), ..Default::default() })
}

/// The mounts of a root file system.
pub fn rootfs(mounts: Vec<Mount>) -> Vec<RootfsMount> {
    let convert = |mount: Mount| RootfsMount {
        fstype: mount.type_,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(convert).collect()
}

fn wire_mount(mount: RootfsMount) -> Mount {
    Mount {
        type_: mount.fstype,
        source: mount.source,
        target: mount.target,
        options: mount.options,
        ..Default::default()
    }
}

/// What State tells of a process; the caller adds whose it is.
pub fn state(process: &Process, container: Status) -> StateResponse {
    let Stdio { stdin, stdout, stderr, terminal, .. } = process.stdio().clone();
    let exit = process.exit();
    StateResponse {
        status: wire_status(match (process.status(), container) {
            // It stands still with its container.
            (Status::Running, Status::Pausing | Status::Paused) => container,
            (status, _) => status,
        })
        .into(),
        stdin,
        stdout,
        stderr,
        terminal,
        exit_status: exit.map_or(0, |exit| exit.code),
        exited_at: exit.map(|exit| timestamp(exit.at)).into(),
        ..Default::default()
    }
}

fn wire_status(status: Status) -> WireStatus {
    match status {
        Status::Created => WireStatus::CREATED,
        Status::Running => WireStatus::RUNNING,
        Status::Pausing => WireStatus::PAUSING,
        Status::Paused => WireStatus::PAUSED,
        Status::Stopped => WireStatus::STOPPED,
    }
}

/// An event as containerd wants it: its topic, and the message in an envelope that is named without a prefix.
pub fn event(event: Event) -> Result<(&'static str, Any)> {
    match event {
        Event::Created { container, bundle, rootfs, stdio, pid } => {
            let io = events::TaskIO {
                stdin: stdio.stdin,
                stdout: stdio.stdout,
                stderr: stdio.stderr,
                terminal: stdio.terminal,
                ..Default::default()
            };
            let message = events::TaskCreate {
                container_id: container,
                bundle: bundle.display().to_string(),
                rootfs: rootfs.into_iter().map(wire_mount).collect(),
                io: Some(io).into(),
                pid,
                ..Default::default()
            };
            wrap("/tasks/create", "TaskCreate", &message)
        }
        Event::Started { container, pid } => {
            let message = events::TaskStart { container_id: container, pid, ..Default::default() };
            wrap("/tasks/start", "TaskStart", &message)
        }
        Event::ExecAdded { container, exec } => {
            let message =
                events::TaskExecAdded { container_id: container, exec_id: exec, ..Default::default() };
            wrap("/tasks/exec-added", "TaskExecAdded", &message)
        }
        Event::ExecStarted { container, exec, pid } => {
            let message =
                events::TaskExecStarted { container_id: container, exec_id: exec, pid, ..Default::default() };
            wrap("/tasks/exec-started", "TaskExecStarted", &message)
        }
        Event::Exited { container, process, pid, exit: Exit { code, at } } => {
            let message = events::TaskExit {
                container_id: container,
                id: process,
                pid,
                exit_status: code,
                exited_at: Some(timestamp(at)).into(),
                ..Default::default()
            };
            wrap("/tasks/exit", "TaskExit", &message)
        }
        Event::OutOfMemory { container } => {
            let message = events::TaskOOM { container_id: container, ..Default::default() };
            wrap("/tasks/oom", "TaskOOM", &message)
        }
        Event::Paused { container } => {
            let message = events::TaskPaused { container_id: container, ..Default::default() };
            wrap("/tasks/paused", "TaskPaused", &message)
        }
        Event::Resumed { container } => {
            let message = events::TaskResumed { container_id: container, ..Default::default() };
            wrap("/tasks/resumed", "TaskResumed", &message)
        }
        Event::Deleted { container, pid, exit: Exit { code, at } } => {
            let message = events::TaskDelete {
                container_id: container,
                pid,
                exit_status: code,
                exited_at: Some(timestamp(at)).into(),
                ..Default::default()
            };
            wrap("/tasks/delete", "TaskDelete", &message)
        }
    }
}

fn wrap(topic: &'static str, name: &str, message: &impl Message) -> Result<(&'static str, Any)> {
    let value = message
        .write_to_bytes()
        .map_err(|error| Error::internal(error.to_string()))
        .with_context(|| format!("encode {name}"))?;
    Ok((topic, Any { type_url: format!("containerd.events.{name}"), value, ..Default::default() }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn any(type_url: &str, value: &[u8]) -> Any {
        Any { type_url: type_url.into(), value: value.into(), ..Default::default() }
    }

    #[test]
    fn every_kind_of_error_has_the_code_that_containerd_decides_by() {
        for (kind, code) in [
            (ErrorKind::InvalidArgument, ttrpc::Code::INVALID_ARGUMENT),
            (ErrorKind::NotFound, ttrpc::Code::NOT_FOUND),
            (ErrorKind::AlreadyExists, ttrpc::Code::ALREADY_EXISTS),
            (ErrorKind::FailedPrecondition, ttrpc::Code::FAILED_PRECONDITION),
            (ErrorKind::Unavailable, ttrpc::Code::UNAVAILABLE),
            (ErrorKind::DeadlineExceeded, ttrpc::Code::DEADLINE_EXCEEDED),
            (ErrorKind::Unimplemented, ttrpc::Code::UNIMPLEMENTED),
            (ErrorKind::WrongState, ttrpc::Code::UNKNOWN),
            (ErrorKind::Internal, ttrpc::Code::UNKNOWN),
        ] {
            let ttrpc::Error::RpcStatus(status) = status(&Error::new(kind, "inner").context("outer")) else {
                panic!("{kind:?} is no status");
            };
            assert_eq!(status.code(), code);
            let words = class(kind).map_or("outer: inner".into(), |class| format!("outer: inner: {class}"));
            assert_eq!(status.message(), words);
        }
        let ttrpc::Error::RpcStatus(status) = status(&Error::not_found("exec e1: not found")) else {
            panic!()
        };
        assert_eq!(status.message(), "exec e1: not found", "once is enough");
    }

    #[test]
    fn options_name_a_configuration_whatever_the_package_was_called() {
        // Fields 1 and 3, which are not ours, around field 2; then one from the future.
        let body = b"\x0a\x03url\x12\x07/c.toml\x1a\x02ab\x20\x01";
        for (options, path) in [
            (Some(any("runtimeoptions.v1.Options", body)), Some("/c.toml")),
            (Some(any("type.googleapis.com/runtimeoptions.v1.Options", body)), Some("/c.toml")),
            (Some(any("cri.runtimeoptions.v1.Options", body)), Some("/c.toml")),
            (Some(any("runtimeoptions.v1.Options", b"\x12\x00")), None),
            (Some(any("runtimeoptions.v1.Options", b"")), None),
            (Some(any("containerd.runc.v1.Options", body)), None),
            (Some(any("", b"")), None),
            (None, None),
        ] {
            assert_eq!(config_path(options.as_ref()).unwrap().as_deref(), path, "{options:?}");
        }
        for broken in [&b"\x12\x7f"[..], b"\x12\x01\xff", b"\xff\xff"] {
            assert!(config_path(Some(&any("runtimeoptions.v1.Options", broken))).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn options_name_a_stand_in_and_errors_lose_their_class_again() {
        let wanted = Place { stand_in: 42, sandbox: "s1".into(), is_new: true };
        let options = with_place(&wanted).unwrap();
        let told = place(Some(&options)).unwrap().unwrap();
        assert_eq!((told.stand_in, told.sandbox.as_str(), told.is_new), (42, "s1", true));
        assert_eq!(config_path(Some(&options)).unwrap(), None);
        assert!(place(Some(&any("containerd.runc.v1.Options", b"7"))).unwrap().is_none());
        assert!(place(Some(&any(PLACE, b"x"))).is_err());
        assert_eq!(plain_words(ErrorKind::NotFound, "exec e1: not found"), "exec e1");
        assert_eq!(plain_words(ErrorKind::Internal, "exec e1: not found"), "exec e1: not found");
    }

    #[test]
    fn what_never_ran_ended_at_gos_zero_time() {
        let zero = timestamp(Exit::never_ran().at);
        assert_eq!((zero.seconds, zero.nanos), (-62_135_596_800, 0));
        let later = timestamp(UNIX_EPOCH + Duration::new(5, 6));
        assert_eq!((later.seconds, later.nanos), (5, 6));
    }

    #[test]
    fn an_exec_without_a_program_is_refused() {
        let good = r#"{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
        for (spec, accepted) in [
            (Some(good), true),
            (Some(r#"{"args":[],"cwd":"/","user":{"uid":0,"gid":0}}"#), false),
            (Some(r#"{"cwd":"/","user":{"uid":0,"gid":0}}"#), false),
            (Some("{"), false),
            (Some(""), false),
            (None, false),
        ] {
            let spec = spec.map(|text| {
                any("types.containerd.io/opencontainers/runtime-spec/1/Process", text.as_bytes())
            });
            let request = ExecProcessRequest { spec: spec.clone().into(), ..Default::default() };
            assert_eq!(exec_process(&request).is_ok(), accepted, "{spec:?}");
        }
    }

    #[test]
    fn events_carry_their_topic_their_name_and_their_facts() {
        let at = UNIX_EPOCH + Duration::new(7, 8);
        let exit = Exit { code: 137, at };
        let (container, pid) = ("c1".to_owned(), 42);
        let mount = RootfsMount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["lowerdir=/l".into()],
        };
        let stdio = Stdio { stdout: "/out".into(), terminal: true, ..Stdio::default() };
        let created = Event::Created {
            container: container.clone(),
            bundle: "/b".into(),
            rootfs: vec![mount],
            stdio,
            pid,
        };
        let (topic, any) = event(created).unwrap();
        assert_eq!((topic, any.type_url.as_str()), ("/tasks/create", "containerd.events.TaskCreate"));
        let message = events::TaskCreate::parse_from_bytes(&any.value).unwrap();
        assert_eq!((message.bundle.as_str(), message.io.stdout.as_str()), ("/b", "/out"));
        assert_eq!(message.rootfs[0].options, ["lowerdir=/l"]);

        let exited = Event::Exited { container: container.clone(), process: "e1".into(), pid, exit };
        let (topic, any) = event(exited).unwrap();
        assert_eq!((topic, any.type_url.as_str()), ("/tasks/exit", "containerd.events.TaskExit"));
        let message = events::TaskExit::parse_from_bytes(&any.value).unwrap();
        assert_eq!((message.id.as_str(), message.exit_status, message.pid), ("e1", 137, 42));
        assert_eq!((message.exited_at.seconds, message.exited_at.nanos), (7, 8));

        let exec = "e1".to_owned();
        for (given, topic, name) in [
            (Event::Started { container: container.clone(), pid }, "/tasks/start", "TaskStart"),
            (
                Event::ExecAdded { container: container.clone(), exec: exec.clone() },
                "/tasks/exec-added",
                "TaskExecAdded",
            ),
            (
                Event::ExecStarted { container: container.clone(), exec, pid },
                "/tasks/exec-started",
                "TaskExecStarted",
            ),
            (Event::OutOfMemory { container: container.clone() }, "/tasks/oom", "TaskOOM"),
            (Event::Paused { container: container.clone() }, "/tasks/paused", "TaskPaused"),
            (Event::Resumed { container: container.clone() }, "/tasks/resumed", "TaskResumed"),
            (Event::Deleted { container, pid, exit }, "/tasks/delete", "TaskDelete"),
        ] {
            let (found, any) = event(given).unwrap();
            assert_eq!((found, any.type_url), (topic, format!("containerd.events.{name}")));
        }
    }
}
