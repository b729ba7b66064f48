//! `start`'s side: asking the standbys for one that is ready.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use runtime::{
    bundle::Bundle,
    config::Config,
    error::{Context, Error, Result},
};

use super::{Offer, TAKEN, Wanted, sockets};
use crate::shim::{Address, Request};

/// For an answer of a process that does nothing else. Without one, a server is started as ever.
const PATIENCE: Duration = Duration::from_millis(500);

/// A standby that offers to be the server.
#[derive(Debug)]
pub struct Taken {
    stream: UnixStream,
    offer: Offer,
}

/// Asks for a standby for the sandbox `id`; `None` if none is kept, none is ready, or none fits.
pub fn take(request: &Request, id: &str, dir: &Path, bundle: &Bundle, address: &Address) -> Option<Taken> {
    // A configuration with a fault is reported by the server.
    let config = Config::find(request.config.as_deref().map(Path::new)).ok()?;
    if config.factory.vm_cache_number == 0 {
        return None;
    }
    // A standby's VM is as the file says.
    let annotations = bundle.spec.annotations().iter().flatten();
    if !config.clone().annotated(annotations).is_ok_and(|(annotated, _)| annotated == config) {
        tracing::debug!("annotations ask for something else than a standby");
        return None;
    }
    let wanted = Wanted {
        namespace: request.namespace.clone(),
        id: id.to_owned(),
        bundle: dir.to_owned(),
        address: address.to_string(),
        ttrpc_address: request.ttrpc_address.clone().or_else(|| std::env::var("TTRPC_ADDRESS").ok()),
        debug: request.debug,
        config: config.path.clone(),
    };
    for socket in sockets(&config.factory.vm_cache_endpoint) {
        let stream = match UnixStream::connect(&socket) {
            Ok(stream) => stream,
            Err(error) => {
                if error.kind() == ErrorKind::ConnectionRefused {
                    let _ = fs::remove_file(&socket); // Nobody listens there any more.
                }
                continue;
            }
        };
        match ask(stream, &wanted) {
            Ok(taken) => return Some(taken),
            Err(error) => tracing::debug!(%error, socket = %socket.display(), "a standby does not serve"),
        }
    }
    tracing::debug!("no standby is ready");
    None
}

fn ask(mut stream: UnixStream, wanted: &Wanted) -> Result<Taken> {
    stream.set_read_timeout(Some(PATIENCE)).context("ask a standby")?;
    stream.set_write_timeout(Some(PATIENCE)).context("ask a standby")?;
    let mut line = serde_json::to_vec(wanted).context("ask a standby")?;
    line.push(b'\n');
    stream.write_all(&line).context("ask a standby")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).context("hear a standby")?;
    if answer.is_empty() {
        return Err(Error::unavailable("it hung up"));
    }
    Ok(Taken { offer: serde_json::from_str(&answer).context("hear a standby")?, stream })
}

impl Taken {
    /// The server's.
    pub fn pid(&self) -> u32 {
        self.offer.pid
    }

    /// The server and all that belongs to it.
    pub fn processes(&self) -> &[u32] {
        &self.offer.processes
    }

    /// Takes the offer: from now on it is the server. Dropped instead, it ends; and so it does if what is returned closes
    /// before a byte is written there.
    pub fn accept(mut self) -> Result<UnixStream> {
        self.stream.write_all(TAKEN.as_bytes()).context("take a standby")?;
        Ok(self.stream)
    }
}
