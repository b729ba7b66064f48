//! Network namespaces for tests, and what stands in them.

use std::{
    fs::File,
    io,
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// A number that no test beside this one has.
pub fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::process::id() % 10_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs `ip`, which is to succeed; what it prints.
pub fn ip(args: &str) -> String {
    run("ip", args)
}

/// Runs a program, which is to succeed; what it prints.
pub fn run(program: &str, args: &str) -> String {
    let output = Command::new(program).args(args.split_whitespace()).output().expect("run a program");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Connects from within the network namespace of that name.
pub fn dial_in(namespace: &str, to: &str) -> io::Result<TcpStream> {
    within(namespace, || TcpStream::connect(to))
}

/// Listens within the network namespace of that name.
pub fn listen_in(namespace: &str, on: &str) -> io::Result<TcpListener> {
    within(namespace, || TcpListener::bind(on))
}

/// Runs `work` on a thread within the network namespace of that name.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    within_path(format!("/run/netns/{namespace}").as_ref(), work)
}

/// The same within the network namespace at that path.
pub fn within_path<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    // The thread ends in the namespace.
    let done = thread::scope(|scope| {
        let work = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        scope.spawn(work).join()
    });
    done.expect("no panic")
}

/// A network namespace that is joined to a bridge of the host, all of it gone when dropped.
pub struct Place {
    pub name: String,
    pub number: u32,
}

impl Place {
    /// Without an interface.
    #[expect(clippy::new_without_default, reason = "it makes things on the host")]
    pub fn new() -> Self {
        let number = unique();
        let place = Self { name: format!("kt{number}"), number };
        ip(&format!("netns add {}", place.name));
        ip(&format!("-n {} link set lo up", place.name));
        ip(&format!("link add {} type bridge", place.bridge()));
        ip(&format!("addr add {}/24 dev {}", place.gateway(), place.bridge()));
        ip(&format!("addr add fd00:{:x}::1/64 dev {} nodad", number % 0xffff, place.bridge()));
        ip(&format!("link set {} up", place.bridge()));
        place
    }

    /// The bridge's name.
    pub fn bridge(&self) -> String {
        format!("ktb{}", self.number)
    }

    /// The beginning of the addresses in it.
    pub fn subnet(&self) -> String {
        format!("10.{}.{}", 64 + self.number / 256 % 64, self.number % 256)
    }

    /// The bridge's address.
    pub fn gateway(&self) -> String {
        format!("{}.1", self.subnet())
    }

    /// The IPv6 address of a host.
    pub fn v6(&self, host: u32) -> String {
        format!("fd00:{:x}::{host}", self.number % 0xffff)
    }

    /// What `ctr --with-ns` is told.
    pub fn option(&self) -> String {
        format!("network:/run/netns/{}", self.name)
    }

    /// Runs `ip` in the namespace.
    pub fn ip(&self, args: &str) -> String {
        ip(&format!("-n {} {args}", self.name))
    }

    /// Connects from within the namespace.
    pub fn dial(&self, to: &str) -> io::Result<TcpStream> {
        dial_in(&self.name, to)
    }

    /// Adds an interface to the namespace whose other end is a port of the bridge.
    pub fn interface(&self, name: &str, host: u32, mtu: u32) {
        let port = format!("ktp{}{host}", self.number);
        ip(&format!("link add {port} type veth peer name {name} netns {}", self.name));
        ip(&format!("link set {port} mtu {mtu} master {} up", self.bridge()));
        self.ip(&format!("link set {name} mtu {mtu}"));
        self.ip(&format!("addr add {}.{host}/24 dev {name}", self.subnet()));
        self.ip(&format!("addr add {}/64 dev {name} nodad", self.v6(host)));
        self.ip(&format!("link set {name} up"));
    }

    /// What is in it that was not made by the test.
    pub fn remains(&self) -> Vec<String> {
        let links = self.ip("-o link");
        let filters = run("tc", &format!("-n {} qdisc show", self.name));
        let taps = links.lines().filter(|line| line.contains("_kata"));
        taps.chain(filters.lines().filter(|line| line.contains("ingress"))).map(str::to_owned).collect()
    }

    /// What was made by a sandbox goes away.
    pub fn assert_clean(&self) {
        let began = Instant::now();
        while !self.remains().is_empty() && began.elapsed() < Duration::from_secs(15) {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.remains(), Vec::<String>::new());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for args in [format!("netns del {}", self.name), format!("link del {}", self.bridge())] {
            let _ = Command::new("ip").args(args.split_whitespace()).status(); // The test has said what is wrong.
        }
    }
}

/// Every address of an interface, as `ip` shows it.
pub fn addresses(text: &str) -> Vec<String> {
    let mut found: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("inet"));
            words.next()?;
            words.next().map(str::to_owned)
        })
        .collect();
    found.sort();
    found
}

/// Every route as a set of words that do not depend on who made it, sorted.
pub fn routes(text: &str) -> Vec<String> {
    const DETAILS: [&str; 2] = ["proto", "pref"];
    let mut found: Vec<_> = text
        .lines()
        .filter(|line| line.contains("eth") && !line.contains("fe80::/64") && !line.starts_with("multicast"))
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let skipped =
                |at: usize| DETAILS.contains(&words[at]) || at > 0 && DETAILS.contains(&words[at - 1]);
            (0..words.len()).filter(|at| !skipped(*at)).map(|at| words[at]).collect::<Vec<_>>().join(" ")
        })
        .collect();
    found.sort();
    found
}
