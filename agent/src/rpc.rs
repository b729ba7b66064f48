//! The agent's services: decode, call, encode.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use nix::sys::{signal::Signal, time::TimeVal};
use protobuf::well_known_types::empty::Empty;
use protocols::{
    agent as wire,
    agent_ttrpc::{AgentService, create_agent_service},
    extras,
    extras_ttrpc::{Extras, create_extras},
    guest::FEATURE_EXTRAS,
    health,
    health_ttrpc::{Health, create_health},
    types,
};
use ttrpc::{
    Code,
    r#async::{MethodHandler, Service, TtrpcContext},
    proto::{Request, Response},
};

use crate::{
    clock_and_entropy, cpus,
    error::{Error, Result},
    guest::Guest,
    network::iptables,
    process::{Output, Process},
    storage::DRIVERS,
};

const AGENT_SERVICE: &str = "grpc.AgentService";
/// Upstream's API version, which it never changed.
const GRPC_VERSION: &str = "0.0.1";

/// Calls that the protocol has and this agent does not serve.
const UNSERVED: [&str; 12] = [
    "AddSwap",
    "AddSwapPath",
    "CopyFile",
    "GetDiagnosticData",
    "GetMetrics",
    "GetVolumeStats",
    "MemAgentCompactSet",
    "MemAgentMemcgSet",
    "MemHotplugByProbe",
    "RemoveStaleVirtiofsShareMounts",
    "ResizeVolume",
    "SetPolicy",
];

/// Both services for a guest, ready to be registered.
pub fn services(guest: Arc<Guest>) -> HashMap<String, Service> {
    let rpc = Arc::new(Rpc { guest });
    let mut services = create_agent_service(rpc.clone());
    services.extend(create_health(rpc.clone()));
    services.extend(create_extras(rpc));
    if let Some(service) = services.get_mut(AGENT_SERVICE) {
        for name in UNSERVED {
            service.methods.insert(name.into(), Box::new(Unserved(name)));
        }
    }
    for service in services.values_mut() {
        let methods = std::mem::take(&mut service.methods);
        service.methods = methods.into_iter().map(|(name, inner)| (name, guarded(inner))).collect();
    }
    services
}

/// Answers a call that is not served, by name.
struct Unserved(&'static str);

#[async_trait]
impl MethodHandler for Unserved {
    async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
        Ok(refusal(Code::UNIMPLEMENTED, format!("{} is not served by this agent", self.0)))
    }
}

/// Answers for a handler that panics; without, the host would wait for ever.
struct Guarded(Box<dyn MethodHandler + Send + Sync>);

fn guarded(inner: Box<dyn MethodHandler + Send + Sync>) -> Box<dyn MethodHandler + Send + Sync> {
    Box::new(Guarded(inner))
}

#[async_trait]
impl MethodHandler for Guarded {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let method = request.method.clone();
        AssertUnwindSafe(self.0.handler(context, request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Ok(refusal(Code::INTERNAL, format!("{method} panicked in the agent"))))
    }
}

/// An answer that is an error. What a handler returns as `Err` loses its code on the way.
fn refusal(code: Code, text: String) -> Response {
    let mut response = Response::new();
    response.set_status(ttrpc::get_status(code, text));
    response
}

struct Rpc {
    guest: Arc<Guest>,
}

impl Rpc {
    fn process(&self, container: &str, exec: &str) -> Result<Arc<Process>> {
        self.guest.container(container)?.process(exec)
    }

    async fn read(
        &self,
        request: wire::ReadStreamRequest,
        output: Output,
    ) -> ttrpc::Result<wire::ReadStreamResponse> {
        let container = self.guest.container(&request.container_id)?;
        let data = container.process(&request.exec_id)?.read(output, request.len as usize).await?;
        container.forget_if_done(&request.exec_id);
        Ok(wire::ReadStreamResponse { data, ..Default::default() })
    }
}

#[async_trait]
impl Health for Rpc {
    async fn check(
        &self,
        _: &TtrpcContext,
        _: health::CheckRequest,
    ) -> ttrpc::Result<health::HealthCheckResponse> {
        let status = health::health_check_response::ServingStatus::SERVING.into();
        Ok(health::HealthCheckResponse { status, ..Default::default() })
    }

