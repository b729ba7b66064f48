//! Kernel modules that the initrd brings along, packed, for whoever asks for them: the guest's kernel, which runs
//! `/sbin/modprobe` for what it has no driver for, and the host's configuration. That program is the agent under another
//! name, where the initrd has no other.

use std::{
    collections::HashSet,
    ffi::{CString, OsStr},
    fs::{self, File, Permissions},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use flate2::read::GzDecoder;
use nix::{
    errno::Errno,
    kmod::init_module,
    sys::stat::{Mode, SFlag, makedev, mknod},
};

use crate::error::{Context, Error, Result};

/// A module per line: its name, the modules it needs with commas between them or `-`, and the other names that it is asked
/// for by. `tools/src/on_demand.rs` writes it.
const INDEX: &str = "/etc/kata-modules-on-demand";
const DIR: &str = "/lib/modules";
/// Larger ones there are not; what unpacks to more is damaged.
const LIMIT: u64 = 64 << 20;

/// A line of the index.
struct Module<'a> {
    name: &'a str,
    needs: Vec<&'a str>,
    aliases: Vec<&'a str>,
}

/// What the initrd brings along.
struct Index<'a>(Vec<Module<'a>>);

impl<'a> Index<'a> {
    fn parse(text: &'a str) -> Self {
        let module = |line: &'a str| {
            let mut words = line.split_whitespace();
            let (name, needs) = (words.next()?, words.next()?);
            let needs = needs.split(',').filter(|name| *name != "-").collect();
            Some(Module { name, needs, aliases: words.collect() })
        };
        Self(text.lines().filter_map(module).collect())
    }

    fn find(&self, name: &str) -> Option<&Module<'a>> {
        // A dash and an underscore are the same in a module's name.
        let plain = name.replace('-', "_");
        self.0.iter().find(|module| module.name == plain || module.aliases.contains(&name))
    }

    /// A module and what it needs, in the order in which they are to be loaded.
    fn in_order<'b>(&'b self, module: &'b Module<'a>, seen: &mut HashSet<&'a str>) -> Vec<&'b Module<'a>> {
        if !seen.insert(module.name) {
            return Vec::new();
        }
        // What is not listed was loaded at the start.
        let needed = module.needs.iter().filter_map(|name| self.find(name));
        let mut all: Vec<_> = needed.flat_map(|module| self.in_order(module, seen)).collect();
        all.push(module);
        all
    }

    /// The nodes of devices whose modules are loaded when somebody opens them: below `/dev`, with their numbers.
    fn nodes(&self) -> impl Iterator<Item = (&'a str, u64, u64)> {
        self.0.iter().filter_map(|module| {
            let find = |prefix| module.aliases.iter().find_map(|alias| alias.strip_prefix(prefix));
            let (name, numbers) = (find("devname:")?, find("char-major-")?);
            let (major, minor) = numbers.split_once('-')?;
            Some((name, major.parse().ok()?, minor.parse().ok()?))
        })
    }
}

fn index() -> String {
    fs::read_to_string(INDEX).unwrap_or_default() // A kernel with everything built in has none.
}

/// Whether the kernel would find a driver for a device, were it opened.
pub fn has_driver(folder: &str, major: i64, minor: i64) -> bool {
    Index::parse(&index()).find(&format!("{folder}-major-{major}-{minor}")).is_some()
}

/// Makes the nodes of devices whose drivers are not loaded yet, in `dev`.
pub fn make_nodes(dev: &Path) -> Result<()> {
    for (name, major, minor) in Index::parse(&index()).nodes() {
        let path = dev.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor)) {
            // Anybody may open them, as where udev makes them.
            Ok(()) => fs::set_permissions(&path, Permissions::from_mode(0o666))?,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::from(errno).context(path.display())),
        }
    }
    Ok(())
}

/// Loads a module that is asked for by one of its names, and what it needs. One that is there already is left as it is.
pub fn load(name: &str, parameters: &str) -> Result<()> {
    let text = index();
    let index = Index::parse(&text);
    let Some(module) = index.find(name) else {
        return match is_there(&name.replace('-', "_")) {
            true => Ok(()),
            false => Err(Error::not_found("the guest has no such module")),
        };
    };
    let all = index.in_order(module, &mut HashSet::new());
    for (number, needed) in all.iter().enumerate() {
        let parameters = if number + 1 == all.len() { parameters } else { "" };
        insert(needed.name, parameters).context(format!("module {}", needed.name))?;
    }
    Ok(())
}

/// Whether it was loaded, or is built in and has something to show.
fn is_there(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

fn insert(name: &str, parameters: &str) -> Result<()> {
    if is_there(name) {
        return Ok(());
    }
    let packed = File::open(Path::new(DIR).join(format!("{name}.ko.gz")))?;
    let mut module = Vec::new();
    GzDecoder::new(packed).take(LIMIT).read_to_end(&mut module)?;
    let parameters = CString::new(parameters).map_err(|_| Error::invalid("parameters with a zero byte"))?;
    match init_module(&module, &parameters) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What a program called modprobe does with its arguments; `None` if the agent was not called so.
pub fn as_modprobe(mut args: impl Iterator<Item = String>) -> Option<Result<()>> {
    let program = args.next()?;
    if Path::new(&program).file_name() != Some(OsStr::new("modprobe")) {
        return None;
    }
    let mut words = args.filter(|arg| !arg.starts_with('-'));
    let Some(name) = words.next() else {
        return Some(Err(Error::invalid("usage: modprobe MODULE [PARAMETER=VALUE]...")));
    };
    Some(load(&name, &words.collect::<Vec<_>>().join(" ")).context(format!("modprobe {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "tun - char-major-10-200 devname:net/tun\n\
                        ip_tables x_tables\nx_tables -\n\
                        iptable_nat ip_tables,nf_nat,virtio ipt_nat\nnf_nat x_tables,ip_tables\n";

    fn order(name: &str) -> Vec<&'static str> {
        let index = Index::parse(TEXT);
        let Some(module) = index.find(name) else { return Vec::new() };
        index.in_order(module, &mut HashSet::new()).iter().map(|module| module.name).collect()
    }

    #[test]
    fn modules_are_found_by_any_name_and_follow_what_they_need() {
        assert_eq!(order("char-major-10-200"), ["tun"]);
        assert_eq!(order("ip-tables"), ["x_tables", "ip_tables"]);
        assert_eq!(order("ipt_nat"), ["x_tables", "ip_tables", "nf_nat", "iptable_nat"]);
        assert_eq!(order("gone"), Vec::<&str>::new());
        assert_eq!(Index::parse(TEXT).nodes().collect::<Vec<_>>(), [("net/tun", 10, 200)]);
    }

    #[test]
    fn it_is_modprobe_only_under_that_name() {
        let called = |words: &[&str]| as_modprobe(words.iter().map(|word| (*word).to_owned()));
        assert!(called(&["/init"]).is_none());
        assert!(called(&[]).is_none());
        let unknown = called(&["/sbin/modprobe", "-q", "--", "no-such"]).unwrap().unwrap_err();
        assert!(unknown.to_string().contains("modprobe no-such"), "{unknown}");
        assert!(called(&["modprobe", "-v"]).unwrap().unwrap_err().to_string().starts_with("usage"));
    }
}
