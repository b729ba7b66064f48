//! Finding and running a process's program, with runc's words for what goes wrong.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::{
    errno::Errno,
    sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
    unistd::execve,
};
use oci_spec::runtime::{Process, Spec};

/// Stands in a process's environment for a home that is to be looked up. Left out, libcontainer would ask the C library,
/// which in a static program loads modules that the container's files choose.
pub const HOME_UNKNOWN: &str = "HOME=//";
/// More of a container's /etc/passwd is not read.
const PASSWD_LIMIT: u64 = 1 << 20;

/// Runs in the container, after everything else is set up.
#[derive(Debug, Clone, Copy)]
pub struct Program;

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let found = process(spec).map_err(str::to_owned).and_then(look).map_err(ExecutorError::Other)?;
        found.run()
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        process(spec)
            .map_err(str::to_owned)
            .and_then(|process| find(args(process), &environment(process)).map(drop))
            .map_err(ExecutorValidationError::ArgValidationError)
    }

    /// The environment goes to the program as the spec has it; this process needs none.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// A program that is there, and what it is given.
pub struct Found {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Looks for the process's program.
pub fn look(process: &Process) -> Result<Found, String> {
    let (args, env) = (args(process), environment(process));
    let program = find(args, &env)?;
    let text = |text: &str| CString::new(text).map_err(|_| format!("{text:?} has a zero byte"));
    let texts = |texts: &[String]| texts.iter().map(|one| text(one)).collect::<Result<Vec<_>, _>>();
    let program = text(&program.to_string_lossy())?;
    Ok(Found { program, args: texts(args)?, env: texts(&env)? })
}

impl Found {
    /// Becomes the program. What the kernel does not take for one is told on standard error, as with runc, for the
    /// process counts as started by then.
    pub fn run(&self) -> ! {
        default_signals();
        let errno = match execve(&self.program, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        eprintln!("exec {}: {}", self.program.to_string_lossy(), words(errno));
        std::process::exit(1)
    }
}

/// Every program starts with nothing blocked or ignored, whatever this process was given: Rust ignores SIGPIPE, which a
/// program would inherit.
fn default_signals() {
    // SAFETY: the default is no function of ours that could run.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn process(spec: &Spec) -> Result<&Process, &'static str> {
    spec.process().as_ref().ok_or("process: is missing")
}

fn args(process: &Process) -> &[String] {
    process.args().as_deref().unwrap_or_default()
}

/// In the spec's order; of a name that is there twice, the last value at the first's place. With a HOME.
fn environment(process: &Process) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    for entry in process.env().iter().flatten().filter(|entry| *entry != HOME_UNKNOWN) {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            continue; // Not a variable; runc leaves it out as well.
        };
        let named = |other: &&mut String| other.split_once('=').is_some_and(|(other, _)| other == name);
        match env.iter_mut().find(named) {
            Some(former) => former.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=") && entry != "HOME=") {
        env.retain(|entry| entry != "HOME=");
        let mut passwd = String::new();
        let read = File::open("/etc/passwd").and_then(|f| f.take(PASSWD_LIMIT).read_to_string(&mut passwd));
        let home = read.ok().and_then(|_| home(&passwd, process.user().uid()));
        env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
    }
    env
}

/// The home of a user, of the lines of an /etc/passwd.
fn home(passwd: &str, uid: u32) -> Option<String> {
    let of_user = passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let is_user = fields.next()?.parse() == Ok(uid);
        is_user.then(|| fields.nth(2)).flatten()
    });
    of_user.filter(|home| !home.is_empty()).map(str::to_owned)
}

/// The program's path: as given if it has a slash, else the first in `PATH` that can be run.
fn find(args: &[String], env: &[String]) -> Result<PathBuf, String> {
    let name = args.first().ok_or("process.args: names no program")?;
    if name.contains('/') {
        return match usable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(fault) => Err(format!("exec: {name:?}: {fault}")),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut candidates = path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(name));
    candidates
        .find(|candidate| usable(candidate).is_ok())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

fn usable(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err("is a directory".into()),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Err("permission denied".into()),
        Ok(_) => Ok(()),
        Err(error) => {
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            Err(format!("stat {}: {}", path.display(), words(errno)))
        }
    }
}

/// An error as other runtimes spell it.
pub fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(name: &str, path: &str) -> Result<PathBuf, String> {
        find(&[name.to_owned()], &[format!("PATH={path}")])
    }

    #[test]
    fn programs_are_found_and_faults_have_runcs_words() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("data"), "").unwrap();
        fs::write(dir.join("tool"), "").unwrap();
        fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.display().to_string();
        assert_eq!(search("tool", &format!("/nonexistent:{path}")).unwrap(), dir.join("tool"));
        assert_eq!(search("gone", &path).unwrap_err(), "exec: \"gone\": executable file not found in $PATH");
        assert_eq!(search("data", &path).unwrap_err(), "exec: \"data\": executable file not found in $PATH");
        let data = dir.join("data").display().to_string();
        assert_eq!(search(&data, "").unwrap_err(), format!("exec: {data:?}: permission denied"));
        assert_eq!(
            search("/no/such", "").unwrap_err(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(search("/", "").unwrap_err(), "exec: \"/\": is a directory");
    }

    #[test]
    fn the_environment_keeps_its_order_and_has_a_home() {
        let process = |env: &[&str]| -> Process {
            serde_json::from_value(
                serde_json::json!({"args": ["x"], "cwd": "/", "user": {"uid": 4294967294u32, "gid": 0}, "env": env}),
            )
            .unwrap()
        };
        for (given, expected) in [
            (&["B=1", "A= x ", "B=2", "HOME=/h"][..], &["B=2", "A= x ", "HOME=/h"][..]),
            (&["A=1"], &["A=1", "HOME=/"]),
            (&["HOME=", "A=1"], &["A=1", "HOME=/"]),
            (&[HOME_UNKNOWN], &["HOME=/"]),
            (&["nonsense", "=x", "A=b=c", "HOME=/r"], &["A=b=c", "HOME=/r"]),
        ] {
            assert_eq!(environment(&process(given)), expected, "{given:?}");
        }
    }

    #[test]
    fn homes_are_those_of_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nu:x:7:7::/home/u:/bin/sh\nn:x:8:8:::\n";
        for (uid, expected) in [(0, Some("/root")), (7, Some("/home/u")), (8, None), (9, None)] {
            assert_eq!(home(passwd, uid).as_deref(), expected, "{uid}");
        }
    }
}