    async fn version(
        &self,
        _: &TtrpcContext,
        _: health::CheckRequest,
    ) -> ttrpc::Result<health::VersionCheckResponse> {
        Ok(health::VersionCheckResponse {
            grpc_version: GRPC_VERSION.into(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }
}

#[async_trait]
impl AgentService for Rpc {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::CreateSandboxRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.create_sandbox(request).await?;
        Ok(Empty::new())
    }

    async fn destroy_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire::DestroySandboxRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.destroy_sandbox()?;
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: wire::CreateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.create_container(request).await?;
        Ok(Empty::new())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: wire::StartContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.start_container(&request.container_id).await?;
        Ok(Empty::new())
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: wire::RemoveContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.remove_container(&request.container_id).await?;
        Ok(Empty::new())
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: wire::ExecProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let process = match (request.process_json.is_empty(), request.process.as_ref()) {
            (false, _) => protocols::oci::process_from_json(&request.process_json).map_err(Error::from)?.0,
            (true, Some(process)) => protocols::oci::process_from_wire(process).map_err(Error::from)?,
            (true, None) => return Err(Error::invalid("process: is missing").into()),
        };
        self.guest.container(&request.container_id)?.exec(&request.exec_id, process).await?;
        Ok(Empty::new())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: wire::SignalProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.guest.container(&request.container_id)?;
        let signal = i32::try_from(request.signal).map_err(|_| Error::invalid("signal is out of range"))?;
        if request.all || request.exec_id.is_empty() && signal == Signal::SIGKILL as i32 {
            container.signal_all(signal)?;
        } else {
            container.signal(&request.exec_id, signal)?;
        }
        Ok(Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: wire::WaitProcessRequest,
    ) -> ttrpc::Result<wire::WaitProcessResponse> {
        let container = self.guest.container(&request.container_id)?;
        let process = container.process(&request.exec_id)?;
        let status = process.wait().await?;
        process.exit_fetched();
        container.forget_if_done(&request.exec_id);
        Ok(wire::WaitProcessResponse { status, oom_kills: container.oom_kills(), ..Default::default() })
    }

    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: wire::WriteStreamRequest,
    ) -> ttrpc::Result<wire::WriteStreamResponse> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        if request.data.is_empty() {
            process.close_stdin().await;
        } else {
            process.write(&request.data).await?;
        }
        Ok(wire::WriteStreamResponse { len: request.data.len() as u32, ..Default::default() })
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: wire::CloseStdinRequest) -> ttrpc::Result<Empty> {
        self.process(&request.container_id, &request.exec_id)?.close_stdin().await;
        Ok(Empty::new())
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: wire::ReadStreamRequest,
    ) -> ttrpc::Result<wire::ReadStreamResponse> {
        self.read(request, Output::Stdout).await
    }

    async fn read_stderr(
        &self,
        _: &TtrpcContext,
        request: wire::ReadStreamRequest,
    ) -> ttrpc::Result<wire::ReadStreamResponse> {
        self.read(request, Output::Stderr).await
    }

