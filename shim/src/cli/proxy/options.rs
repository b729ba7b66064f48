//! The words with which a stand-in is started, written and read.

use std::{
    ffi::OsString,
    os::fd::RawFd,
    path::{Path, PathBuf},
};

use runtime::error::{Error, Result};

use super::root::{Files, Mounted, Whose};

/// What a stand-in writes when it is ready; any other text is the reason why it is not.
pub const READY: u8 = 0;

/// The network namespace to be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    Host,
    New,
    Path(PathBuf),
}

/// What a stand-in is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub network: Network,
    /// The container's files, which are to be all that it sees of the host's.
    pub files: Option<Files>,
    /// The process has a terminal: the stand-in's standard streams.
    pub terminal: bool,
    /// It is a terminal of its own, which was made for it.
    pub console: bool,
    /// The connection to the server.
    pub control: RawFd,
    /// The connection to the one who starts it.
    pub start: RawFd,
    /// Standard streams, each with the pipe from or to which it is copied.
    pub copies: Vec<(i32, RawFd)>,
}

/// The arguments for these options. `name` says for people what it stands for.
pub fn words(options: &Options, name: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = name.iter().map(OsString::from).collect();
    match &options.network {
        Network::Host => {}
        Network::New => words.push("--new-network".into()),
        Network::Path(path) => words.extend(["--network".into(), path.into()]),
    }
    if let Some(files) = &options.files {
        words.extend(["--rootfs".into(), files.rootfs.clone().into()]);
        words.extend(files.read_only.then(|| "--read-only".into()));
        for Mounted { destination, whose } in &files.mounts {
            match whose {
                Whose::Host { source, read_only } => {
                    let word = if *read_only { "--volume-read-only" } else { "--volume" };
                    words.extend([word.into(), source.into(), destination.into()]);
                }
                Whose::Guest => words.extend(["--guest".into(), destination.into()]),
            }
        }
    }
    for (word, is_set) in [("--terminal", options.terminal), ("--console", options.console)] {
        words.extend(is_set.then(|| word.into()));
    }
    words.extend(["--control".into(), options.control.to_string().into()]);
    words.extend(["--start".into(), options.start.to_string().into()]);
    for (stream, pipe) in &options.copies {
        words.extend(["--copy".into(), format!("{stream}:{pipe}").into()]);
    }
    words
}

impl Options {
    /// Reads the words behind the program's name.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            network: Network::Host,
            files: None,
            terminal: false,
            console: false,
            control: -1,
            start: -1,
            copies: Vec::new(),
        };
        while let Some(word) = args.next() {
            let mut value =
                || args.next().ok_or_else(|| Error::invalid(format!("{word}: a value is missing")));
            let number = |text: String| {
                text.parse().map_err(|_| Error::invalid(format!("{word}: {text:?} is no number")))
            };
            match word.as_str() {
                "--new-network" => options.network = Network::New,
                "--network" => options.network = Network::Path(Path::new(&value()?).into()),
                "--rootfs" => {
                    let rootfs = value()?.into();
                    options.files = Some(Files { rootfs, read_only: false, mounts: Vec::new() });
                }
                "--read-only" => files(&mut options)?.read_only = true,
                "--volume" | "--volume-read-only" => {
                    let read_only = word == "--volume-read-only";
                    let whose = Whose::Host { source: value()?.into(), read_only };
                    let destination = value()?.into();
                    files(&mut options)?.mounts.push(Mounted { destination, whose });
                }
                "--guest" => {
                    let mounted = Mounted { destination: value()?.into(), whose: Whose::Guest };
                    files(&mut options)?.mounts.push(mounted);
                }
                "--terminal" => options.terminal = true,
                "--console" => options.console = true,
                "--control" => options.control = number(value()?)?,
                "--start" => options.start = number(value()?)?,
                "--copy" => {
                    let text = value()?;
                    let (stream, pipe) = text.split_once(':').unwrap_or((&text, ""));
                    options.copies.push((number(stream.into())?, number(pipe.into())?));
                }
                word if word.starts_with("--") => return Err(Error::invalid(format!("{word}: unknown"))),
                _ => {} // A name.
            }
        }
        Ok(options)
    }
}

fn files(options: &mut Options) -> Result<&mut Files> {
    options.files.as_mut().ok_or_else(|| Error::invalid("--rootfs: is missing before what is below it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let host = |read_only| Whose::Host { source: "/data dir".into(), read_only };
        let mounts = [("/a", host(false)), ("/b", host(true)), ("/c", Whose::Guest)];
        let mounts = mounts.map(|(path, whose)| Mounted { destination: path.into(), whose });
        for network in [Network::Host, Network::New, Network::Path("/proc/7/ns/net".into())] {
            let options = Options {
                network,
                files: Some(Files {
                    rootfs: "/bundle/rootfs".into(),
                    read_only: true,
                    mounts: mounts.to_vec(),
                }),
                terminal: true,
                console: false,
                control: 7,
                start: 8,
                copies: vec![(0, 9), (1, 10)],
            };
            let words = words(&options, &["c1", "exec-1"]).into_iter();
            let words = words.map(|word| word.into_string().unwrap());
            assert_eq!(Options::parse(words).unwrap(), options);
        }
        for bad in
            [&["--control"][..], &["--control", "x"], &["--copy", "1"], &["--what"], &["--guest", "/x"]]
        {
            assert!(Options::parse(bad.iter().map(|word| word.to_string())).is_err(), "{bad:?}");
        }
    }
}
