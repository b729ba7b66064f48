//! The daemon behind virtiofs: one jailed process per sandbox, since it serves a hostile guest.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{
    child::{Child, Launch},
    config::{HypervisorConfig, VirtioFsCache},
    error::{Context, Error, Result},
    ledger::Ledger,
};

/// For a program that prints its options and ends.
const HELP_DEADLINE: Duration = Duration::from_secs(5);

/// The two programs of that name: QEMU's until 7.2, in C, and its successor, in Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    C,
    Rust,
}

/// Starts the daemon for `shared`. It inherits the listening socket, so the hypervisor may connect at once.
pub(super) async fn start(
    config: &HypervisorConfig,
    shared: &Path,
    socket: &Path,
    ledger: &Ledger,
) -> Result<Child> {
    let program = &config.virtio_fs_daemon;
    let dialect = dialect(program).await?;
    let listener = UnixListener::bind(socket).with_context(|| format!("bind {}", socket.display()))?;
    let mut launch = Launch::new(program);
    let fd = launch.pass_fd(OwnedFd::from(listener));
    launch.args(arguments(dialect, config, fd, shared)?).in_group();
    if dialect == Dialect::C {
        // It makes a file as its owner-to-be, who is here without the groups that let him write to the directory. The
        // guest's kernel has looked at them already; the program in Rust keeps what it needs by itself.
        launch.keep_capabilities();
    }
    tracing::debug!(command = %launch.command_line().to_string_lossy(), "start virtiofsd");
    Child::spawn("virtiofsd", launch, ledger).await
}

/// Which program this is. Packagers put either under any name, so it is asked.
async fn dialect(program: &Path) -> Result<Dialect> {
    let ask = || format!("ask {} for its options", program.display());
    let help = Command::new(program).arg("--help").stdin(Stdio::null()).kill_on_drop(true).output();
    let help = timeout(HELP_DEADLINE, help)
        .await
        .map_err(|_| Error::deadline(format!("no answer within {HELP_DEADLINE:?}")))
        .and_then(|output| output.map_err(Error::from))
        .with_context(ask)?;
    let text = [help.stdout, help.stderr].concat();
    dialect_of(&String::from_utf8_lossy(&text)).ok_or_else(|| {
        Error::invalid(format!(
            "hypervisor.qemu.virtio_fs_daemon: {} is no virtiofsd: its --help ({}) names neither --shared-dir nor source=",
            program.display(),
            help.status
        ))
    })
}

fn dialect_of(help: &str) -> Option<Dialect> {
    if help.contains("--shared-dir") {
        Some(Dialect::Rust)
    } else if help.contains("source=") {
        Some(Dialect::C)
    } else {
        None
    }
}

fn arguments(dialect: Dialect, config: &HypervisorConfig, fd: i32, shared: &Path) -> Result<Vec<String>> {
    let shared = shared
        .to_str()
        .filter(|path| !path.contains(','))
        .ok_or_else(|| Error::internal(format!("{} cannot be an option", shared.display())))?;
    let cache = config.virtio_fs_cache.as_str();
    let mut arguments = vec![format!("--fd={fd}")];
    match dialect {
        Dialect::Rust => {
            arguments.extend([format!("--shared-dir={shared}"), format!("--cache={cache}")]);
            arguments.extend(config.virtio_fs_extra_args.iter().cloned());
        }
        Dialect::C => {
            // It has no `never` and no `metadata`.
            let cache = match config.virtio_fs_cache {
                VirtioFsCache::Never => "none",
                VirtioFsCache::Metadata => "auto",
                VirtioFsCache::Auto | VirtioFsCache::Always => cache,
            };
            arguments.extend(["-f".into(), "-o".into(), format!("source={shared},cache={cache}")]);
            arguments.extend(c_arguments(&config.virtio_fs_extra_args));
        }
    }
    Ok(arguments)
}

/// Extra arguments as the C program takes them: files carry the Rust program's spelling.
fn c_arguments(extra: &[String]) -> Vec<String> {
    extra
        .iter()
        .flat_map(|arg| match arg.as_str() {
            "--announce-submounts" => vec!["-o".into(), "announce_submounts".into()],
            "--xattr" => vec!["-o".into(), "xattr".into()],
            other => vec![other.to_owned()],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_told_apart_and_get_their_own_spelling() {
        assert_eq!(dialect_of("      --shared-dir <SHARED_DIR>\n  -o <COMPAT>"), Some(Dialect::Rust));
        assert_eq!(dialect_of("    -o source=PATH             shared directory tree"), Some(Dialect::C));
        assert_eq!(dialect_of("usage: cat [FILE]"), None);

        let config = HypervisorConfig {
            virtio_fs_extra_args: vec!["--thread-pool-size=1".into(), "--announce-submounts".into()],
            virtio_fs_cache: VirtioFsCache::Never,
            ..Default::default()
        };
        let shown = |dialect| arguments(dialect, &config, 3, Path::new("/s")).unwrap().join(" ");
        assert_eq!(
            shown(Dialect::Rust),
            "--fd=3 --shared-dir=/s --cache=never --thread-pool-size=1 --announce-submounts"
        );
        assert_eq!(
            shown(Dialect::C),
            "--fd=3 -f -o source=/s,cache=none --thread-pool-size=1 -o announce_submounts"
        );
    }
}
