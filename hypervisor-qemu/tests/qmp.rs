//! The QMP client against a peer that follows a script, well-behaved or not.

use std::{
    fs::File,
    io::{IoSliceMut, Read, Seek, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use hypervisor_qemu::qmp::Qmp;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use qapi_qmp::{getfd, quit, stop};
use runtime::error::ErrorKind;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);
const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}"#;

/// QEMU's side.
struct Peer {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { lines: BufReader::new(reader).lines(), writer }
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.writer.write_all(text.as_ref()).await.unwrap();
        self.writer.write_all(b"\r\n").await.unwrap();
    }

    /// The next command's name and id.
    async fn hear(&mut self) -> (String, Value) {
        let line = timeout(SOON, self.lines.next_line()).await.unwrap().unwrap().expect("a command");
        let command: Value = serde_json::from_str(&line).unwrap();
        (command["execute"].as_str().unwrap().into(), command["id"].clone())
    }

    async fn answer(&mut self, id: &Value) {
        self.say(json!({ "return": {}, "id": id }).to_string()).await;
    }

    async fn negotiate(&mut self) {
        self.say(GREETING).await;
        let (command, id) = self.hear().await;
        assert_eq!(command, "qmp_capabilities");
        self.answer(&id).await;
    }
}

/// A client and its negotiated peer.
async fn connected() -> (Qmp, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer::new(theirs);
    let (connected, ()) = tokio::join!(Qmp::connect(ours), peer.negotiate());
    (connected.unwrap().0, peer)
}

/// What connecting to a peer that says `text` and hangs up comes to.
async fn connecting_to(text: &[u8]) -> String {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(text).await.unwrap();
    drop(theirs);
    let error = timeout(SOON, Qmp::connect(ours)).await.unwrap().unwrap_err();
    error.to_string()
}

