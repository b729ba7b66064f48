//! containerd's Sandbox service: a pod that needs no container of its own.
//!
//! Contract: containerd's `runtime/sandbox/v1`. The pod's containers are made by the Task service, in the same process.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    sandbox_api::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
        PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
        StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
        WaitSandboxResponse,
    },
    sandbox_async::Sandbox as SandboxApi,
    types::platform::Platform,
};
use runtime::{
    error::{Error, Result},
    ids::SandboxId,
    pod::Pod,
    process::Exit,
    sandbox::{KILLED, Sandbox},
};
use tokio::{sync::watch, time::sleep};
use tracing::info_span;
use ttrpc::r#async::TtrpcContext;

use crate::{
    convert,
    keeper::Keeper,
    life::{Life, carried_out},
    metrics,
};

/// What containerd and the kubelet call a pod that runs, and any other.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";
/// From the answer to a shutdown, which containerd insists on, to the end of this process.
const FAREWELL: Duration = Duration::from_millis(100);

/// The Sandbox service over the sandbox of this process. Clones are the same service.
#[derive(Clone)]
pub struct SandboxService {
    keeper: Arc<Keeper>,
    life: Arc<Life>,
    held: Arc<Mutex<Option<Held>>>,
    exit: Arc<watch::Sender<Option<Exit>>>,
}

/// What was created.
#[derive(Clone)]
struct Held {
    id: SandboxId,
    pod: Pod,
    started: Option<(u32, SystemTime)>,
}

#[async_trait]
impl SandboxApi for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        self.answered("create", |this| async move {
            let id = SandboxId::new(request.sandbox_id)?;
            let mut held = this.held();
            if let Some(held) = &*held {
                return Err(Error::already_exists(format!("sandbox {}", held.id)));
            }
            let pod = Pod {
                id: id.to_string(),
                dir: PathBuf::from(request.bundle_path),
                network: (!request.netns_path.is_empty()).then(|| request.netns_path.into()),
                annotations: request.annotations,
                config: request.options.into_option().map(|options| options.value).unwrap_or_default(),
            };
            pod.clone().bundle()?; // What is wrong with it is told now.
            *held = Some(Held { id, pod, started: None });
            Ok(CreateSandboxResponse::new())
        })
        .await
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        self.answered("start", |this| async move {
            let held = this.find(&request.sandbox_id)?;
            if held.started.is_some() {
                return Err(Error::precondition(format!("sandbox {} was started already", held.id)));
            }
            let bundle = held.pod.bundle()?;
            let sandbox = this.keeper.sandbox_for(&held.id, &bundle, None).await?;
            this.keeper.keep_without_containers();
            let (pid, at) = (sandbox.pid(), SystemTime::now());
            if let Some(held) = &mut *this.held() {
                held.started = Some((pid, at));
            }
            tokio::spawn(this.watch(sandbox));
            Ok(StartSandboxResponse {
                pid,
                created_at: Some(convert::timestamp(at)).into(),
                ..Default::default()
            })
        })
        .await
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        self.answered("platform", |this| async move {
            this.find(&request.sandbox_id)?;
            let architecture = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            let platform =
                Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() };
            Ok(PlatformResponse { platform: Some(platform).into(), ..Default::default() })
        })
        .await
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        self.answered("stop", |this| async move {
            this.find(&request.sandbox_id)?;
            this.record(0);
            if let Some(sandbox) = this.keeper.sandbox() {
                sandbox.end().await?;
            }
            Ok(StopSandboxResponse::new())
        })
        .await
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        self.answered("wait", |this| async move {
            this.find(&request.sandbox_id)?;
            let mut exit = this.exit.subscribe();
            let exit = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
            let Exit { code, at } = exit.ok_or_else(|| Error::internal("nobody knows of the end"))?;
            Ok(WaitSandboxResponse {
                exit_status: code,
                exited_at: Some(convert::timestamp(at)).into(),
                ..Default::default()
            })
        })
        .await
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        self.answered("status", |this| async move {
            let Held { id, started, .. } = this.find(&request.sandbox_id)?;
            let exit = *this.exit.borrow();
            let is_ready = started.is_some() && exit.is_none();
            let mut status = SandboxStatusResponse {
                sandbox_id: id.to_string(),
                pid: started.map_or(0, |(pid, _)| pid),
                state: if is_ready { READY } else { NOT_READY }.into(),
                created_at: started.map(|(_, at)| convert::timestamp(at)).into(),
                exited_at: exit.map(|exit| convert::timestamp(exit.at)).into(),
                ..Default::default()
            };
            if request.verbose
                && let Some(sandbox) = this.keeper.sandbox()
            {
                let config = sandbox.config().path.display().to_string();
                status.info.insert("configuration".into(), config);
            }
            Ok(status)
        })
        .await
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        self.answered("ping", |this| async move {
            this.find(&request.sandbox_id)?;
            match *this.exit.borrow() {
                None => Ok(PingResponse::new()),
                Some(_) => Err(Error::precondition(format!("sandbox {} has ended", request.sandbox_id))),
            }
        })
        .await
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        self.answered("shutdown", |this| async move {
            this.find(&request.sandbox_id)?;
            this.record(0);
            let ended = this.keeper.end().await;
            let life = this.life.clone();
            tokio::spawn(async move {
                sleep(FAREWELL).await;
                life.end();
            });
            ended.map(|()| ShutdownSandboxResponse::new())
        })
        .await
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        self.answered("metrics", |this| async move {
            let id = this.find(&request.sandbox_id)?.id;
            let sandbox = this.keeper.sandbox();
            let sandbox = sandbox.ok_or_else(|| Error::precondition(format!("sandbox {id} does not run")))?;
            let data = metrics::encode(&sandbox.stats().await?, metrics::Cgroups::of_host())?;
            let mut answer = SandboxMetricsResponse::new();
            let metrics = answer.metrics.mut_or_insert_default();
            metrics.timestamp = Some(convert::timestamp(SystemTime::now())).into();
            metrics.id = id.to_string();
            metrics.data = Some(data).into();
            Ok(answer)
        })
        .await
    }
}

impl SandboxService {
    pub fn new(keeper: Arc<Keeper>, life: Arc<Life>) -> Self {
        let exit = Arc::new(watch::Sender::new(None));
        Self { keeper, life, held: Arc::default(), exit }
    }

    fn find(&self, id: &str) -> Result<Held> {
        let held = self.held().clone();
        held.filter(|held| held.id.as_str() == id).ok_or_else(|| Error::not_found(format!("sandbox {id}")))
    }

    async fn watch(self, sandbox: Arc<Sandbox>) {
        sandbox.ended().await;
        self.record(KILLED);
    }

    /// The first end counts.
    fn record(&self, code: u32) {
        let now = Exit { code, at: SystemTime::now() };
        self.exit.send_if_modified(|exit| exit.is_none() && exit.replace(now).is_none());
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // A value that is whole at any time.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carried to its end even when the caller has gone.
    async fn answered<T, W>(&self, call: &'static str, work: impl FnOnce(Self) -> W) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let in_progress = (call != "wait").then(|| self.life.call());
        carried_out(in_progress, info_span!("sandbox", call), work(self.clone())).await
    }
}
