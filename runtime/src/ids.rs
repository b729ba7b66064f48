//! Names of sandboxes, containers and execs, checked once when they enter.
//!
//! They become file names on both sides, so what passes here can never climb out of a directory.

use std::fmt;

use crate::error::{Error, Result};

/// The longest id accepted: containerd's own limit is 76, Docker and CRI use 64.
const MAX_LENGTH: usize = 255;

/// True for `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$` of at most 255 characters, containerd's and runc's idea of an id.
fn is_valid(text: &str) -> bool {
    text.len() <= MAX_LENGTH
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                if !is_valid(&text) {
                    return Err(Error::invalid(format!(
                        concat!($what, " id {:?} must be 1 to 255 of [a-zA-Z0-9_.-] and start with a letter or digit"),
                        text
                    )));
                }
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// One VM and what surrounds it.
    SandboxId,
    "sandbox"
);
id!(
    /// An OCI container.
    ContainerId,
    "container"
);
id!(
    /// A process added to a container.
    ExecId,
    "exec"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-a", ".hidden", "a b", "a\0", &"x".repeat(256)] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "hello", "a.b_c-d", &"f".repeat(64)] {
            assert!(SandboxId::new(good).is_ok(), "{good:?}");
        }
    }
}
