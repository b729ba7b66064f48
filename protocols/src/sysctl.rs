//! Which settings of the kernel a container may have, and where they are: by namespaces, as runc has it. The host asks
//! before it makes a pod, the guest before it makes a container.

/// What a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Network,
    Ipc,
    Uts,
    User,
}

/// Of the IPC namespace, besides those of message queues.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The namespace that the setting belongs to, for a container which has those that `has` knows; the network it always has.
pub fn namespace_of(key: &str, has: impl Fn(Namespace) -> bool) -> Result<Namespace, String> {
    let name = key.replace('/', ".");
    let is_path = |file: &String| file.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !files(key).iter().all(is_path) {
        return Err(format!("sysctl {key:?} is no name"));
    }
    if name.starts_with("net.") {
        Ok(Namespace::Network)
    } else if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        match has(Namespace::Ipc) {
            true => Ok(Namespace::Ipc),
            false => Err(format!("sysctl {key:?} is not allowed in the hosts ipc namespace")),
        }
    } else if name == "kernel.domainname" && has(Namespace::Uts) {
        Ok(Namespace::Uts)
    } else if name.starts_with("user.") && has(Namespace::User) {
        Ok(Namespace::User)
    } else if name == "kernel.hostname" && has(Namespace::Uts) {
        Err(format!("sysctl {key:?} conflicts with the OCI field \"hostname\""))
    } else {
        Err(format!("sysctl {key:?} is not in a separate kernel namespace"))
    }
}

/// Where the setting may be, below `/proc/sys`: as runc has it, to which both separators are one, and if there is no such,
/// as sysctl(8) has it, where the one that comes first separates, and the other stands for a dot in a name.
pub fn files(key: &str) -> [String; 2] {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let is_dotted = key.find(['.', '/']).is_none_or(|first| key[first..].starts_with('.'));
    [key.replace('.', "/"), if is_dotted { key.chars().map(swap).collect() } else { key.to_owned() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_belongs_to_a_namespace_or_to_nobody() {
        for (key, expected) in [
            ("net.core.somaxconn", Ok(Namespace::Network)),
            ("net/ipv4/ip_forward", Ok(Namespace::Network)),
            ("kernel.shmmax", Ok(Namespace::Ipc)),
            ("fs.mqueue.msg_max", Ok(Namespace::Ipc)),
            ("user.max_user_namespaces", Err("not in a separate kernel namespace")),
            ("kernel.panic", Err("not in a separate kernel namespace")),
            ("kernel.hostname", Err("not in a separate kernel namespace")),
            ("net..x", Err("is no name")),
        ] {
            let found = namespace_of(key, |namespace| namespace == Namespace::Ipc);
            match expected {
                Ok(namespace) => assert_eq!(found, Ok(namespace), "{key}"),
                Err(words) => assert!(found.unwrap_err().contains(words), "{key}"),
            }
        }
        assert!(namespace_of("kernel.sem", |_| false).unwrap_err().contains("hosts ipc"));
        assert_eq!(namespace_of("user.max_user_namespaces", |_| true), Ok(Namespace::User));
        assert!(namespace_of("kernel.hostname", |_| true).unwrap_err().contains("conflicts"));
    }

    #[test]
    fn a_setting_is_where_runc_has_it_or_where_sysctl_has_it() {
        for (key, expected) in [
            ("net.ipv4.ip_forward", ["net/ipv4/ip_forward", "net/ipv4/ip_forward"]),
            ("net/ipv4/ip_forward", ["net/ipv4/ip_forward", "net/ipv4/ip_forward"]),
            ("net/ipv4.ip_forward", ["net/ipv4/ip_forward", "net/ipv4.ip_forward"]),
            (
                "net.ipv4.conf.eth0/1.rp_filter",
                ["net/ipv4/conf/eth0/1/rp_filter", "net/ipv4/conf/eth0.1/rp_filter"],
            ),
            (
                "net/ipv4/conf/eth0.1/rp_filter",
                ["net/ipv4/conf/eth0/1/rp_filter", "net/ipv4/conf/eth0.1/rp_filter"],
            ),
        ] {
            assert_eq!(files(key), expected, "{key}");
        }
    }
}
