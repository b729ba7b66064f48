//! The agent through its own wire: calls, codes and streams, with plain children instead of containers.

use std::{io, sync::Arc, time::Duration};

use agent::{Guest, GuestConfig, Isolation};
use futures::stream;
use protocols::{
    agent as wire, agent_ttrpc::AgentServiceClient, extras::ListProcessesRequest, extras_ttrpc::ExtrasClient,
    guest::FEATURE_EXTRAS, health::CheckRequest, health_ttrpc::HealthClient, wire_oci,
};
use tokio::net::UnixStream;
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context::{self, Context},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    agent: AgentServiceClient,
    extras: ExtrasClient,
    health: HealthClient,
    _dir: tempfile::TempDir,
}

/// An agent without a sandbox yet.
fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let config = GuestConfig {
        isolation: Isolation::PlainChildren,
        bundles: dir.path().join("guest"),
        pipe_size: 0,
        hotplug_timeout: Duration::from_secs(10),
    };
    let (host, guest) = UnixStream::pair().unwrap();
    let connections = stream::iter([io::Result::Ok(guest)]);
    // Once the one connection is taken, there is nothing more to accept.
    let connections = futures::StreamExt::chain(connections, stream::pending());
    tokio::spawn(agent::serve(connections, Arc::new(Guest::new(config))));
    let client = Client::new(Socket::new(host));
    Served {
        agent: AgentServiceClient::new(client.clone()),
        extras: ExtrasClient::new(client.clone()),
        health: HealthClient::new(client),
        _dir: dir,
    }
}

fn within() -> Context {
    context::with_duration(PATIENCE)
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (Code, String) {
    match result {
        Ok(_) => (Code::OK, String::new()),
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        Err(error) => panic!("no status: {error}"),
    }
}

fn process(script: &str) -> wire_oci::Process {
    wire_oci::Process {
        Args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        Env: vec!["PATH=/usr/bin:/bin".into(), "NAME= spaced ".into()],
        Cwd: "/".into(),
        ..Default::default()
    }
}

fn create(id: &str, process: wire_oci::Process) -> wire::CreateContainerRequest {
    let spec = wire_oci::Spec {
        Version: "1.0.2".into(),
        Process: Some(process).into(),
        Root: Some(wire_oci::Root { Path: "/".into(), ..Default::default() }).into(),
        Linux: Some(wire_oci::Linux::default()).into(),
        ..Default::default()
    };
    wire::CreateContainerRequest { container_id: id.into(), OCI: Some(spec).into(), ..Default::default() }
}

impl Served {
    async fn sandbox(self) -> Self {
        self.agent.create_sandbox(within(), &wire::CreateSandboxRequest::new()).await.unwrap();
        self
    }

    async fn run(&self, id: &str, script: &str) {
        self.agent.create_container(within(), &create(id, process(script))).await.unwrap();
        let request = wire::StartContainerRequest { container_id: id.into(), ..Default::default() };
        self.agent.start_container(within(), &request).await.unwrap();
    }

    async fn wait(&self, id: &str, exec: &str) -> ttrpc::Result<i32> {
        let request =
            wire::WaitProcessRequest { container_id: id.into(), exec_id: exec.into(), ..Default::default() };
        Ok(self.agent.wait_process(within(), &request).await?.status)
    }

    async fn signal(&self, id: &str, exec: &str, signal: u32) -> ttrpc::Result<()> {
        let request = wire::SignalProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.agent.signal_process(within(), &request).await.map(drop)
    }

    async fn write(&self, id: &str, data: &[u8]) -> ttrpc::Result<u32> {
        let request =
            wire::WriteStreamRequest { container_id: id.into(), data: data.into(), ..Default::default() };
        Ok(self.agent.write_stdin(within(), &request).await?.len)
    }

    async fn read_all(&self, id: &str, exec: &str, stderr: bool) -> Vec<u8> {
        let request = wire::ReadStreamRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            len: 32768,
            ..Default::default()
        };
        let mut all = Vec::new();
        loop {
            let answer = match stderr {
                false => self.agent.read_stdout(within(), &request).await,
                true => self.agent.read_stderr(within(), &request).await,
            };
            match answer {
                Ok(answer) if !answer.data.is_empty() => all.extend(answer.data),
                // An empty answer is the end, and so is a refusal once everything was fetched.
                _ => return all,
            }
        }
    }
}

