//! containerd's Task service: decode, call the engine, encode.
//!
//! What changes something runs as a task of its own and is carried to its end even when the caller has gone: ttrpc drops
//! a handler at its deadline and when its connection breaks. A container whose creator has gone is taken away again.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    shim_async::Task,
};
use runtime::{
    bundle::{Bundle, Role},
    container::{Container, Listed},
    error::{Error, Result},
    ids::{ContainerId, ExecId, SandboxId},
    sandbox::{CreateContainer, Sandbox},
    stdio::Stdio,
};
use tokio::{sync::oneshot, time::sleep};
use tracing::{Instrument, Span, info_span};
use ttrpc::r#async::TtrpcContext;

use crate::{
    convert,
    keeper::Keeper,
    life::{Call, Life, carried_out},
    logging::phase,
    metrics::{self, Cgroups},
};

/// From the answer to the last delete to a shutdown that does not come.
const LINGER: Duration = Duration::from_secs(5);

/// The Task service over the sandbox of this process. Clones are the same service.
#[derive(Clone)]
pub struct TaskService {
    keeper: Arc<Keeper>,
    life: Arc<Life>,
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        context: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let this = self.clone();
        let (sender, answer) = oneshot::channel();
        let span = self.span("create", &request.id, "");
        let stdio = convert::create_stdio(&request, context);
        let create = async move {
            let id = request.id.clone();
            let _call = this.life.call();
            let created = this.create_container(request, stdio).await;
            let failed = created.is_err();
            match sender.send(created) {
                Err(unheard) => this.take_back(&id, unheard.is_ok()).await,
                Ok(()) if failed => this.release().await,
                Ok(()) => {}
            }
        };
        tokio::spawn(create.instrument(span));
        let pid = answer.await.map_err(|_| Error::internal("create was given up"));
        let pid = pid.and_then(|created| created).map_err(|error| convert::status(&error))?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let span = self.span("start", &request.id, &request.exec_id);
        let start = |this: Self| async move {
            let began = Instant::now();
            let (sandbox, container) = this.find(&request.id)?;
            match request.exec_id.as_str() {
                "" => sandbox.start_container(&request.id).await?,
                exec => container.start_exec(exec).await?,
            }
            phase("task-start", began);
            let pid = container.process(exec(&request.exec_id)).map_or(0, |process| process.pid());
            Ok(StartResponse { pid, ..Default::default() })
        };
        self.carried_out(span, start).await
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let span = self.span("delete", &request.id, &request.exec_id);
        let (heard, hears) = oneshot::channel();
        let delete = |this: Self| async move {
            let (sandbox, container) = this.find(&request.id)?;
            let pid = container.process(exec(&request.exec_id))?.pid();
            let exit = match request.exec_id.as_str() {
                "" => sandbox.delete_container(&request.id).await?,
                exec => container.delete_exec(exec).await?,
            };
            if request.exec_id.is_empty() && sandbox.is_empty() {
                // Not before the answer: the end of a VM takes longer than containerd likes to wait.
                this.release_later(hears);
            }
            Ok(DeleteResponse {
                pid,
                exit_status: exit.code,
                exited_at: Some(convert::timestamp(exit.at)).into(),
                ..Default::default()
            })
        };
        let deleted = self.carried_out(span, delete).await;
        let _ = heard.send(()); // Nobody may want to know.
        deleted
    }

    async fn exec(&self, context: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let span = self.span("exec", &request.id, &request.exec_id);
        let exec = async {
            let (_, container) = self.find(&request.id)?;
            let id = ExecId::new(request.exec_id.clone())?;
            container.exec(id, convert::exec_process(&request)?, convert::exec_stdio(&request, context)).await
        };
        self.answered(span, exec).await.map(|()| Empty::new())
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let span = self.span("state", &request.id, &request.exec_id);
        let state = async {
            let (_, container) = self.find(&request.id)?;
            let process = container.process(exec(&request.exec_id))?;
            Ok(StateResponse {
                id: container.id().to_string(),
                bundle: container.bundle().display().to_string(),
                pid: process.pid(),
                exec_id: request.exec_id.clone(),
                ..convert::state(&process, container.status())
            })
        };
        self.answered(span, state).await
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let span = self.span("wait", &request.id, &request.exec_id);
        let wait = async {
            let (_, container) = self.find(&request.id)?;
            let exit = container.process(exec(&request.exec_id))?.wait().await?;
            Ok(WaitResponse {
                exit_status: exit.code,
                exited_at: Some(convert::timestamp(exit.at)).into(),
                ..Default::default()
            })
        };
        self.answered(span, wait).await
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let span = self.span("kill", &request.id, &request.exec_id);
        let kill = async {
            let (_, container) = self.find(&request.id)?;
            match exec(&request.exec_id) {
                None if request.all => container.kill_all(request.signal).await,
                process => container.process(process)?.kill(request.signal).await,
            }
        };
        self.answered(span, kill).await.map(|()| Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let span = self.span("resize", &request.id, &request.exec_id);
        let resize = async {
            let (_, container) = self.find(&request.id)?;
            container.process(exec(&request.exec_id))?.resize(request.width, request.height).await
        };
        self.answered(span, resize).await.map(|()| Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let span = self.span("close-io", &request.id, &request.exec_id);
        let close = async {
            let (_, container) = self.find(&request.id)?;
            let process = container.process(exec(&request.exec_id))?;
            if request.stdin {
                process.close_stdin();
            }
            Ok(())
        };
        self.answered(span, close).await.map(|()| Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let span = self.span("pids", &request.id, "");
        let pids = async {
            let (sandbox, container) = self.find(&request.id)?;
            let mut listed = container.pids().await?;
            if listed.is_empty() {
                // containerd from 1.7 on, when it starts, throws away what has no process, and the exit code with it.
                listed.push(Listed { pid: sandbox.pid(), exec: None });
            }
            let processes = listed.into_iter().map(convert::process_info).collect::<Result<_>>()?;
            Ok(PidsResponse { processes, ..Default::default() })
        };
        self.answered(span, pids).await
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let _call = self.keeps_us();
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.find(&request.id).map_or(0, |(sandbox, _)| sandbox.pid()),
            ..Default::default()
        })
    }

    /// Ignored while there are containers: in a pod containerd asks once per container.
    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        let span = self.span("shutdown", &request.id, "");
        let shutdown = |this: Self| async move {
            if this.keeper.close() {
                // First, so that nobody new connects while the sandbox ends.
                this.life.end();
                this.keeper.release().await?;
            }
            Ok(Empty::new())
        };
        self.carried_out(span, shutdown).await
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let span = self.span("pause", &request.id, "");
        let pause = |this: Self| async move {
            this.find(&request.id)?.1.pause().await?;
            Ok(Empty::new())
        };
        self.carried_out(span, pause).await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let span = self.span("resume", &request.id, "");
        let resume = |this: Self| async move {
            this.find(&request.id)?.1.resume().await?;
            Ok(Empty::new())
        };
        self.carried_out(span, resume).await
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let span = self.span("checkpoint", &request.id, "");
        let checkpoint = async {
            self.find(&request.id)?;
            Err(Error::unimplemented(
                "a container in a VM cannot be checkpointed: criu saves processes of the host's kernel",
            ))
        };
        self.answered(span, checkpoint).await
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let span = self.span("update", &request.id, "");
        let update = |this: Self| async move {
            let (sandbox, _) = this.find(&request.id)?;
            sandbox.update_container(&request.id, &convert::resources(&request)?).await?;
            Ok(Empty::new())
        };
        self.carried_out(span, update).await
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let span = self.span("stats", &request.id, "");
        let stats = async {
            let (_, container) = self.find(&request.id)?;
            let metrics = metrics::encode(&container.stats().await?, Cgroups::of_host())?;
            Ok(StatsResponse { stats: Some(metrics).into(), ..Default::default() })
        };
        self.answered(span, stats).await
    }
}

