//! Docker's name server: it listens at 127.0.0.11 in the container's network namespace on the host, and is asked at the same
//! address in the guest.
//!
//! The host asks that address for the guest, and no other: a guest that is hostile reaches the name server that is its own.

use std::{
    io,
    net::{Ipv4Addr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use protocols::{
    guest::{NAME_SERVER, PORT_NAMES},
    names::{Frame, LONGEST},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::{TcpStream, UdpSocket},
    sync::{OnceCell, mpsc},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::{
    agent::{AgentClient, GuestStream},
    bundle::{Bundle, Role},
    error::{Context, Result},
    netlink::Namespace,
    network::Answers,
};

use super::changes::Changes;

/// Longer than a name server takes that asks others.
const PATIENCE: Duration = Duration::from_secs(12);
/// Questions at a time; more are not asked, and asked again by who wants to know.
const QUESTIONS: usize = 128;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The file on the host that tells a container its name servers. A pod's are those of its cluster.
pub(crate) fn resolv_conf(bundle: &Bundle) -> Option<std::path::PathBuf> {
    let mounts = bundle.spec.mounts().as_deref().unwrap_or_default();
    let mount = mounts.iter().find(|mount| mount.destination() == Path::new(RESOLV_CONF));
    mount.filter(|_| bundle.role == Role::Single)?.source().clone()
}

/// Serves the guest, once somebody in it may ask.
#[derive(Default)]
pub(crate) struct Names {
    task: OnceCell<JoinHandle<()>>,
}

impl Names {
    /// Begins if `file` names Docker's name server, or else once it does; returns when the guest can ask if it does already.
    /// `process` is in the namespace.
    pub async fn begin(
        &self,
        file: &Path,
        process: u32,
        agent: &Arc<AgentClient>,
        answers: Answers,
    ) -> Result<()> {
        let begin = || async {
            let namespace = Namespace::open(Path::new(&format!("/proc/{process}/ns/net")))?;
            // Before the first look, to miss nothing after it.
            let changes = Changes::of(file)?;
            if named_in(file).await? {
                let connection = connect(agent, &answers).await?;
                return Ok(tokio::spawn(serve_to_the_end(connection, namespace)));
            }
            let (file, agent) = (file.to_owned(), agent.clone());
            Ok(tokio::spawn(async move {
                // `docker network connect` writes the file anew.
                match later(&file, changes, &agent, &answers).await {
                    Ok(connection) => serve_to_the_end(connection, namespace).await,
                    Err(error) => {
                        tracing::warn!(%error, ?file, "the guest cannot ask the engine's name server")
                    }
                }
            }))
        };
        self.task.get_or_try_init(begin).await.map(drop)
    }

    pub fn close(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection to the agent, once the file names Docker's name server.
async fn later(file: &Path, changes: Changes, agent: &AgentClient, answers: &Answers) -> Result<GuestStream> {
    loop {
        changes.next().await?;
        if named_in(file).await? {
            return connect(agent, answers).await;
        }
    }
}

/// A connection to the agent, when Docker's name server can ask others.
async fn connect(agent: &AgentClient, answers: &Answers) -> Result<GuestStream> {
    answers.keep().await?;
    agent.ask(PORT_NAMES).await
}

async fn named_in(file: &Path) -> Result<bool> {
    Ok(names_docker(&tokio::fs::read_to_string(file).await.context("read it")?))
}

async fn serve_to_the_end(connection: GuestStream, namespace: Namespace) {
    if let Err(error) = serve(connection, namespace).await {
        tracing::debug!(%error, "the guest's questions for names have ended");
    }
}

fn names_docker(text: &str) -> bool {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut servers = servers.filter_map(|rest| rest.split_whitespace().next()?.parse::<Ipv4Addr>().ok());
    servers.any(|server| server == NAME_SERVER.0)
}

async fn serve(connection: GuestStream, namespace: Namespace) -> io::Result<()> {
    let (mut from_guest, mut to_guest) = split(connection);
    let (sender, mut answers) = mpsc::channel::<Frame>(QUESTIONS);
    let namespace = Arc::new(namespace);
    let asking = async {
        let mut questions = JoinSet::new();
        loop {
            let question = Frame::read(&mut from_guest).await?;
            while questions.try_join_next().is_some() {} // Each has sent its answer, if there was one.
            if questions.len() >= QUESTIONS {
                continue;
            }
            let (sender, namespace) = (sender.clone(), namespace.clone());
            questions.spawn(async move {
                match timeout(PATIENCE, ask(&namespace, &question)).await {
                    Ok(Ok(message)) => drop(sender.send(Frame { message, ..question }).await),
                    Ok(Err(error)) => tracing::debug!(%error, "a name server was asked in vain"),
                    Err(_) => tracing::debug!("a name server does not answer"),
                }
            });
        }
    };
    let answering = async {
        while let Some(answer) = answers.recv().await {
            answer.write(&mut to_guest).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = asking => ended,
        ended = answering => ended,
    }
}

async fn ask(namespace: &Namespace, question: &Frame) -> Result<Vec<u8>> {
    if question.by_tcp {
        return ask_by_tcp(namespace, &question.message).await;
    }
    let open = || {
        let socket = StdUdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(NAME_SERVER)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    };
    let socket = namespace.run(move || open().context("connect to the name server")).await?;
    let socket = UdpSocket::from_std(socket).context("the name server")?;
    socket.send(&question.message).await.context("ask the name server")?;
    let mut answer = vec![0; LONGEST];
    let length = socket.recv(&mut answer).await.context("the name server's answer")?;
    answer.truncate(length);
    Ok(answer)
}

async fn ask_by_tcp(namespace: &Namespace, question: &[u8]) -> Result<Vec<u8>> {
    let open = || {
        let stream = StdTcpStream::connect_timeout(&NAME_SERVER.into(), PATIENCE)?;
        stream.set_nonblocking(true)?;
        Ok::<_, io::Error>(stream)
    };
    let stream = namespace.run(move || open().context("connect to the name server")).await?;
    let mut stream = TcpStream::from_std(stream).context("the name server")?;
    // At most 65535 bytes, as read from the guest.
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend(question);
    let answered = async {
        stream.write_all(&framed).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await.map(|_| answer)
    };
    answered.await.context("ask the name server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_name_server_is_known_by_its_address() {
        for (text, docker) in [
            ("nameserver 127.0.0.11\noptions ndots:0\n", true),
            ("search x\n  nameserver\t127.0.0.11 # embedded\n", true),
            ("nameserver 127.0.0.1\nnameserver 127.0.0.110\n", false),
            ("# nameserver 127.0.0.11\nnameserver ::1\n", false),
            ("", false),
        ] {
            assert_eq!(names_docker(text), docker, "{text}");
        }
    }
}