#[tokio::test]
async fn health_is_answered_before_there_is_a_sandbox_and_containers_are_not_made() {
    let served = served();
    served.health.check(within(), &CheckRequest::new()).await.unwrap();
    assert_eq!(served.health.version(within(), &CheckRequest::new()).await.unwrap().grpc_version, "0.0.1");
    let (code, text) = code(served.agent.create_container(within(), &create("c1", process("true"))).await);
    assert_eq!(code, Code::INTERNAL, "{text}");
    let details = wire::GuestDetailsRequest { mem_block_size: true, ..Default::default() };
    let details = served.agent.get_guest_details(within(), &details).await.unwrap();
    assert!(details.agent_details.storage_handlers.contains(&"9p".to_owned()));
}

#[tokio::test]
async fn what_is_not_served_is_refused_by_name() {
    let served = served();
    let (unserved, text) = code(served.agent.set_policy(within(), &wire::SetPolicyRequest::new()).await);
    assert_eq!(unserved, Code::UNIMPLEMENTED);
    assert!(text.contains("SetPolicy"), "{text}");
    let (unserved, text) = code(served.agent.get_metrics(within(), &wire::GetMetricsRequest::new()).await);
    assert_eq!(unserved, Code::UNIMPLEMENTED);
    assert!(text.contains("GetMetrics"), "{text}");
}

