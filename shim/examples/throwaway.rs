use async_trait::async_trait;
use protocols::{
    agent::*,
    agent_ttrpc::{self, AgentService},
    health,
    health_ttrpc::{self, Health},
};
use runtime::{error::Result, ledger::Ledger, paths::Paths, vm::*};
use shim::{
    events::{self, Publisher},
    flags::{Action, Flags},
    keeper::*,
    logging, server, shim as commands,
};
use std::{
    collections::HashMap,
    os::fd::AsFd,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::*,
    sync::{Mutex as AM, mpsc, watch},
};
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};
type Empty = protobuf::well_known_types::empty::Empty;
struct P {
    args: Vec<String>,
    pid: Mutex<u32>,
    out: AM<Option<ChildStdout>>,
    err: AM<Option<ChildStderr>>,
    inp: AM<Option<ChildStdin>>,
    started: watch::Sender<bool>,
    exit: watch::Sender<Option<i32>>,
}
#[derive(Default, Clone)]
struct Agent {
    ps: Arc<Mutex<HashMap<(String, String), Arc<P>>>>,
}
fn nf() -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::NOT_FOUND, "no process"))
}
impl Agent {
    fn get(&self, c: &str, e: &str) -> ttrpc::Result<Arc<P>> {
        let e = if e.is_empty() { c } else { e };
        self.ps.lock().unwrap().get(&(c.into(), e.into())).cloned().ok_or_else(nf)
    }
    fn add(&self, c: &str, e: &str, args: Vec<String>) -> Arc<P> {
        let p = Arc::new(P {
            args,
            pid: Mutex::new(0),
            out: AM::new(None),
            err: AM::new(None),
            inp: AM::new(None),
            started: watch::Sender::new(false),
            exit: watch::Sender::new(None),
        });
        self.ps.lock().unwrap().insert((c.into(), e.into()), p.clone());
        p
    }
    async fn run(&self, p: Arc<P>) -> ttrpc::Result<()> {
        let mut ch = Command::new(&p.args[0])
            .args(&p.args[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, e.to_string()))
            })?;
        *p.pid.lock().unwrap() = ch.id().unwrap_or(0);
        *p.out.lock().await = ch.stdout.take();
        *p.err.lock().await = ch.stderr.take();
        *p.inp.lock().await = ch.stdin.take();
        p.started.send_replace(true);
        tokio::spawn(async move {
            let s = ch.wait().await.unwrap();
            p.exit.send_replace(Some(s.code().unwrap_or_else(|| 128 + s.signal().unwrap())));
        });
        Ok(())
    }
}
#[async_trait]
impl Health for Agent {
    async fn check(
        &self,
        _: &TtrpcContext,
        _: health::CheckRequest,
    ) -> ttrpc::Result<health::HealthCheckResponse> {
        Ok(Default::default())
    }
}
#[async_trait]
impl AgentService for Agent {
    async fn create_sandbox(&self, _: &TtrpcContext, _: CreateSandboxRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }
    async fn destroy_sandbox(&self, _: &TtrpcContext, _: DestroySandboxRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }
    async fn create_container(&self, _: &TtrpcContext, r: CreateContainerRequest) -> ttrpc::Result<Empty> {
        self.add(&r.container_id, &r.container_id, r.OCI.Process.Args.clone());
        Ok(Empty::new())
    }
    async fn start_container(&self, _: &TtrpcContext, r: StartContainerRequest) -> ttrpc::Result<Empty> {
        let p = self.get(&r.container_id, "")?;
        self.run(p).await?;
        Ok(Empty::new())
    }
    async fn remove_container(&self, _: &TtrpcContext, r: RemoveContainerRequest) -> ttrpc::Result<Empty> {
        self.ps.lock().unwrap().retain(|k, _| k.0 != r.container_id);
        Ok(Empty::new())
    }
    async fn exec_process(&self, _: &TtrpcContext, r: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let p = self.add(&r.container_id, &r.exec_id, r.process.Args.clone());
        self.run(p).await?;
        Ok(Empty::new())
    }
    async fn signal_process(&self, _: &TtrpcContext, r: SignalProcessRequest) -> ttrpc::Result<Empty> {
        let p = self.get(&r.container_id, &r.exec_id)?;
        let pid = *p.pid.lock().unwrap();
        if pid == 0 {
            p.exit.send_replace(Some(137));
        } else {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::try_from(r.signal as i32).unwrap(),
            )
            .map_err(|_| nf())?;
        }
        Ok(Empty::new())
    }
    async fn wait_process(
        &self,
        _: &TtrpcContext,
        r: WaitProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let p = self.get(&r.container_id, &r.exec_id)?;
        let mut x = p.exit.subscribe();
        let s = x.wait_for(Option::is_some).await.unwrap().unwrap();
        Ok(WaitProcessResponse { status: s, ..Default::default() })
    }
    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        r: WriteStreamRequest,
    ) -> ttrpc::Result<WriteStreamResponse> {
        let p = self.get(&r.container_id, &r.exec_id)?;
        p.started.subscribe().wait_for(|s| *s).await.unwrap();
        if let Some(i) = p.inp.lock().await.as_mut() {
            let _ = i.write_all(&r.data).await;
        }
        Ok(WriteStreamResponse { len: r.data.len() as u32, ..Default::default() })
    }
    async fn close_stdin(&self, _: &TtrpcContext, r: CloseStdinRequest) -> ttrpc::Result<Empty> {
        let p = self.get(&r.container_id, &r.exec_id)?;
        p.inp.lock().await.take();
        Ok(Empty::new())
    }
    async fn read_stdout(&self, _: &TtrpcContext, r: ReadStreamRequest) -> ttrpc::Result<ReadStreamResponse> {
        let p = self.get(&r.container_id, &r.exec_id)?;
        let mut st = p.started.subscribe();
        let mut ex = p.exit.subscribe();
        tokio::select! {_=st.wait_for(|s|*s)=>{},_=ex.wait_for(Option::is_some)=>{}};
        let mut b = vec![0; r.len as usize];
        let n = match p.out.lock().await.as_mut() {
            Some(o) => o.read(&mut b).await.unwrap_or(0),
            None => 0,
        };
        b.truncate(n);
        Ok(ReadStreamResponse { data: b, ..Default::default() })
    }
    async fn read_stderr(&self, _: &TtrpcContext, r: ReadStreamRequest) -> ttrpc::Result<ReadStreamResponse> {
        let p = self.get(&r.container_id, &r.exec_id)?;
        let mut st = p.started.subscribe();
        let mut ex = p.exit.subscribe();
        tokio::select! {_=st.wait_for(|s|*s)=>{},_=ex.wait_for(Option::is_some)=>{}};
        let mut b = vec![0; r.len as usize];
        let n = match p.err.lock().await.as_mut() {
            Some(o) => o.read(&mut b).await.unwrap_or(0),
            None => 0,
        };
        b.truncate(n);
        Ok(ReadStreamResponse { data: b, ..Default::default() })
    }
}
struct Fake;
struct FakeVm {
    child: AM<Child>,
    pid: u32,
    socket: PathBuf,
    exited: watch::Sender<Option<VmExit>>,
    _server: Mutex<Server>,
}
#[async_trait]
impl Hypervisor for Fake {
    async fn boot(&self, spec: VmSpec, _l: &Ledger) -> Result<Arc<dyn Vm>> {
        let child = Command::new("sleep").arg("100000").kill_on_drop(true).spawn()?;
        let socket = spec.dir.join("agent.sock");
        let l = Listener::try_from(std::os::unix::net::UnixListener::bind(&socket)?)?;
        let a = Agent::default();
        let mut s = Server::new()
            .add_listener(l)
            .register_service(agent_ttrpc::create_agent_service(Arc::new(a.clone())))
            .register_service(health_ttrpc::create_health(Arc::new(a)));
        s.start().await.unwrap();
        Ok(Arc::new(FakeVm {
            pid: child.id().unwrap(),
            child: AM::new(child),
            socket,
            exited: watch::Sender::new(None),
            _server: Mutex::new(s),
        }))
    }
}
#[async_trait]
impl Vm for FakeVm {
    fn pid(&self) -> u32 {
        self.pid
    }
    fn agent_address(&self) -> AgentAddr {
        AgentAddr::Unix { socket: self.socket.clone() }
    }
    fn exited(&self) -> watch::Receiver<Option<VmExit>> {
        self.exited.subscribe()
    }
    async fn stop(&self) -> Result<()> {
        let ms = std::env::var("FAKE_STOP_MS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        let mut c = self.child.lock().await;
        let _ = c.kill().await;
        self.exited.send_replace(Some(VmExit { reason: "stopped".into() }));
        Ok(())
    }
}
fn main() {
    let flags = Flags::parse(std::env::args().skip(1)).unwrap();
    let out = match flags.action {
        Action::Start => commands::start(&flags),
        Action::Delete => commands::delete(&flags),
        Action::Info => commands::info(),
        Action::Version => Ok(vec![]),
        Action::Serve => {
            serve(&flags);
            return;
        }
    };
    match out {
        Ok(b) => {
            use std::io::Write;
            std::io::stdout().write_all(&b).unwrap()
        }
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}
fn serve(flags: &Flags) {
    let fd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null").unwrap()).unwrap();
    let l = std::os::unix::net::UnixListener::from(fd);
    let _ = nix::unistd::setsid();
    let lvl = logging::init(std::path::Path::new("."), flags.debug);
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(
        async {
            let (s, r) = mpsc::unbounded_channel();
            let p = Publisher::start(
                r,
                flags.namespace.clone(),
                events::endpoint(std::env::var("TTRPC_ADDRESS").ok()),
            );
            let k = Keeper::new(KeeperSetup {
                hypervisor_for: Box::new(|_| Arc::new(Fake)),
                paths: Paths::default(),
                events: s,
                log_level: lvl,
            });
            let r = server::serve(l, Arc::new(k), Duration::from_secs(60)).await;
            p.close(Duration::from_secs(2)).await;
            tracing::info!(?r, "ends");
        },
    );
}
