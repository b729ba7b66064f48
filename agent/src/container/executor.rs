//! Finding and running a container's program, with runc's words for what goes wrong.

use std::{
    ffi::CString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::{
    errno::Errno,
    sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
    unistd::execv,
};
use oci_spec::runtime::Spec;

/// Runs in the container, after everything else is set up.
#[derive(Debug, Clone, Copy)]
pub struct Program;

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = args(spec);
        let program = find(args, env(spec)).map_err(ExecutorError::Other)?;
        let text = |text: &str| CString::new(text).map_err(|_| ExecutorError::InvalidArg);
        let program = text(&program.to_string_lossy())?;
        let args = args.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
        default_signals();
        let errno = match execv(&program, &args) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        Err(ExecutorError::Other(format!("exec {:?}: {}", args[0].to_string_lossy(), words(errno))))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        find(args(spec), env(spec)).map(drop).map_err(ExecutorValidationError::ArgValidationError)
    }
}

/// Every program starts with nothing blocked or ignored, whatever this process was given: Rust ignores SIGPIPE, which a
/// program would inherit.
fn default_signals() {
    // SAFETY: the default is no function of ours that could run.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn args(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

fn env(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default()
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
    let mut refused = false;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let candidate = Path::new(dir).join(name);
        match usable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(fault) => refused |= fault.ends_with("permission denied"),
        }
    }
    let fault = if refused { "permission denied" } else { "executable file not found in $PATH" };
    Err(format!("exec: {name:?}: {fault}"))
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
fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, path: &str) -> Result<PathBuf, String> {
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
        assert_eq!(look("tool", &format!("/nonexistent:{path}")).unwrap(), dir.join("tool"));
        assert_eq!(look("gone", &path).unwrap_err(), "exec: \"gone\": executable file not found in $PATH");
        assert_eq!(look("data", &path).unwrap_err(), "exec: \"data\": permission denied");
        assert_eq!(
            look("/no/such", "").unwrap_err(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(look("/", "").unwrap_err(), "exec: \"/\": is a directory");
    }
}