#[tokio::test]
async fn streams_and_codes_of_a_container() {
    let served = served().sandbox().await;
    served.run("c1", "cat; echo errors >&2; printf '%s|' \"$NAME\"; exit 5").await;
    assert_eq!(served.write("c1", b"hello\n").await.unwrap(), 6);
    // No bytes mean the end of the input.
    assert_eq!(served.write("c1", b"").await.unwrap(), 0);
    assert_eq!(code(served.write("c1", b"more").await).0, Code::INTERNAL);
    assert_eq!(served.read_all("c1", "", false).await, b"hello\n spaced |");
    assert_eq!(served.read_all("c1", "c1", true).await, b"errors\n");
    let (one, other) = tokio::join!(served.wait("c1", ""), served.wait("c1", "c1"));
    assert_eq!((one.unwrap(), other.unwrap()), (5, 5));
    let remove = wire::RemoveContainerRequest { container_id: "c1".into(), ..Default::default() };
    served.agent.remove_container(within(), &remove).await.unwrap();
    assert_eq!(code(served.wait("c1", "").await).0, Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn execs_run_beside_the_init_under_names_of_their_own() {
    let served = served().sandbox().await;
    served.run("c1", "sleep 1000").await;
    let exec = |name: &str, script: &str| wire::ExecProcessRequest {
        container_id: "c1".into(),
        exec_id: name.into(),
        process: Some(process(script)).into(),
        ..Default::default()
    };
    served.agent.exec_process(within(), &exec("e1", "cat; echo from exec; exit 6")).await.unwrap();
    let (twice, text) = code(served.agent.exec_process(within(), &exec("e1", "true")).await);
    assert_eq!(twice, Code::INTERNAL);
    assert!(text.contains("already exists"), "{text}");
    let close =
        wire::CloseStdinRequest { container_id: "c1".into(), exec_id: "e1".into(), ..Default::default() };
    served.agent.close_stdin(within(), &close).await.unwrap();
    // Waited for first: what nobody has read yet is still there.
    assert_eq!(served.wait("c1", "e1").await.unwrap(), 6);
    assert_eq!(served.read_all("c1", "e1", false).await, b"from exec\n");
    assert_eq!(served.read_all("c1", "e1", true).await, b"");
    assert_eq!(
        code(served.wait("c1", "e1").await).0,
        Code::NOT_FOUND,
        "everything was fetched, so it is forgotten"
    );

    let mut missing = exec("e2", "true");
    missing.process.mut_or_insert_default().Args = vec!["/no/such/program".into()];
    let (refused, text) = code(served.agent.exec_process(within(), &missing).await);
    assert_eq!(refused, Code::INTERNAL);
    assert!(text.contains("/no/such/program"), "{text}");
    served.signal("c1", "", 9).await.unwrap();
    assert_eq!(served.wait("c1", "").await.unwrap(), 137);
}

#[tokio::test]
async fn faults_have_their_codes() {
    let served = served().sandbox().await;
    served.run("c1", "exit 0").await;
    for (what, expected, (code, text)) in [
        ("wait, unknown container", Code::INVALID_ARGUMENT, code(served.wait("c9", "").await)),
        ("wait, unknown exec", Code::NOT_FOUND, code(served.wait("c1", "e9").await)),
        ("signal, unknown container", Code::INVALID_ARGUMENT, code(served.signal("c9", "e", 15).await)),
        ("signal, unknown exec", Code::NOT_FOUND, code(served.signal("c1", "e9", 15).await)),
        (
            "create, same name",
            Code::ALREADY_EXISTS,
            code(served.agent.create_container(within(), &create("c1", process("true"))).await),
        ),
        (
            "create, bad name",
            Code::INVALID_ARGUMENT,
            code(served.agent.create_container(within(), &create("../x", process("true"))).await),
        ),
        (
            "create, no spec",
            Code::INVALID_ARGUMENT,
            code(
                served
                    .agent
                    .create_container(
                        within(),
                        &wire::CreateContainerRequest { container_id: "c2".into(), ..Default::default() },
                    )
                    .await,
            ),
        ),
        (
            "sandbox, twice",
            Code::INTERNAL,
            code(served.agent.create_sandbox(within(), &wire::CreateSandboxRequest::new()).await),
        ),
        (
            "start, twice",
            Code::INTERNAL,
            code(
                served
                    .agent
                    .start_container(
                        within(),
                        &wire::StartContainerRequest { container_id: "c1".into(), ..Default::default() },
                    )
                    .await,
            ),
        ),
        (
            "resize, no terminal",
            Code::UNAVAILABLE,
            code(
                served
                    .agent
                    .tty_win_resize(
                        within(),
                        &wire::TtyWinResizeRequest { container_id: "c1".into(), ..Default::default() },
                    )
                    .await,
            ),
        ),
    ] {
        assert_eq!(code, expected, "{what}: {text}");
    }
    assert_eq!(served.wait("c1", "").await.unwrap(), 0);
    assert_eq!(code(served.signal("c1", "", 15).await).0, Code::NOT_FOUND, "it has ended");
}

#[tokio::test]
async fn a_terminal_has_a_size_and_survives_the_end_of_its_input() {
    let served = served().sandbox().await;
    let mut shell = process("stty size; read line; echo \"got $line\"");
    shell.Terminal = true;
    served.agent.create_container(within(), &create("c1", shell)).await.unwrap();
    let resize =
        wire::TtyWinResizeRequest { container_id: "c1".into(), row: 33, column: 111, ..Default::default() };
    served.agent.tty_win_resize(within(), &resize).await.unwrap();
    let start = wire::StartContainerRequest { container_id: "c1".into(), ..Default::default() };
    served.agent.start_container(within(), &start).await.unwrap();
    let close = wire::CloseStdinRequest { container_id: "c1".into(), ..Default::default() };
    served.agent.close_stdin(within(), &close).await.unwrap();
    served.write("c1", b"typed\n").await.unwrap();
    let shown = String::from_utf8(served.read_all("c1", "", false).await).unwrap();
    assert!(shown.contains("33 111") && shown.contains("got typed"), "{shown:?}");
    assert_eq!(served.wait("c1", "").await.unwrap(), 0);
}

#[tokio::test]
async fn a_slow_reader_slows_the_process_and_loses_nothing() {
    let served = served().sandbox().await;
    served.run("c1", "head -c 3000000 /dev/zero").await;
    // The process cannot end before its output is taken; other calls are served meanwhile.
    assert!(tokio::time::timeout(Duration::from_millis(200), served.wait("c1", "")).await.is_err());
    served.health.check(within(), &CheckRequest::new()).await.unwrap();
    assert_eq!(served.read_all("c1", "", false).await.len(), 3_000_000);
    assert_eq!(served.wait("c1", "").await.unwrap(), 0);
}

#[tokio::test]
async fn a_container_stands_still_between_pause_and_resume() {
    let served = served().sandbox().await;
    served.run("c1", "while read -r line; do echo \"$line\"; done").await;
    let pause = wire::PauseContainerRequest { container_id: "c1".into(), ..Default::default() };
    let resume = wire::ResumeContainerRequest { container_id: "c1".into(), ..Default::default() };
    assert_eq!(code(served.agent.resume_container(within(), &resume).await).0, Code::INTERNAL);
    served.agent.pause_container(within(), &pause).await.unwrap();
    assert_eq!(code(served.agent.pause_container(within(), &pause).await).0, Code::INTERNAL);
    served.write("c1", b"one\n").await.unwrap();
    let read = wire::ReadStreamRequest { container_id: "c1".into(), len: 100, ..Default::default() };
    let reading = served.agent.read_stdout(within(), &read);
    tokio::pin!(reading);
    let silence = tokio::time::timeout(Duration::from_millis(300), &mut reading).await;
    assert!(silence.is_err(), "it stands still, and yet: {silence:?}");
    let exec = wire::ExecProcessRequest {
        container_id: "c1".into(),
        exec_id: "e1".into(),
        process: Some(process("true")).into(),
        ..Default::default()
    };
    assert_eq!(code(served.agent.exec_process(within(), &exec).await).0, Code::INTERNAL);
    served.agent.resume_container(within(), &resume).await.unwrap();
    assert_eq!(reading.await.unwrap().data, b"one\n");
    // Killed while it stands still, it ends.
    served.agent.pause_container(within(), &pause).await.unwrap();
    served.signal("c1", "", 9).await.unwrap();
    assert_eq!(served.wait("c1", "").await.unwrap(), 137);
    let unknown = wire::PauseContainerRequest { container_id: "c9".into(), ..Default::default() };
    assert_eq!(code(served.agent.pause_container(within(), &unknown).await).0, Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn processes_are_listed_counted_and_signalled_together() {
    let served = served().sandbox().await;
    let details = served.agent.get_guest_details(within(), &wire::GuestDetailsRequest::new()).await.unwrap();
    assert!(details.agent_details.extra_features.contains(&FEATURE_EXTRAS.to_owned()));
    served.run("c1", "exec sleep 1000").await;
    let exec = wire::ExecProcessRequest {
        container_id: "c1".into(),
        exec_id: "e1".into(),
        process: Some(process("exec sleep 1000")).into(),
        ..Default::default()
    };
    served.agent.exec_process(within(), &exec).await.unwrap();
    let list = ListProcessesRequest { container_id: "c1".into(), ..Default::default() };
    let listed = served.extras.list_processes(within(), &list).await.unwrap().processes;
    let mut names: Vec<_> = listed.iter().map(|process| process.exec_id.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["c1", "e1"]);
    let stats = wire::StatsContainerRequest { container_id: "c1".into(), ..Default::default() };
    let stats = served.agent.stats_container(within(), &stats).await.unwrap();
    assert_eq!(stats.cgroup_stats.pids_stats.current, 2);
    assert!(stats.cgroup_stats.memory_stats.usage.usage > 0);
    let term =
        wire::SignalProcessRequest { container_id: "c1".into(), signal: 15, all: true, ..Default::default() };
    served.agent.signal_process(within(), &term).await.unwrap();
    assert_eq!(served.wait("c1", "").await.unwrap(), 143);
    assert_eq!(served.wait("c1", "e1").await.unwrap(), 143);
}

#[tokio::test]
async fn waiting_for_news_of_the_memory_ends_with_the_sandbox() {
    let served = served().sandbox().await;
    let request = wire::GetOOMEventRequest::new();
    let news = served.agent.get_oom_event(context::with_duration(PATIENCE), &request);
    tokio::pin!(news);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut news).await.is_err(), "there is none");
    served.agent.destroy_sandbox(within(), &wire::DestroySandboxRequest::new()).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, news).await.expect("in time").is_err());
}