    async fn tty_win_resize(
        &self,
        _: &TtrpcContext,
        request: wire::TtyWinResizeRequest,
    ) -> ttrpc::Result<Empty> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        process.resize(request.row as u16, request.column as u16)?;
        Ok(Empty::new())
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: wire::PauseContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.container(&request.container_id)?.pause().await?;
        Ok(Empty::new())
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: wire::ResumeContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.container(&request.container_id)?.resume().await?;
        Ok(Empty::new())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.guest.container(&request.container_id)?;
        let resources = match (request.resources_json.is_empty(), request.resources.as_ref()) {
            (false, _) => serde_json::from_slice(&request.resources_json)
                .map_err(|error| Error::invalid(format!("resources: {error}")))?,
            (true, Some(resources)) => protocols::oci::resources_from_wire(resources).map_err(Error::from)?,
            (true, None) => return Ok(Empty::new()),
        };
        container.update(&resources)?;
        Ok(Empty::new())
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: wire::StatsContainerRequest,
    ) -> ttrpc::Result<wire::StatsContainerResponse> {
        Ok(self.guest.container(&request.container_id)?.stats()?)
    }

    async fn get_oom_event(
        &self,
        _: &TtrpcContext,
        _: wire::GetOOMEventRequest,
    ) -> ttrpc::Result<wire::OOMEvent> {
        let kill = self.guest.oom_kill().await?;
        Ok(wire::OOMEvent { container_id: kill.container, oom_kills: kill.kills, ..Default::default() })
    }

    async fn update_ephemeral_mounts(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateEphemeralMountsRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest.storages.update_ephemeral(&request.storages)?;
        Ok(Empty::new())
    }

    async fn get_guest_details(
        &self,
        _: &TtrpcContext,
        request: wire::GuestDetailsRequest,
    ) -> ttrpc::Result<wire::GuestDetailsResponse> {
        let mut response = wire::GuestDetailsResponse::new();
        if request.mem_block_size {
            response.mem_block_size_bytes = cpus::memory_block_size();
        }
        response.support_mem_hotplug_probe = request.mem_hotplug_probe && cpus::has_memory_probe();
        response.agent_details = Some(wire::AgentDetails {
            version: env!("CARGO_PKG_VERSION").into(),
            init_daemon: std::process::id() == 1,
            storage_handlers: DRIVERS.map(str::to_owned).to_vec(),
            supports_seccomp: cfg!(feature = "seccomp"),
            extra_features: [FEATURE_EXTRAS]
                .into_iter()
                .chain(cfg!(feature = "seccomp").then_some("seccomp"))
                .map(str::to_owned)
                .collect(),
            ..Default::default()
        })
        .into();
        Ok(response)
    }

    async fn online_cpu_mem(
        &self,
        _: &TtrpcContext,
        request: wire::OnlineCPUMemRequest,
    ) -> ttrpc::Result<Empty> {
        cpus::online(request.nb_cpus as usize, request.cpu_only).await?;
        Ok(Empty::new())
    }

    async fn update_interface(
        &self,
        context: &TtrpcContext,
        request: wire::UpdateInterfaceRequest,
    ) -> ttrpc::Result<types::Interface> {
        let interface =
            request.interface.into_option().ok_or_else(|| Error::invalid("interface: is missing"))?;
        let patience = Duration::from_nanos(context.timeout_nano.max(0) as u64);
        self.guest.network.update_interface(&interface, patience).await?;
        Ok(interface)
    }

    async fn update_routes(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateRoutesRequest,
    ) -> ttrpc::Result<wire::Routes> {
        let routes = request.routes.into_option().ok_or_else(|| Error::invalid("routes: is missing"))?;
        let routes = self.guest.network.update_routes(&routes.Routes).await?;
        Ok(wire::Routes { Routes: routes, ..Default::default() })
    }

    async fn add_arp_neighbors(
        &self,
        _: &TtrpcContext,
        request: wire::AddARPNeighborsRequest,
    ) -> ttrpc::Result<Empty> {
        let neighbours =
            request.neighbors.into_option().ok_or_else(|| Error::invalid("neighbors: is missing"))?;
        self.guest.network.add_neighbours(&neighbours.ARPNeighbors).await?;
        Ok(Empty::new())
    }

    async fn list_interfaces(
        &self,
        _: &TtrpcContext,
        _: wire::ListInterfacesRequest,
    ) -> ttrpc::Result<wire::Interfaces> {
        let interfaces = self.guest.network.interfaces().await?;
        Ok(wire::Interfaces { Interfaces: interfaces, ..Default::default() })
    }

    async fn list_routes(&self, _: &TtrpcContext, _: wire::ListRoutesRequest) -> ttrpc::Result<wire::Routes> {
        let routes = self.guest.network.routes().await?;
        Ok(wire::Routes { Routes: routes, ..Default::default() })
    }

    async fn get_ip_tables(
        &self,
        _: &TtrpcContext,
        request: wire::GetIPTablesRequest,
    ) -> ttrpc::Result<wire::GetIPTablesResponse> {
        let data = iptables::rules(request.is_ipv6).await?;
        Ok(wire::GetIPTablesResponse { data, ..Default::default() })
    }

    async fn set_ip_tables(
        &self,
        _: &TtrpcContext,
        request: wire::SetIPTablesRequest,
    ) -> ttrpc::Result<wire::SetIPTablesResponse> {
        let data = iptables::set_rules(request.is_ipv6, request.data).await?;
        Ok(wire::SetIPTablesResponse { data, ..Default::default() })
    }

    async fn set_guest_date_time(
        &self,
        _: &TtrpcContext,
        request: wire::SetGuestDateTimeRequest,
    ) -> ttrpc::Result<Empty> {
        clock_and_entropy::set_clock(TimeVal::new(request.Sec, request.Usec))?;
        Ok(Empty::new())
    }

    async fn reseed_random_dev(
        &self,
        _: &TtrpcContext,
        request: wire::ReseedRandomDevRequest,
    ) -> ttrpc::Result<Empty> {
        clock_and_entropy::reseed(&request.data)?;
        Ok(Empty::new())
    }
}

#[async_trait]
impl Extras for Rpc {
    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: extras::ListProcessesRequest,
    ) -> ttrpc::Result<extras::ListProcessesResponse> {
        let processes = self.guest.container(&request.container_id)?.processes()?;
        Ok(extras::ListProcessesResponse { processes, ..Default::default() })
    }

    async fn remove_interface(
        &self,
        _: &TtrpcContext,
        request: extras::RemoveInterfaceRequest,
    ) -> ttrpc::Result<extras::RemoveInterfaceResponse> {
        self.guest.network.remove_interface(&request.hw_addr, &request.name).await?;
        Ok(extras::RemoveInterfaceResponse::new())
    }
}
