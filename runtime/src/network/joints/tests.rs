//! In a network namespace of the test's own.

mod answers;

use std::{fs, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{geteuid, gettid},
};
use rtnetlink::LinkVeth;

use super::*;
use crate::{
    error::ErrorKind,
    state::{ProcessId, Record},
};

/// Runs `test` with the joints of a namespace in which `eth0` stands, on a thread whose namespaces end with it.
fn in_a_namespace(model: InternetworkingModel, test: impl AsyncFnOnce(&mut Joints, u32) + Send) {
    if !geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let place = format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid());
        let root = tempfile::tempdir().unwrap();
        let record = Record::new("s1", ProcessId { pid: 1, start_time: 2 });
        let store = Arc::new(StateStore::create(&root.path().join("s1"), record).unwrap());
        let settings = Settings { model, queues: 1, ledger: Ledger::new(store.clone()), store };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let namespace = Namespace::open(place.as_ref()).unwrap();
            let mut joints = Joints::new(settings, namespace).await.unwrap();
            let pair = LinkVeth::new("eth0", "peer").up().build();
            joints.connection.handle.link().add(pair).execute().await.unwrap();
            let index = joints.scan().await.unwrap().endpoints[0].index;
            test(&mut joints, index).await;
        });
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap();
}

fn claims(joints: &Joints) -> Vec<String> {
    joints.settings.store.record().own.ledger.iter().map(ToString::to_string).collect()
}

#[test]
fn a_link_that_goes_while_the_vm_starts_is_parted_and_no_fault() {
    in_a_namespace(InternetworkingModel::Tcfilter, async |joints, eth0| {
        joints.prepare().await.unwrap();
        assert_eq!((joints.nics().len(), claims(joints).len()), (1, 1));
        joints.connection.handle.link().del(eth0).execute().await.unwrap();
        joints.join().await.unwrap();
        let there = joints.scan().await.unwrap().endpoints;
        let parted = joints.part(&there).await.unwrap();
        assert_eq!((parted.len(), parted[0].number, parted[0].link), (1, 0, eth0));
        joints.hand_over();
        joints.give_up(0).await.unwrap();
        assert_eq!(claims(joints), Vec::<String>::new());
    });
}

#[test]
fn a_link_that_gets_another_hardware_address_is_parted_whole() {
    in_a_namespace(InternetworkingModel::Tcfilter, async |joints, eth0| {
        joints.prepare().await.unwrap();
        joints.join().await.unwrap();
        assert_eq!(claims(joints).len(), 2);
        let change = LinkUnspec::new_with_index(eth0).address(vec![2, 0, 0, 0, 0, 1]).build();
        joints.connection.handle.link().set(change).execute().await.unwrap();
        let there = joints.scan().await.unwrap().endpoints;
        assert_eq!(joints.part(&there).await.unwrap().len(), 1);
        joints.hand_over();
        joints.give_up(0).await.unwrap();
        assert_eq!(claims(joints), Vec::<String>::new());
        // Nothing of ours is in the way.
        assert!(matches!(joints.add(&there[0]).await.unwrap(), Added::New(nic) if nic.mac == there[0].mac));
    });
}

#[test]
fn without_a_device_for_taps_it_is_said_what_to_do() {
    in_a_namespace(InternetworkingModel::Tcfilter, async |joints, _| {
        mount(Some("none"), "/dev/net", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let error = joints.prepare().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let said = error.to_string();
        assert!(said.contains("interface eth0") && said.contains("/dev/net/tun"), "{said}");
        assert!(said.contains("load the module tun"), "{said}");
        assert_eq!(claims(joints), Vec::<String>::new());
    });
}

#[test]
fn a_macvtap_is_made_without_a_node_of_the_hosts_and_released() {
    in_a_namespace(InternetworkingModel::Macvtap, async |joints, eth0| {
        if !fs::exists("/sys/class/macvtap").unwrap() {
            let said = joints.prepare().await.unwrap_err().to_string();
            assert!(said.contains("load the module macvtap"), "{said}");
            return;
        }
        joints.prepare().await.unwrap();
        assert_eq!(joints.nics()[0].queues.len(), 1);
        let found = joints.connection.handle.link().get().match_name("tap0_kata").execute();
        assert_eq!(found.try_collect::<Vec<_>>().await.unwrap().len(), 1);
        joints.hand_over();
        joints.give_up(0).await.unwrap();
        let found = joints.connection.handle.link().get().match_name("tap0_kata").execute();
        assert!(found.try_collect::<Vec<_>>().await.is_err());
        assert!(!joints.has(eth0) && claims(joints).is_empty());
    });
}
