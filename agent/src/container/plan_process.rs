//! A process of the OCI spec, an init or one that joins, as this guest runs it. Pure.

use oci_spec::runtime::{LinuxCapabilities, Process};

use super::executor::HOME_UNKNOWN;
use crate::error::{Error, Result};

/// runc's limit.
const MAX_ID: u32 = i32::MAX as u32;

/// Shapes a process.
pub fn plan_process(process: &mut Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("process.args: names no program"));
    }
    if process.cwd().as_os_str().is_empty() {
        process.set_cwd("/".into());
    }
    if !process.cwd().is_absolute() {
        let cwd = process.cwd().display();
        return Err(Error::invalid(format!("process.cwd: {cwd} is not absolute")));
    }
    let user = process.user();
    if user.uid() > MAX_ID
        || user.gid() > MAX_ID
        || user.additional_gids().iter().flatten().any(|gid| *gid > MAX_ID)
    {
        // The highest of all would mean "stay who you are", that is, root.
        return Err(Error::invalid(format!(
            "unable to setup user: uids and gids must be in range 0-{MAX_ID}"
        )));
    }
    if process.no_new_privileges() == Some(false) {
        // libcontainer asks whether it is given, not whether it is set.
        process.set_no_new_privileges(None);
    }
    let env = process.env_mut().get_or_insert_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=") && entry != "HOME=") {
        env.push(HOME_UNKNOWN.to_owned());
    }
    if process.capabilities().is_none() {
        // Left out, libcontainer would give its defaults; the spec means none.
        let mut none = LinuxCapabilities::default();
        let empty = || Some(Default::default());
        none.set_bounding(empty())
            .set_effective(empty())
            .set_inheritable(empty())
            .set_permitted(empty())
            .set_ambient(empty());
        process.set_capabilities(Some(none));
    }
    // Labels and profiles of a policy that the guest does not have.
    process.set_apparmor_profile(None).set_selinux_label(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use serde_json::{Value, json};

    fn planned(more: Value) -> Result<Process> {
        let mut process = json!({"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        for (key, value) in more.as_object().unwrap() {
            process[key] = value.clone();
        }
        let mut process = serde_json::from_value(process).unwrap();
        plan_process(&mut process).map(|()| process)
    }

    #[test]
    fn a_process_without_capabilities_gets_none_and_no_labels() {
        let process = planned(json!({"cwd": "", "apparmorProfile": "p", "selinuxLabel": "l"})).unwrap();
        assert_eq!(process.cwd(), Path::new("/"));
        assert!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().is_empty());
        assert!(process.apparmor_profile().is_none() && process.selinux_label().is_none());
        for bad in [json!({"uid": u32::MAX, "gid": 0}), json!({"uid": 0, "gid": 1u32 << 31})] {
            let error = planned(json!({"user": bad})).unwrap_err().to_string();
            assert!(error.contains("must be in range 0-2147483647"), "{error}");
        }
        assert!(planned(json!({"args": []})).is_err() && planned(json!({"cwd": "x"})).is_err());
    }

    #[test]
    fn a_home_is_looked_up_only_if_it_is_not_given() {
        for (env, last) in [
            (json!(["A=1"]), HOME_UNKNOWN),
            (json!(["HOME=/h"]), "HOME=/h"),
            (json!(["HOME="]), HOME_UNKNOWN),
            (Value::Null, HOME_UNKNOWN),
        ] {
            let process = planned(json!({"env": env})).unwrap();
            assert_eq!(process.env().as_ref().unwrap().last().unwrap(), last, "{env}");
        }
    }

    #[test]
    fn privileges_that_are_not_forbidden_are_not_mentioned() {
        for (given, expected) in [(Some(true), Some(true)), (Some(false), None), (None, None)] {
            let process = planned(json!({"noNewPrivileges": given})).unwrap();
            assert_eq!(process.no_new_privileges(), expected);
        }
    }
}
