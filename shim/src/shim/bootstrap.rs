//! What containerd says on standard input of `start`, and the reply that its version wants.
//!
//! containerd 2.3 and later send a `BootstrapParams` message and read a `BootstrapResult`. Earlier ones send the
//! runtime's options, or nothing, and take a bare address for Task API version 2, which every version speaks.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel},
    shim::oci::Options,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protobuf::{Enum, Message, well_known_types::any::Any};
use runtime::error::{Context, Error, Result};

use super::{
    address::{Address, SOCKET_DIR},
    encode,
};
use crate::{convert::config_path, flags::Flags};

const INPUT_LIMIT: u64 = 10 << 20;
/// containerd writes before it waits; whoever else starts us and keeps the pipe open gets an error, not a hang.
const INPUT_DEADLINE: Duration = Duration::from_secs(10);
/// The Task API that we announce; its messages are those of version 3, which we answer too.
const TASK_API: i32 = 2;

/// One request to start, whichever way it was told.
#[derive(Debug, Default)]
pub struct Request {
    pub id: String,
    pub namespace: String,
    /// containerd's gRPC address.
    pub containerd: String,
    /// Where events go, if it was said here and not in the environment.
    pub ttrpc_address: Option<String>,
    pub socket_dir: PathBuf,
    pub debug: bool,
    /// The cgroup that the server shall join, from runc's options.
    pub shim_cgroup: Option<String>,
    /// The configuration file, if the runtime's options name one.
    pub config: Option<String>,
    modern: bool,
}

impl Request {
    /// Reads standard input beside the command line.
    pub fn read(flags: &Flags) -> Result<Self> {
        Self::decode(&read_input(&mut io::stdin().lock())?, flags)
    }

    fn decode(input: &[u8], flags: &Flags) -> Result<Self> {
        let legacy = Self {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            containerd: flags.address.clone(),
            socket_dir: SOCKET_DIR.into(),
            debug: flags.debug,
            ..Self::default()
        };
        if input.is_empty() {
            return Ok(legacy);
        }
        // Options decode as parameters too, for they use the same field numbers; the identity tells them apart.
        let params = BootstrapParams::parse_from_bytes(input)
            .ok()
            .filter(|params| params.instance_id == flags.id && params.namespace == flags.namespace);
        let Some(params) = params else {
            let options = Any::parse_from_bytes(input)
                .map_err(|error| Error::invalid(format!("options on standard input: {error}")))?;
            let config = config_path(Some(&options))?;
            return Ok(Self { shim_cgroup: shim_cgroup(&options)?, config, ..legacy });
        };
        let extensions = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
        let extensions: Vec<_> = extensions.collect();
        let cgroups: Vec<_> = extensions.iter().map(|options| shim_cgroup(options)).collect::<Result<_>>()?;
        let configs: Vec<_> =
            extensions.iter().map(|options| config_path(Some(options))).collect::<Result<_>>()?;
        Ok(Self {
            containerd: some(&params.containerd_grpc_address).unwrap_or(legacy.containerd),
            ttrpc_address: some(&params.containerd_ttrpc_address),
            socket_dir: params.socket_dir.as_deref().and_then(some).map_or(legacy.socket_dir, PathBuf::from),
            debug: flags.debug || params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG.value(),
            shim_cgroup: cgroups.into_iter().flatten().next(),
            config: configs.into_iter().flatten().next(),
            modern: true,
            ..legacy
        })
    }

    /// The address of the server of `sandbox`.
    pub fn address(&self, sandbox: &str) -> Address {
        Address::of(Path::new(&self.socket_dir), &self.containerd, &self.namespace, sandbox)
    }

    /// What goes to standard output.
    pub fn reply(&self, address: &Address) -> Result<Vec<u8>> {
        if !self.modern {
            return Ok(address.to_string().into_bytes());
        }
        encode(&BootstrapResult {
            version: TASK_API,
            address: address.to_string(),
            protocol: "ttrpc".into(),
            ..Default::default()
        })
    }
}

