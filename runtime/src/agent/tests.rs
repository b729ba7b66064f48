//! The host's clock keeps the deadlines of calls to the guest.

use std::{
    os::unix::net::UnixListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use protocols::{
    health::{CheckRequest, HealthCheckResponse, VersionCheckResponse, health_check_response::ServingStatus},
    health_ttrpc::{Health, create_health},
};
use tokio::time::timeout;
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};

use super::{AgentAddr, AgentClient};
use crate::error::ErrorKind;

/// A guest that answers once, and writes down what it is told of deadlines.
#[derive(Default)]
struct Guest {
    told: Mutex<Vec<i64>>,
}

#[async_trait]
impl Health for Guest {
    async fn check(&self, context: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        let calls = {
            let mut told = self.told.lock().unwrap();
            told.push(context.timeout_nano);
            told.len()
        };
        if calls > 1 {
            std::future::pending::<()>().await;
        }
        Ok(HealthCheckResponse { status: ServingStatus::SERVING.into(), ..Default::default() })
    }

    async fn version(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<VersionCheckResponse> {
        Ok(VersionCheckResponse::default())
    }
}

#[tokio::test]
async fn a_guest_whose_clock_runs_fast_has_as_long_as_the_hosts_says() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = Listener::try_from(UnixListener::bind(&socket).unwrap()).unwrap();
    let guest = Arc::new(Guest::default());
    let mut server = Server::new().add_listener(listener).register_service(create_health(guest.clone()));
    server.start().await.unwrap();
    let config = serde_json::json!({ "health_check_request_timeout_ms": 3000 });
    let config = serde_json::from_value(config).unwrap();
    let agent = AgentClient::connect(AgentAddr::Unix { socket }, &config).await.unwrap();

    // It would wait for ever.
    let late = timeout(Duration::from_secs(60), agent.check()).await.expect("the host gives up").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded, "{late}");
    assert!(late.to_string().contains("did not answer in time"), "{late}");
    // By a clock of its own the guest would give up at a time of its own.
    assert_eq!(*guest.told.lock().unwrap(), [0, 0]);
}