#[tokio::test]
async fn a_peer_that_does_not_greet_is_refused() {
    assert!(connecting_to(b"").await.contains("closed the connection"));
    assert!(connecting_to(b"SSH-2.0-OpenSSH\n").await.contains("not a JSON object"));
    assert!(connecting_to(b"{\"event\": \"STOP\"}\n").await.contains("begins with"));
    let all = connecting_to(format!("{GREETING}\n").as_bytes()).await;
    assert!(all.contains("qmp_capabilities"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_runs_into_the_deadline() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert_eq!(Qmp::connect(ours).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_command_without_an_answer_runs_into_the_deadline() {
    let (qmp, mut peer) = connected().await;
    assert_eq!(qmp.execute(quit {}).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    // The late answer belongs to nobody and harms nobody.
    let (_, id) = peer.hear().await;
    peer.answer(&id).await;
    let (answered, ()) = tokio::join!(qmp.execute(stop {}), async {
        let (command, id) = peer.hear().await;
        assert_eq!(command, "stop");
        peer.answer(&id).await;
    });
    answered.unwrap();
}

#[tokio::test]
async fn a_dropped_call_disturbs_no_other() {
    let (qmp, mut peer) = connected().await;
    for _ in 0..100 {
        // Dropped while it waits for an answer.
        assert!(timeout(Duration::from_millis(1), qmp.execute(stop {})).await.is_err());
    }
    let call = async { qmp.execute(quit {}).await.unwrap() };
    let script = async {
        loop {
            let (command, id) = peer.hear().await;
            peer.answer(&id).await;
            if command == "quit" {
                break;
            }
        }
    };
    timeout(SOON, async { tokio::join!(call, script) }).await.unwrap();
}

#[tokio::test]
async fn answers_find_their_callers_in_any_order_with_events_between() {
    let (qmp, mut peer) = connected().await;
    let mut events = qmp.events();
    let script = async {
        let first = peer.hear().await;
        let second = peer.hear().await;
        peer.say(r#"{"timestamp": {}, "event": "STOP"}"#).await;
        let (_, id) = &second;
        peer.say(json!({"error": {"class": "DeviceNotFound", "desc": "it is gone"}, "id": id}).to_string())
            .await;
        peer.say(r#"{"timestamp": {}, "event": "NEW_IN_QEMU_99", "data": {"x": 1}}"#).await;
        peer.answer(&first.1).await;
        second.0
    };
    let (stopped, quitted, second) = tokio::join!(qmp.execute(stop {}), qmp.execute(quit {}), script);
    let (refused, fine) = if second == "quit" {
        (quitted.map(drop).unwrap_err(), stopped.map(drop))
    } else {
        (stopped.map(drop).unwrap_err(), quitted.map(drop))
    };
    fine.unwrap();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(refused.to_string().starts_with("qmp ") && refused.to_string().ends_with("it is gone"));
    assert_eq!(events.recv().await.unwrap().name, "STOP");
    let event = events.recv().await.unwrap();
    assert_eq!((event.name.as_str(), &event.data["x"]), ("NEW_IN_QEMU_99", &json!(1)));
}

/// Sends `nonsense` while a call waits; the call fails, later ones too, and listeners hear the end.
async fn after_nonsense(nonsense: Vec<u8>) -> String {
    let (qmp, mut peer) = connected().await;
    let mut events = qmp.events();
    let script: JoinHandle<_> = tokio::spawn(async move {
        peer.hear().await;
        // The client may hang up before all of it is written.
        let _ = peer.writer.write_all(&nonsense).await;
        peer
    });
    let error = timeout(SOON, qmp.execute(quit {})).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(timeout(SOON, events.recv()).await.unwrap().is_err());
    assert!(timeout(SOON, qmp.events().recv()).await.unwrap().is_err());
    let later = timeout(SOON, qmp.execute(quit {})).await.unwrap().unwrap_err();
    assert_eq!(later.to_string(), error.to_string(), "later callers hear why, too");
    drop(script.await);
    error.to_string()
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_says_so() {
    assert!(after_nonsense(b"}{\n".to_vec()).await.contains("not a JSON object"));
    assert!(after_nonsense(b"{\"return\": {}, \"id\": 999}\n".to_vec()).await.contains("was not asked"));
    assert!(after_nonsense(vec![b'x'; 4 << 20]).await.contains("in one line"));
    assert!(after_nonsense([vec![b'['; 500_000], b"\n".to_vec()].concat()).await.contains("JSON"));
    let rejected = br#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#;
    assert!(after_nonsense([&rejected[..], b"\n"].concat()).await.contains("rejects our input"));
}

#[tokio::test]
async fn the_end_of_the_stream_fails_every_waiting_call() {
    let (qmp, mut peer) = connected().await;
    let script = async {
        peer.hear().await;
        peer.hear().await;
        drop(peer);
    };
    let (one, two, ()) = tokio::join!(qmp.execute(stop {}), qmp.execute(quit {}), script);
    for error in [one.map(drop).unwrap_err(), two.map(drop).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("closed the connection"), "{error}");
    }
}

#[tokio::test]
async fn more_calls_than_the_peer_reads_wait_without_harm() {
    let (qmp, mut peer) = connected().await;
    let calls = async {
        let calls = (0..1000).map(|_| async { qmp.execute(stop {}).await.unwrap() });
        let mut waiting = Vec::from_iter(calls.map(Box::pin));
        // All are begun before the first is answered.
        std::future::poll_fn(|cx| {
            waiting.retain_mut(|call| call.as_mut().poll(cx).is_pending());
            if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    };
    let script = async {
        for _ in 0..1000 {
            let (_, id) = peer.hear().await;
            peer.answer(&id).await;
        }
    };
    timeout(SOON, async { tokio::join!(calls, script) }).await.unwrap();
}

#[tokio::test]
async fn a_descriptor_arrives_with_its_command() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = theirs.into_std().unwrap();
    theirs.set_nonblocking(false).unwrap();
    let peer = tokio::task::spawn_blocking(move || {
        (&theirs).write_all(format!("{GREETING}\r\n").as_bytes()).unwrap();
        let mut received: Vec<OwnedFd> = Vec::new();
        for _ in 0..2 {
            let mut buffer = [0; 4096];
            let mut control = nix::cmsg_space!([std::os::fd::RawFd; 4]);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let message =
                recvmsg::<()>(theirs.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())
                    .unwrap();
            for item in message.cmsgs().unwrap() {
                let ControlMessageOwned::ScmRights(fds) = item else { continue };
                // SAFETY: the kernel has just made these descriptors for us.
                received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            let length = message.bytes;
            let command: Value = serde_json::from_slice(&buffer[..length]).unwrap();
            let answer = json!({ "return": {}, "id": command["id"] });
            (&theirs).write_all(format!("{answer}\r\n").as_bytes()).unwrap();
            assert_eq!(received.len(), usize::from(command["execute"] == "getfd"));
        }
        received
    });
    let (qmp, _) = Qmp::connect(ours).await.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"contents").unwrap();
    let command = getfd { fdname: "disk".into() };
    qmp.execute_with_fds(command, vec![file.into()]).await.unwrap();
    let mut received = peer.await.unwrap();
    let mut file = File::from(received.remove(0));
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "contents");
}
