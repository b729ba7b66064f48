//! Signals by name and by number.

use std::str::FromStr;

use nix::sys::signal::Signal;
use runtime::error::{Error, Result};

/// The greatest number of a signal.
const LAST: u32 = 64;

/// Reads `15`, `TERM`, `sigterm` and the like.
pub fn parse(text: &str) -> Result<u32> {
    let unknown = || Error::invalid(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<u32>() {
        return Some(number).filter(|number| *number <= LAST).ok_or_else(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // The rest of those that have a second name.
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        name => name,
    };
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as u32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood_as_runc_does() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("sigint", 2),
            ("9", 9),
            ("0", 0),
            ("37", 37),
            ("winch", 28),
            ("IOT", 6),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "BADSIG", "-1", "65", "SIG"] {
            assert!(parse(bad).unwrap_err().to_string().starts_with("unknown signal"), "{bad}");
        }
    }
}
