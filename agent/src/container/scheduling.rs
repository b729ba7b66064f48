//! How a joining process shares the CPUs and disks: affinity, policy and priority. An init's are libcontainer's work.

use libcontainer::syscall::syscall::Syscall;
use nix::{
    errno::Errno,
    libc,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use oci_spec::runtime::{IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler};

use super::{cpuset, executor::words};

/// Binds this process to the CPUs of a list that the guest has; numbers that it has not are the host's.
pub fn set_affinity(list: Option<&str>) -> Result<(), String> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(()) };
    let asked = cpuset::parse(list).map_err(|error| format!("process.execCPUAffinity: {error}"))?;
    let present = std::fs::read_to_string("/sys/devices/system/cpu/online")
        .map_err(|error| format!("the guest's CPUs: {error}"))?;
    let present = cpuset::parse(present.trim()).map_err(|error| error.to_string())?;
    let mut set = CpuSet::new();
    for cpu in asked.intersection(&present) {
        set.set(*cpu as usize).map_err(fault("process.execCPUAffinity"))?;
    }
    if asked.is_disjoint(&present) {
        return Ok(());
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(fault("process.execCPUAffinity"))
}

/// Sets policy and priority of this process.
pub fn apply(process: &Process, system: &dyn Syscall) -> Result<(), String> {
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        system
            .set_io_priority(class, priority.priority())
            .map_err(|error| format!("process.ioPriority: {error}"))?;
    }
    match process.scheduler() {
        Some(scheduler) => set_policy(scheduler),
        None => Ok(()),
    }
}

fn set_policy(scheduler: &Scheduler) -> Result<(), String> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let attributes = libc::sched_attr {
        size: std::mem::size_of::<libc::sched_attr>() as u32,
        sched_policy: policy,
        sched_flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        sched_nice: scheduler.nice().unwrap_or(0),
        sched_priority: scheduler.priority().unwrap_or(0) as u32,
        sched_runtime: scheduler.runtime().unwrap_or(0),
        sched_deadline: scheduler.deadline().unwrap_or(0),
        sched_period: scheduler.period().unwrap_or(0),
    };
    // SAFETY: the kernel reads as many bytes as the struct says that it has, and it lives through the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) };
    Errno::result(set).map(drop).map_err(fault("process.scheduler"))
}

fn fault(what: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {}", words(errno))
}