impl TaskService {
    pub fn new(keeper: Arc<Keeper>, life: Arc<Life>) -> Self {
        Self { keeper, life }
    }

    /// Makes the container, and the sandbox if it is its first; returns the task's pid.
    async fn create_container(&self, request: CreateTaskRequest, stdio: Stdio) -> Result<u32> {
        let began = Instant::now();
        let _wanted = self.keeper.want();
        if !request.checkpoint.is_empty() {
            return Err(Error::unimplemented("a container in a VM cannot be restored from a checkpoint"));
        }
        let id = ContainerId::new(request.id.clone())?;
        let mut bundle = Bundle::load(Path::new(&request.bundle))?;
        if let Some(place) = convert::place(request.options.as_ref())? {
            bundle.stand_in = Some(place.stand_in);
            let sandbox = SandboxId::new(place.sandbox)?;
            match place.is_new {
                true => bundle.sandbox_name = Some(sandbox),
                false => bundle.role = Role::PodContainer { sandbox },
            }
        }
        let config = convert::config_path(request.options.as_ref())?;
        let sandbox_id = bundle.sandbox_id(&id)?;
        let sandbox = self.keeper.sandbox_for(&sandbox_id, &bundle, config.as_deref().map(Path::new)).await?;
        let rootfs = convert::rootfs(request.rootfs);
        sandbox.create_container(CreateContainer { id, bundle, rootfs, stdio }).await?;
        phase("task-create", began);
        Ok(sandbox.pid())
    }

