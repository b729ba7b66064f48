//! A name server of a test's own, which knows one name and is asked by UDP and TCP.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::place::within_path;

/// The one that it knows.
pub const NAME: &str = "known.example";
/// What it says of it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
/// At every address of the namespace.
const EVERYWHERE: &str = "[::]:53";
/// Between two looks at whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// For one who asks by TCP.
const PATIENCE: Duration = Duration::from_secs(10);
/// A question's, and an answer's.
const HEADER: usize = 12;

/// Answers until it is dropped.
pub struct NameServer {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// Serves in a network namespace.
    pub fn start(namespace: &Path) -> io::Result<Self> {
        let bind = || Ok((UdpSocket::bind(EVERYWHERE)?, TcpListener::bind(EVERYWHERE)?));
        let (udp, tcp) = within_path(namespace, bind)?;
        udp.set_read_timeout(Some(LOOK))?;
        tcp.set_nonblocking(true)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (first, second) = (ended.clone(), ended.clone());
        let threads =
            vec![thread::spawn(move || by_udp(&udp, &first)), thread::spawn(move || by_tcp(&tcp, &second))];
        Ok(Self { ended, threads })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // What it could not do, its clients have seen.
        }
    }
}

fn by_udp(socket: &UdpSocket, ended: &AtomicBool) {
    let mut question = [0; 512];
    while !ended.load(Ordering::Relaxed) {
        // Nothing has come for a while, or an earlier answer was not wanted.
        let Ok((length, peer)) = socket.recv_from(&mut question) else { continue };
        if let Some(answer) = answer(&question[..length]) {
            let _ = socket.send_to(&answer, peer); // As it is with UDP.
        }
    }
}

fn by_tcp(listener: &TcpListener, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                if let Err(error) = converse(stream) {
                    eprintln!("name server, {peer}: {error}");
                }
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// One question on a connection.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    let answer = answer(&question).ok_or(ErrorKind::InvalidData)?;
    stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat())
}

/// The name as it stands in a message.
fn encoded() -> Vec<u8> {
    let labels = NAME.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// A question for the address of the known name.
pub fn question() -> Vec<u8> {
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], &encoded(), &[0, 1, 0, 1]].concat()
}

/// `None` for what is no question.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = HEADER;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    let (name, kind) = (question.get(HEADER..=end)?, question.get(end + 1..end + 5)?);
    let known = name.eq_ignore_ascii_case(&encoded());
    let found = known && kind == [0, 1, 0, 1];
    let code = if known { 0 } else { 3 };
    let mut answer = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, found.into(), 0, 0, 0, 0]].concat();
    answer.extend([name, kind].concat());
    if found {
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(ADDRESS.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_one_name_and_no_other() {
        let known = answer(&question()).unwrap();
        assert!(known.ends_with(&ADDRESS.octets()) && known[..8] == [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1]);
        let mut other = question();
        other[HEADER + 1] = b'x';
        assert_eq!(answer(&other).unwrap()[3] & 15, 3);
        assert_eq!(answer(&question()[..20]), None);
    }
}
