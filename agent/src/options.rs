//! The kernel command line -> [`Options`]. Pure.
//!
//! A guest that refuses to start over a mistyped word helps nobody: what is malformed is reported and its default kept.

use std::time::Duration;

use protocols::guest;
use tracing::Level;

/// Three times upstream's: an emulated guest may take a second.
const HOTPLUG_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// The guest's vsock, on this port.
    Vsock { port: u32 },
    /// A virtio-serial port, by name.
    Serial { name: String },
    /// A unix socket, for tests.
    Unix { path: String },
}

/// What the host told the agent on the kernel command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub address: ServerAddress,
    pub log_level: Level,
    /// Bytes of the pipes of standard streams; 0 leaves the kernel's default.
    pub pipe_size: u32,
    /// For a device to appear that the host speaks of.
    pub hotplug_timeout: Duration,
    /// Where raw streams are served, for tests and the bench of the channel.
    pub echo_port: Option<u32>,
    /// Where shells for people are served.
    pub debug_console_port: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: ServerAddress::Vsock { port: guest::AGENT_PORT },
            log_level: Level::INFO,
            pipe_size: 0,
            hotplug_timeout: HOTPLUG_TIMEOUT,
            echo_port: None,
            debug_console_port: None,
        }
    }
}

impl Options {
    /// Reads the words that are the agent's; the second part is what was wrong with them.
    pub fn parse(command_line: &str) -> (Self, Vec<String>) {
        let mut options = Self::default();
        let (mut faults, mut wants_console) = (Vec::new(), false);
        let words = command_line.split_ascii_whitespace().filter(|word| word.starts_with("agent."));
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let good = match name {
                guest::PARAM_SERVER_ADDR => set(&mut options.address, parse_address(value)),
                guest::PARAM_LOG_LEVEL => set(&mut options.log_level, parse_level(value)),
                guest::PARAM_PIPE_SIZE => set(&mut options.pipe_size, value.parse().ok()),
                guest::PARAM_HOTPLUG_TIMEOUT => set(&mut options.hotplug_timeout, parse_seconds(value)),
                guest::PARAM_DEBUG_CONSOLE => {
                    wants_console = true;
                    value.is_empty()
                }
                guest::PARAM_DEBUG_CONSOLE_PORT => {
                    set(&mut options.debug_console_port, parse_own_port(value).map(Some))
                }
                guest::PARAM_ECHO_PORT => set(&mut options.echo_port, parse_own_port(value).map(Some)),
                _ => {
                    faults.push(format!("{word}: not served by this agent"));
                    continue;
                }
            };
            if !good {
                faults.push(format!("{word}: not understood, the default stays"));
            }
        }
        // Either word alone is not enough, as upstream; and without a port it would be on the console, which the host only reads.
        if !wants_console {
            options.debug_console_port = None;
        } else if options.debug_console_port.is_none() {
            faults.push(format!("{}: no {}", guest::PARAM_DEBUG_CONSOLE, guest::PARAM_DEBUG_CONSOLE_PORT));
        }
        (options, faults)
    }
}

fn set<T>(place: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            *place = value;
            true
        }
        None => false,
    }
}

/// `vsock://<cid>:<port>`, `serial://<name>` or `unix://<path>`.
pub(crate) fn parse_address(text: &str) -> Option<ServerAddress> {
    match text.split_once("://")? {
        ("vsock", rest) => {
            let (_, port) = rest.rsplit_once(':')?;
            Some(ServerAddress::Vsock { port: port.parse().ok()? })
        }
        ("serial", name) if !name.is_empty() => Some(ServerAddress::Serial { name: name.into() }),
        ("unix", path) if path.starts_with('/') => Some(ServerAddress::Unix { path: path.into() }),
        _ => None,
    }
}

/// Any port but the agent's own.
fn parse_own_port(text: &str) -> Option<u32> {
    text.parse().ok().filter(|port| *port != guest::AGENT_PORT)
}

fn parse_seconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs).filter(|seconds| !seconds.is_zero())
}

fn parse_level(text: &str) -> Option<Level> {
    Some(match text {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" | "warning" => Level::WARN,
        "error" | "critical" | "fatal" | "panic" => Level::ERROR,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_agent_are_read_and_others_left_alone() {
        let (options, faults) = Options::parse(
            "console=hvc0 quiet agent.log=debug agent.server_addr=serial://agent.channel.0 agent.container_pipe_size=65536 agent.echo_port=1030 agent.hotplug_timeout=7\n",
        );
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(options.address, ServerAddress::Serial { name: "agent.channel.0".into() });
        assert_eq!(
            (options.log_level, options.pipe_size, options.echo_port),
            (Level::DEBUG, 65536, Some(1030))
        );
        assert_eq!(options.hotplug_timeout, Duration::from_secs(7));
        assert_eq!(Options::parse("root=/dev/vda1").0, Options::default());
    }

    #[test]
    fn a_debug_console_takes_two_words() {
        let parse = |line| {
            let (options, faults) = Options::parse(line);
            (options.debug_console_port, faults.len())
        };
        assert_eq!(parse("agent.debug_console agent.debug_console_vport=1026"), (Some(1026), 0));
        assert_eq!(parse("agent.debug_console_vport=1026"), (None, 0));
        assert_eq!(parse("agent.debug_console"), (None, 1));
        assert_eq!(parse("agent.debug_console agent.debug_console_vport=1024"), (None, 2));
    }

    #[test]
    fn malformed_words_are_reported_and_the_default_stays() {
        for word in [
            "agent.log=loud",
            "agent.log",
            "agent.server_addr=tcp://x",
            "agent.server_addr=vsock://-1:x",
            "agent.server_addr=serial://",
            "agent.container_pipe_size=-1",
            "agent.echo_port=1024",
            "agent.echo_port=",
            "agent.unheard_of=1",
        ] {
            let (options, faults) = Options::parse(word);
            assert_eq!(options, Options::default(), "{word}");
            assert_eq!(faults.len(), 1, "{word}");
        }
    }

    #[test]
    fn every_form_of_address_is_understood() {
        for (text, address) in [
            ("vsock://-1:1024", ServerAddress::Vsock { port: 1024 }),
            ("vsock://3:7", ServerAddress::Vsock { port: 7 }),
            ("unix:///run/a.sock", ServerAddress::Unix { path: "/run/a.sock".into() }),
        ] {
            assert_eq!(parse_address(text), Some(address));
        }
    }
}