    /// Undoes a create that was carried out when nobody waited for it any more.
    async fn take_back(&self, id: &str, succeeded: bool) {
        if succeeded
            && let Some(sandbox) = self.keeper.sandbox()
            && let Err(error) = sandbox.delete_container(id).await
        {
            tracing::warn!(%error, "a container that nobody waited for stays");
        }
        self.release().await;
        self.end_unused();
    }

    /// After the last container. containerd hears the answer and shuts this shim down, unless it dies meanwhile.
    fn release_later(&self, hears: oneshot::Receiver<()>) {
        let this = self.clone();
        let release = async move {
            let call = this.life.call();
            this.release().await;
            drop(call);
            let calls = this.life.calls();
            if hears.await.is_ok() {
                sleep(LINGER).await;
            }
            if this.life.calls() == calls {
                this.end_unused();
            }
        };
        // Ended by the keeper's own release when the process ends, which waits for this one.
        tokio::spawn(release.in_current_span());
    }

    /// For when containerd is not the one any more that would shut us down. 1.6 keeps the bundle, and so refuses the name,
    /// until this shim ends.
    fn end_unused(&self) {
        if self.keeper.close_unless_wanted() {
            self.life.end();
        }
    }

    async fn release(&self) {
        if let Err(error) = self.keeper.release().await {
            tracing::error!(%error, "the sandbox leaves something behind; `delete` tries again");
        }
    }

    fn find(&self, id: &str) -> Result<(Arc<Sandbox>, Arc<Container>)> {
        // The words of runc's shim.
        let unknown = || Error::not_found("container not created");
        let sandbox = self.keeper.sandbox().ok_or_else(unknown)?;
        let container = sandbox.container(id).map_err(|_| unknown())?;
        Ok((sandbox, container))
    }

    fn span(&self, call: &'static str, container: &str, exec: &str) -> Span {
        let sandbox = self.keeper.id();
        let sandbox = sandbox.as_ref().map_or(container, |id| id.as_str());
        info_span!("task", call, sandbox, container, exec)
    }

    /// For calls that can be dropped at any point.
    async fn answered<T>(&self, span: Span, work: impl Future<Output = Result<T>>) -> ttrpc::Result<T> {
        let _call = self.keeps_us();
        work.instrument(span).await.map_err(|error| convert::status(&error))
    }

    /// For a question. One that is about nothing keeps nothing: it may come again and again.
    fn keeps_us(&self) -> Option<Call> {
        self.keeper.sandbox().map(|_| self.life.call())
    }

    /// For calls that are carried to their end.
    async fn carried_out<T, W>(&self, span: Span, work: impl FnOnce(Self) -> W) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        carried_out(Some(self.life.call()), span, work(self.clone())).await
    }
}

/// The name of an exec; an empty one means the init.
fn exec(id: &str) -> Option<&str> {
    (!id.is_empty()).then_some(id)
}
