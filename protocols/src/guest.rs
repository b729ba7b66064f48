//! The words host and guest must agree on: ports, guest paths, storage drivers, kernel parameters.
//!
//! The guest never looks behind the paths it is given, so the layout below [`SHARE_DIR`] is the host's alone.

use std::net::Ipv4Addr;

/// Among an agent's `extra_features`: it has the service of `extras.proto`.
pub const FEATURE_EXTRAS: &str = "extras";

/// Port of the agent's ttrpc server, on every kind of channel.
pub const AGENT_PORT: u32 = 1024;
/// Port on which the agent offers its log as lines of JSON, when [`PARAM_LOG_PORT`] asks for it.
pub const LOG_PORT: u32 = 1025;
/// Port of the debug console, when asked for.
pub const DEBUG_CONSOLE_PORT: u32 = 1026;

/// Port of the standard streams of processes, each a connection of its own. A connection begins with a line
/// `kata-stream-1 <stdin|stdout|stderr> <container> <exec>`; then come frames, from the host for `stdin` and from the guest
/// else: four bytes of length, most significant first, and that many bytes. An empty frame is the end of the stream, after
/// which the host closes the connection. Agents without it refuse the connection, and streams go by calls.
pub const STREAM_PORT: u32 = 1028;
/// First word of a connection to [`STREAM_PORT`].
pub const STREAM_HELLO: &str = "kata-stream-1";
/// The longest frame of a stream.
pub const STREAM_FRAME: usize = 1 << 20;

/// Port of connections by which host and guest reach each other's servers. A connection begins with a line of
/// [`PORT_HELLO`] and what is asked, which the guest answers with a line: `OK`, or `NO <why>`. Agents without it refuse the
/// connection.
///
/// - `connect <port>`: the guest connects to that TCP port on its loopback address, or on an interface's. What goes in and
///   out is carried as [`crate::carry`] says.
/// - `names`: the guest is a name server at [`NAME_SERVER`], and asks the host what it is asked; see [`crate::names`].
pub const PORT_PORT: u32 = 1029;
/// First word of a connection to [`PORT_PORT`].
pub const PORT_HELLO: &str = "kata-port-1";
/// What is asked for there.
pub const PORT_CONNECT: &str = "connect";
pub const PORT_NAMES: &str = "names";
/// How that is answered.
pub const PORT_OK: &str = "OK";
pub const PORT_NO: &str = "NO";
/// Where Docker has its own name server in the network namespace of a container.
pub const NAME_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);

/// Mount tag of the directory that the host shares with the guest.
pub const SHARE_TAG: &str = "kataShared";
/// Where the guest mounts [`SHARE_TAG`]; container root file systems and volumes lie below it.
pub const SHARE_DIR: &str = "/run/kata-containers/shared/containers";
/// Guest directory of what belongs to the sandbox as a whole.
pub const SANDBOX_DIR: &str = "/run/kata-containers/sandbox";
/// The pod's shared memory, bound to `/dev/shm` of each container.
pub const SHM_DIR: &str = "/run/kata-containers/sandbox/shm";
/// Memory-backed volumes, one directory each.
pub const EPHEMERAL_DIR: &str = "/run/kata-containers/sandbox/ephemeral";
/// Guest directory with one bundle directory per container.
pub const BUNDLE_DIR: &str = "/run/kata-containers";

/// Storage drivers: how the agent is told to mount something.
pub const DRIVER_VIRTIOFS: &str = "virtio-fs";
pub const DRIVER_9P: &str = "9p";
pub const DRIVER_EPHEMERAL: &str = "ephemeral";
pub const DRIVER_LOCAL: &str = "local";

/// The kind of device that is a disk, by its place on the PCI bus.
pub const DEVICE_BLK: &str = "blk";

/// Name of the virtio-serial port that carries the multiplexed agent channel.
pub const SERIAL_PORT_NAME: &str = "agent.channel.0";
/// First line on a freshly opened serial channel, from either side, followed by a nonce and a newline: it tells
/// where one conversation ends and the next begins.
pub const SERIAL_HELLO: &str = "kata-serial-1";
/// `kata-template-1 <nonce>`, where a conversation on the serial port might begin: asks the guest to become a template,
/// that is, to wait for a line that begins with [`TEMPLATE_WAKE`]. It gives the line back when it waits.
pub const TEMPLATE_BECOME: &str = "kata-template-1";
/// Tells a clone that it is one, and what it must know before anything runs in it:
/// `kata-wake-1 <nonce> <seed> <rescan> <address>`. The seed is 64 random bytes in hexadecimal. `rescan` is 1 if there
/// are devices that the template did not have. Answered by `kata-awake-1 <nonce>` and what went wrong, if anything did.
pub const TEMPLATE_WAKE: &str = "kata-wake-1";
pub const TEMPLATE_AWAKE: &str = "kata-awake-1";
/// `kata-time-1 <time>`, the host's wall clock in nanoseconds since 1970: after it woke, a clone sets its own by every
/// such line and gives the line back, which tells the host how far off it can be.
pub const TEMPLATE_TIME: &str = "kata-time-1";
/// `kata-serve-1`: from then on the clone serves on the address it was told, in the notation of [`PARAM_SERVER_ADDR`].
pub const TEMPLATE_SERVE: &str = "kata-serve-1";

/// Kernel parameter with the agent's listen address: `vsock://-1:1024` (the default) or `serial://agent.channel.0`.
pub const PARAM_SERVER_ADDR: &str = "agent.server_addr";
pub const PARAM_LOG_LEVEL: &str = "agent.log";
pub const PARAM_LOG_PORT: &str = "agent.log_vport";
pub const PARAM_DEBUG_CONSOLE: &str = "agent.debug_console";
pub const PARAM_DEBUG_CONSOLE_PORT: &str = "agent.debug_console_vport";
pub const PARAM_HOTPLUG_TIMEOUT: &str = "agent.hotplug_timeout";
pub const PARAM_PIPE_SIZE: &str = "agent.container_pipe_size";
/// `agent.echo_port=<port>`: the agent serves raw streams there, for tests and the bench of the channel; see the agent's
/// `channel::echo`. Off unless given.
pub const PARAM_ECHO_PORT: &str = "agent.echo_port";

/// Annotation that tells the guest what a container is; see the `CONTAINER_TYPE_*` values.
pub const ANNOTATION_CONTAINER_TYPE: &str = "io.katacontainers.pkg.oci.container_type";
pub const ANNOTATION_BUNDLE_PATH: &str = "io.katacontainers.pkg.oci.bundle_path";
/// `true` for a container that is to have all devices of the guest.
pub const ANNOTATION_PRIVILEGED: &str = "io.katacontainers.pkg.oci.privileged";
pub const CONTAINER_TYPE_POD_SANDBOX: &str = "pod_sandbox";
pub const CONTAINER_TYPE_POD_CONTAINER: &str = "pod_container";
pub const CONTAINER_TYPE_SINGLE: &str = "single_container";
