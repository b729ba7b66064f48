//! A name server of the guest's, which asks the host; see `protocols::guest::PORT_NAMES`.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use protocols::{
    guest::{NAME_SERVER, PORT_NO, PORT_OK},
    names::{Frame, LONGEST},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

/// Questions that wait for an answer; the oldest is forgotten for one more.
const QUESTIONS: usize = 256;
/// Connections at a time.
const CONNECTIONS: usize = 64;
/// For the next question on a connection, and for its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A question by TCP, and where its answer goes.
type Question = (Vec<u8>, oneshot::Sender<Vec<u8>>);

enum Asker {
    Udp(SocketAddr),
    Tcp(oneshot::Sender<Vec<u8>>),
}

/// Serves names for as long as the host holds the connection.
pub async fn serve(mut connection: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let bound = async { Ok((UdpSocket::bind(NAME_SERVER).await?, TcpListener::bind(NAME_SERVER).await?)) };
    let (udp, tcp) = match bound.await {
        Ok(sockets) => sockets,
        Err(error) => {
            let error: io::Error = error;
            connection.write_all(format!("{PORT_NO} {error}\n").as_bytes()).await?;
            connection.flush().await?;
            let _ = connection.read_u8().await; // The host closes.
            return Ok(());
        }
    };
    connection.write_all(format!("{PORT_OK}\n").as_bytes()).await?;
    connection.flush().await?;
    relay(connection, &udp, &tcp).await
}

async fn relay(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    udp: &UdpSocket,
    tcp: &TcpListener,
) -> io::Result<()> {
    let (mut from_host, mut to_host) = split(connection);
    let askers = Mutex::new(BTreeMap::new());
    // A map that every user leaves whole.
    let askers = || askers.lock().unwrap_or_else(PoisonError::into_inner);
    let answering = async {
        loop {
            let frame = Frame::read(&mut from_host).await?;
            let asker = askers().remove(&frame.number);
            // Whoever asked may be gone.
            match asker {
                Some(Asker::Udp(peer)) => drop(udp.send_to(&frame.message, peer).await),
                Some(Asker::Tcp(back)) => drop(back.send(frame.message)),
                None => {}
            }
        }
    };
    let asking = async {
        let (sender, mut questions) = mpsc::channel::<Question>(1);
        let (mut connections, mut datagram) = (JoinSet::new(), vec![0; LONGEST]);
        for number in (0..1 << 31).cycle() {
            // All are cancel-safe.
            let (asker, message) = loop {
                tokio::select! {
                    received = udp.recv_from(&mut datagram) => {
                        // An error is that of an earlier answer, which nobody took.
                        let Ok((length, peer)) = received else { continue };
                        break (Asker::Udp(peer), datagram[..length].to_vec());
                    }
                    accepted = tcp.accept(), if connections.len() < CONNECTIONS => {
                        let Ok((stream, _)) = accepted else { continue };
                        connections.spawn(converse(stream, sender.clone()));
                    }
                    Some(_) = connections.join_next() => {} // Its end is its peer's affair.
                    Some((message, back)) = questions.recv() => break (Asker::Tcp(back), message),
                }
            };
            let by_tcp = matches!(asker, Asker::Tcp(_));
            {
                let mut askers = askers();
                if askers.len() >= QUESTIONS {
                    askers.pop_first();
                }
                askers.insert(number, asker);
            }
            Frame { number, by_tcp, message }.write(&mut to_host).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = answering => ended,
        ended = asking => ended,
    }
}

/// Questions on one connection, one after the other: each is preceded by its length, as its answer is.
async fn converse(mut stream: TcpStream, questions: mpsc::Sender<Question>) -> Option<()> {
    loop {
        let question = async {
            let mut message = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut message).await.map(|_| message)
        };
        let message = timeout(PATIENCE, question).await.ok()?.ok()?;
        let (back, answer) = oneshot::channel();
        questions.send((message, back)).await.ok()?;
        let answer = timeout(PATIENCE, answer).await.ok()?.ok()?;
        let mut framed = u16::try_from(answer.len()).ok()?.to_be_bytes().to_vec();
        framed.extend(answer);
        timeout(PATIENCE, stream.write_all(&framed)).await.ok()?.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn questions_go_to_the_host_and_answers_back_to_their_askers() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (by_udp, by_tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let (mut host, guest) = duplex(1 << 16);
        tokio::spawn(async move { relay(guest, &udp, &tcp).await });

        let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        asker.send_to(b"one", by_udp).await.unwrap();
        let first = Frame::read(&mut host).await.unwrap();
        let mut stream = TcpStream::connect(by_tcp).await.unwrap();
        stream.write_all(b"\0\x03two").await.unwrap();
        let second = Frame::read(&mut host).await.unwrap();
        assert_eq!((first.by_tcp, &first.message[..]), (false, &b"one"[..]));
        assert_eq!((second.by_tcp, &second.message[..]), (true, &b"two"[..]));

        // The later one first; and one that nobody asked.
        Frame { number: 1 << 20, by_tcp: false, message: vec![] }.write(&mut host).await.unwrap();
        Frame { message: b"second".to_vec(), ..second }.write(&mut host).await.unwrap();
        Frame { message: b"first".to_vec(), ..first }.write(&mut host).await.unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\0\x06second");
        let mut answer = [0; 64];
        let (length, from) = asker.recv_from(&mut answer).await.unwrap();
        assert_eq!((&answer[..length], from), (&b"first"[..], by_udp));
    }
}
