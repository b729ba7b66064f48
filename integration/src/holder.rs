//! A process that holds network and mount namespaces, for engines that are to leave the machine's alone.

use std::{
    ffi::OsStr,
    io::Read,
    process::{Child, Command, Stdio},
};

/// Runs `script` in new namespaces, which end with it and with what is started in them. It says `held` when they are ready,
/// and stays for as long as its standard input is open.
pub(crate) fn hold<S: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = S>) -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", script]).args(args);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run unshare");
    let mut said = [0; 5];
    holder.stdout.take().expect("piped").read_exact(&mut said).expect("make the namespaces");
    holder
}

/// A command for the holder's namespaces.
pub(crate) fn enter(holder: &Child) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--mount", "--target", &holder.id().to_string(), "--"]);
    command
}
