//! The crate's one error: a kind to decide by, a chain of context to read, and a source.

use std::{error::Error as StdError, fmt};

/// What went wrong, as far as a caller decides by it. Turned into a ttrpc code or an exit status only at the outer
/// edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    /// A container's state forbids it. Its words are runc's, and so is its code, which is "unknown".
    WrongState,
    Unavailable,
    DeadlineExceeded,
    Unimplemented,
    Internal,
}

/// An error with its [`ErrorKind`]; displays as `outer: inner: cause`.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    pub fn wrong_state(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::WrongState, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn deadline(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DeadlineExceeded, message)
    }

    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unimplemented, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error seen as another kind, where only the caller knows what the failure means.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts what was being done in front; the kind stays.
    pub fn context(self, what: impl Into<String>) -> Self {
        Self { kind: self.kind, message: what.into(), source: Some(Box::new(self)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut source: Option<&(dyn StdError + 'static)> = self.source.as_deref().map(|s| s as _);
        while let Some(error) = source {
            match error.downcast_ref::<Error>() {
                // Our own Display prints its whole chain.
                Some(ours) => return write!(f, ": {ours}"),
                None => write!(f, ": {error}")?,
            }
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            std::io::ErrorKind::TimedOut => ErrorKind::DeadlineExceeded,
            _ => ErrorKind::Internal,
        };
        Self { kind, message: error.to_string(), source: None }
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        std::io::Error::from(errno).into()
    }
}

/// Adds context to any result whose error can become ours. What the operating system called "not found" is a fact
/// about a file of ours, not about the caller's container, so foreign errors become [`ErrorKind::Internal`].
pub trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| e.context(what))
    }

    fn with_context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.context(what()))
    }
}

macro_rules! foreign_context {
    ($($error:ty),*) => {$(
        impl<T> Context<T> for std::result::Result<T, $error> {
            fn context(self, what: impl Into<String>) -> Result<T> {
                self.with_context(|| what.into())
            }

            fn with_context(self, what: impl FnOnce() -> String) -> Result<T> {
                self.map_err(|e| Error { kind: ErrorKind::Internal, message: what(), source: Some(Box::new(e)) })
            }
        }
    )*};
}

foreign_context!(std::io::Error, nix::errno::Errno, serde_json::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_the_chain_once_and_keeps_the_kind() {
        let io = std::io::Error::from_raw_os_error(2);
        let error = Err::<(), _>(io).context("open /x").context("create container c1").unwrap_err();
        assert_eq!(error.to_string(), "create container c1: open /x: No such file or directory (os error 2)");
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(Error::not_found("c1").context("kill").kind(), ErrorKind::NotFound);
    }
}
