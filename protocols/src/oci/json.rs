//! The spec's own JSON form, read as leniently as runc reads it: a capability that nobody knows is left out, not refused.

use oci_spec::runtime::{Capability, Process, Spec};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::OciError;

/// Below a process.
const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

/// Reads a spec. Also tells the names of unknown capabilities, which are not in it.
pub fn spec_from_json(text: &[u8]) -> Result<(Spec, Vec<String>), OciError> {
    parse(text, "/process")
}

/// Reads a process. Also tells the names of unknown capabilities, which are not in it.
pub fn process_from_json(text: &[u8]) -> Result<(Process, Vec<String>), OciError> {
    parse(text, "")
}

pub fn spec_to_json(spec: &Spec) -> Result<Vec<u8>, OciError> {
    write("spec", spec)
}

pub fn process_to_json(process: &Process) -> Result<Vec<u8>, OciError> {
    write("process", process)
}

fn write(what: &str, value: &impl Serialize) -> Result<Vec<u8>, OciError> {
    serde_json::to_vec(value).map_err(|error| OciError(format!("{what}: {error}")))
}

/// `process` is where in the text the process is.
fn parse<T: DeserializeOwned>(text: &[u8], process: &str) -> Result<(T, Vec<String>), OciError> {
    // The straight way first: it costs half of the way over a `Value`.
    let error = match serde_json::from_slice(text) {
        Ok(parsed) => return Ok((parsed, Vec::new())),
        Err(error) => OciError(error.to_string()),
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(error);
    };
    let unknown = value.pointer_mut(process).map(drop_unknown_capabilities).unwrap_or_default();
    if unknown.is_empty() {
        // Its words name line and column.
        return Err(error);
    }
    serde_json::from_value(value).map(|parsed| (parsed, unknown)).map_err(|error| OciError(error.to_string()))
}

fn drop_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    for set in CAPABILITY_SETS {
        let Some(names) = process.pointer_mut(&format!("/capabilities/{set}")).and_then(Value::as_array_mut)
        else {
            continue;
        };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str()) {
                unknown.push(name.to_owned());
            }
            // What is no text at all stays, to be refused.
            known || !name.is_string()
        });
    }
    unknown.sort();
    unknown.dedup();
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(capabilities: &str) -> String {
        format!(r#"{{"args":["x"],"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{capabilities}}}"#)
    }

    #[test]
    fn unknown_capabilities_are_left_out_and_told() {
        let sets =
            r#"{"bounding":["CAP_CHOWN","CAP_FUTURE"],"effective":["CAP_FUTURE"],"ambient":["CAP_OLD"]}"#;
        let (read, unknown) = process_from_json(process(sets).as_bytes()).unwrap();
        assert_eq!(unknown, ["CAP_FUTURE", "CAP_OLD"]);
        let sets = read.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert!(sets.effective().as_ref().unwrap().is_empty());

        let spec = format!(r#"{{"ociVersion":"1.0.2","process":{}}}"#, process(r#"{"permitted":["CAP_X"]}"#));
        assert_eq!(spec_from_json(spec.as_bytes()).unwrap().1, ["CAP_X"]);
    }

    #[test]
    fn other_nonsense_is_refused_with_its_place() {
        let error = process_from_json(process(r#"{"bounding":[7]}"#).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("line 1 column"), "{error}");
        let spec = r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"bogus"}]}}"#;
        assert!(spec_from_json(spec.as_bytes()).unwrap_err().to_string().contains("bogus"));
        assert!(spec_from_json(b"{").is_err());
    }

    #[test]
    fn what_the_wire_has_no_field_for_survives() {
        let text = r#"{"ociVersion":"1.2.0","domainname":"d","process":{"args":["x"],"cwd":"/",
            "user":{"uid":0,"gid":0,"umask":18},"ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":3},
            "scheduler":{"policy":"SCHED_BATCH","nice":5},"execCPUAffinity":{"initial":"0","final":"1"}},
            "linux":{"personality":{"domain":"LINUX32"},"resources":{"unified":{"memory.high":"5"},
            "cpu":{"idle":1,"burst":5}},"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38}}}"#;
        let (spec, _) = spec_from_json(text.as_bytes()).unwrap();
        let (back, _) = spec_from_json(&spec_to_json(&spec).unwrap()).unwrap();
        assert_eq!(spec, back);
        let back = serde_json::to_value(&back).unwrap();
        for pointer in [
            "/domainname",
            "/process/user/umask",
            "/process/ioPriority/priority",
            "/process/scheduler/nice",
            "/process/execCPUAffinity/final",
            "/linux/personality/domain",
            "/linux/resources/unified/memory.high",
            "/linux/resources/cpu/burst",
            "/linux/seccomp/defaultErrnoRet",
        ] {
            assert!(back.pointer(pointer).is_some(), "{pointer} is lost");
        }
    }
}