/// `None` for an empty text.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn shim_cgroup(options: &Any) -> Result<Option<String>> {
    if !options.type_url.ends_with("containerd.runc.v1.Options") {
        return Ok(None);
    }
    let options = Options::parse_from_bytes(&options.value)
        .map_err(|error| Error::invalid(format!("runc options on standard input: {error}")))?;
    Ok(some(&options.shim_cgroup))
}

fn read_input(input: &mut (impl Read + AsFd)) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut block = [0; 8192];
    let began = Instant::now();
    loop {
        let left = INPUT_DEADLINE.saturating_sub(began.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], timeout)
            .context("wait for standard input")?
            == 0
        {
            return Err(Error::deadline(format!(
                "standard input stays open for {INPUT_DEADLINE:?}: close it"
            )));
        }
        match input.read(&mut block).context("read standard input")? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(&block[..length]),
        }
        if bytes.len() as u64 > INPUT_LIMIT {
            return Err(Error::invalid(format!("standard input is longer than {INPUT_LIMIT} bytes")));
        }
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;

    use super::*;

    fn flags() -> Flags {
        Flags { id: "c1".into(), namespace: "ns".into(), address: "/c.sock".into(), ..Flags::default() }
    }

    fn runc_options() -> Any {
        let options = Options { shim_cgroup: "/shims".into(), ..Default::default() };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().unwrap(),
            ..Default::default()
        }
    }

    #[test]
    fn an_older_containerd_gets_a_bare_address() {
        let named = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: b"\x12\x02/c".into(),
            ..Default::default()
        };
        for (input, cgroup) in [
            (Vec::new(), None),
            (named.write_to_bytes().unwrap(), None),
            (runc_options().write_to_bytes().unwrap(), Some("/shims".to_owned())),
        ] {
            let request = Request::decode(&input, &flags()).unwrap();
            assert_eq!(request.shim_cgroup, cgroup);
            let address = request.address("c1");
            assert_eq!(request.reply(&address).unwrap(), address.to_string().into_bytes());
            assert!(address.to_string().starts_with("unix:///run/containerd/s/"));
        }
    }

    #[test]
    fn a_newer_containerd_gets_the_message_it_asked_for() {
        let params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns".into(),
            log_level: LogLevel::LOG_LEVEL_DEBUG.into(),
            containerd_grpc_address: "/other.sock".into(),
            containerd_ttrpc_address: "/other.sock.ttrpc".into(),
            socket_dir: Some("/short".into()),
            extensions: vec![Extension { value: Some(runc_options()).into(), ..Default::default() }],
            ..Default::default()
        };
        let request = Request::decode(&params.write_to_bytes().unwrap(), &flags()).unwrap();
        assert!(request.debug);
        assert_eq!(request.ttrpc_address.as_deref(), Some("/other.sock.ttrpc"));
        assert_eq!(request.shim_cgroup.as_deref(), Some("/shims"));
        let address = request.address("c1");
        assert_eq!(address, Address::of(Path::new("/short"), "/other.sock", "ns", "c1"));
        let reply = BootstrapResult::parse_from_bytes(&request.reply(&address).unwrap()).unwrap();
        assert_eq!((reply.version, reply.address, reply.protocol), (2, address.to_string(), "ttrpc".into()));
    }

    #[test]
    fn parameters_for_another_container_are_not_taken_for_ours() {
        let params = BootstrapParams {
            instance_id: "c2".into(),
            namespace: "ns".into(),
            socket_dir: Some("/elsewhere".into()),
            ..Default::default()
        };
        let request = Request::decode(&params.write_to_bytes().unwrap(), &flags()).unwrap();
        assert_eq!((request.id.as_str(), request.socket_dir), ("c1", SOCKET_DIR.into()));
        assert!(!request.modern);
        assert!(Request::decode(b"\xff\xff", &flags()).is_err());
    }

    #[test]
    fn input_ends_with_the_pipe_and_not_before() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            for _ in 0..3 {
                io::Write::write_all(&mut writer, &[7; 5000]).unwrap();
            }
        });
        assert_eq!(read_input(&mut reader).unwrap(), [7; 15000]);
        writing.join().unwrap();
    }
}
