//! The shim's command line, in Go's flag syntax. Pure.
//!
//! containerd writes `-x v`; people write what they are used to. Options that nobody knows are kept for a warning: a
//! later containerd may pass more.

use runtime::error::{Error, Result};

/// What the shim is asked to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// Own a sandbox and answer containerd.
    #[default]
    Serve,
    Start,
    Delete,
    Info,
    Version,
    /// Keep a VM ready, and own the sandbox that gets it.
    StandBy,
}

/// The parsed command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    pub action: Action,
    /// The container's id.
    pub id: String,
    pub namespace: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// containerd's own program, which older versions publish events with.
    pub publish_binary: String,
    /// The bundle's directory, if it is not the working directory.
    pub bundle: String,
    pub debug: bool,
    /// Options that were given and are not known.
    pub unknown: Vec<String>,
}

impl Flags {
    /// Parses the arguments after the program's name. The first word that is no option is the action; what follows it
    /// is not read, as in Go.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut flags = Self::default();
        let mut args = args.into_iter().peekable();
        let mut asked = None;
        while let Some(arg) = args.next() {
            let Some((name, value)) = option(&arg) else {
                let word = if arg == "--" { args.next() } else { Some(arg) };
                flags.action = action(word.as_deref())?;
                break;
            };
            match name {
                "debug" => flags.debug = truth(name, value)?,
                "v" | "version" => asked = truth(name, value)?.then_some(Action::Version).or(asked),
                "standby" => asked = truth(name, value)?.then_some(Action::StandBy).or(asked),
                "info" => asked = truth(name, value)?.then_some(Action::Info).or(asked),
                _ => match flags.text(name) {
                    Some(field) => {
                        *field = value
                            .map(str::to_owned)
                            .or_else(|| args.next())
                            .ok_or_else(|| Error::invalid(format!("option -{name} needs a value")))?;
                    }
                    None => {
                        // Whether it takes a value is unknown; a word that is neither option nor action is one.
                        if value.is_none() {
                            args.next_if(|next| option(next).is_none() && action(Some(next)).is_err());
                        }
                        flags.unknown.push(arg.clone());
                    }
                },
            }
        }
        flags.action = asked.unwrap_or(flags.action);
        Ok(flags)
    }

    fn text(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "id" => Some(&mut self.id),
            "namespace" => Some(&mut self.namespace),
            "address" => Some(&mut self.address),
            "publish-binary" => Some(&mut self.publish_binary),
            "bundle" => Some(&mut self.bundle),
            _ => None,
        }
    }
}

/// `-name`, `--name`, `-name=value`. A lone `-` and `--` are no options.
fn option(arg: &str) -> Option<(&str, Option<&str>)> {
    let body = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    };
    (!name.is_empty() && !name.starts_with('-')).then_some((name, value))
}

fn action(word: Option<&str>) -> Result<Action> {
    match word {
        None | Some("") => Ok(Action::Serve),
        Some("start") => Ok(Action::Start),
        Some("delete") => Ok(Action::Delete),
        Some(other) => {
            Err(Error::invalid(format!("unknown action {other:?}: start or delete, or none to serve")))
        }
    }
}

/// A boolean option's value; Go's spellings.
fn truth(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error::invalid(format!("option -{name}: {other:?} is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_spelling_of_an_option_is_read() {
        let wanted = Flags {
            action: Action::Start,
            id: "c1".into(),
            namespace: "ns".into(),
            address: "/run/c.sock".into(),
            debug: true,
            ..Flags::default()
        };
        for line in [
            "-id c1 -namespace ns -address /run/c.sock -debug start",
            "--id c1 --namespace ns --address /run/c.sock --debug start",
            "-id=c1 -namespace=ns -address=/run/c.sock -debug=true start",
            "--id=c1 --namespace=ns --address=/run/c.sock --debug=1 start",
            "-id c1 -namespace ns -address /run/c.sock -debug -- start",
            "-id c1 -namespace ns -address /run/c.sock -debug start -id other",
        ] {
            assert_eq!(parse(line).unwrap(), wanted, "{line}");
        }
    }

    #[test]
    fn each_action_is_recognised() {
        for (line, action) in [
            ("", Action::Serve),
            ("-id c1", Action::Serve),
            ("start", Action::Start),
            ("-bundle /b delete", Action::Delete),
            ("-info", Action::Info),
            ("-v", Action::Version),
            ("--version", Action::Version),
            ("-v=false start", Action::Start),
        ] {
            assert_eq!(parse(line).unwrap().action, action, "{line:?}");
        }
    }

    #[test]
    fn unknown_options_are_kept_and_do_not_swallow_the_action() {
        for (line, unknown) in [
            ("-new start", vec!["-new"]),
            ("-new value -id c1 start", vec!["-new"]),
            ("-new=value -id c1 start", vec!["-new=value"]),
            ("--new -other -id c1 start", vec!["--new", "-other"]),
        ] {
            let flags = parse(line).unwrap();
            assert_eq!(
                (flags.unknown, flags.action),
                (unknown.iter().map(|s| s.to_string()).collect(), Action::Start)
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in ["-id", "-debug=maybe start", "stop", "-id c1 -"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
