//! A connection to containerd's gRPC services. Every call has a deadline, and says so when it passes.

use std::{path::Path, time::Duration};

use prost::Message;
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// How long containerd may take for one answer: a cold VM under emulation on a busy machine, and then some.
const PATIENCE: Duration = Duration::from_secs(25);

/// A client for one namespace; cheap to clone.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    namespace: AsciiMetadataValue,
}

impl Client {
    /// Connects to containerd's socket.
    pub async fn connect(socket: &Path, namespace: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("a good address");
        let channel =
            endpoint.connect().await.unwrap_or_else(|error| panic!("connect to {socket:?}: {error}"));
        Self { channel, namespace: namespace.parse().expect("a namespace is plain text") }
    }

    /// One call and its answer, as in `containerd.services.tasks.v1.Tasks/Start`.
    pub async fn call<Q, A>(&self, method: &str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let call = async {
            let mut grpc = self.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            Ok(grpc.unary(self.request(question), path(method), codec).await?.into_inner())
        };
        timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(no_answer(method)))
    }

    /// A call that is answered by a stream. It has no deadline: containerd opens the stream with its first message.
    pub async fn stream<Q, A>(&self, method: &str, question: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.server_streaming(self.request(question), path(method), codec).await?.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
        Ok(grpc)
    }

    fn request<Q>(&self, question: Q) -> Request<Q> {
        let mut request = Request::new(question);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/{method}").parse().expect("a method's name is a good path")
}

fn no_answer(method: &str) -> Status {
    Status::new(Code::DeadlineExceeded, format!("{method}: no answer within {PATIENCE:?}"))
}
