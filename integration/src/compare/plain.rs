//! What must differ between two runs, taken out: ids and paths of a run, and the words with which each runtime leads up
//! to the same reason. Pure.

use tonic::{Code, Status};

/// The words of one run and what stands for them, in this order.
pub struct Plain(Vec<(String, &'static str)>);

impl Plain {
    pub fn new(words: impl IntoIterator<Item = (String, &'static str)>) -> Self {
        Self(words.into_iter().filter(|(word, _)| !word.is_empty()).collect())
    }

    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (word, name)| text.replace(word, name))
    }
}

/// How runc's chain of errors begins; ours begins with the agent's call.
const WAYS: [&str; 7] = [
    "failed to create shim task: ",
    "OCI runtime create failed: ",
    "OCI runtime exec failed: ",
    "runc create failed: ",
    "exec failed: ",
    "unable to start container process: ",
    "unknown error after kill: runc did not terminate successfully: exit status 1: ",
];

/// What containerd appends: the code in words.
const CODES: [&str; 8] = [
    "unknown",
    "not found",
    "invalid argument",
    "failed precondition",
    "already exists",
    "not implemented",
    "unavailable",
    "deadline exceeded",
];

/// Two ways to say the same: ours, and runc's.
const SAME: [(&str, &str); 1] = [("the exec process is not started yet", "process not created")];

/// The reason at the end of a chain of errors, as a client of either runtime would show it.
pub fn reason(message: &str) -> String {
    let mut rest = message.trim();
    loop {
        let known = WAYS.iter().find_map(|way| rest.strip_prefix(way));
        let shorter = known.or_else(|| without_the_container(rest)).or_else(|| without_the_call(rest));
        match shorter {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    let ended = CODES.iter().find_map(|code| rest.strip_suffix(code)?.trim_end().strip_suffix(':'));
    let rest = ended.unwrap_or(rest);
    SAME.iter().find(|(ours, _)| *ours == rest).map_or(rest, |(_, theirs)| theirs).to_owned()
}

/// An error as it is compared: its code and reason; or, where a runtime must only name the culprit, whether it does.
/// runc has no code for what is wrong with a spec, so there either of the two counts.
pub fn refusal(status: &Status, naming: Option<&str>) -> String {
    let (code, message) = (status.code(), status.message());
    match naming {
        Some(named) if matches!(code, Code::Unknown | Code::InvalidArgument) => {
            if named.is_empty() {
                "refused".to_owned()
            } else if message.to_lowercase().contains(&named.to_lowercase()) {
                format!("refused, naming {named:?}")
            } else {
                format!("refused, but not naming {named:?}: {}", reason(message))
            }
        }
        _ => format!("{code:?}: {}", reason(message)),
    }
}

/// Without `create container abc: `.
fn without_the_container(message: &str) -> Option<&str> {
    message.strip_prefix("create container ")?.split_once(": ").map(|(_, rest)| rest)
}

/// Without `agent CreateContainer: `.
fn without_the_call(message: &str) -> Option<&str> {
    let (call, rest) = message.strip_prefix("agent ")?.split_once(": ")?;
    call.chars().all(char::is_alphanumeric).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runtimes_lead_up_to_one_reason() {
        let runc = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"x\": \
                    executable file not found in $PATH: unknown";
        let ours = "agent ExecProcess: exec: \"x\": executable file not found in $PATH: unknown";
        assert_eq!(reason(runc), "exec: \"x\": executable file not found in $PATH");
        assert_eq!(reason(ours), reason(runc));
    }

    #[test]
    fn other_reasons_stay_as_they_are() {
        assert_eq!(reason("agent of change: no"), "agent of change: no");
        assert_eq!(reason("nothing"), "nothing");
        assert_ne!(reason("a: not found"), reason("b: not found"));
    }

    #[test]
    fn a_refusal_that_must_name_something_is_told_by_that() {
        let runc = Status::new(Code::Unknown, "wrong limit: RLIMIT_X: unknown");
        let ours = Status::new(Code::InvalidArgument, "no variant rlimit_x: invalid argument");
        assert_eq!(refusal(&runc, Some("RLIMIT_X")), refusal(&ours, Some("RLIMIT_X")));
        assert_ne!(refusal(&runc, Some("RLIMIT_Y")), refusal(&runc, Some("RLIMIT_X")));
        assert_ne!(refusal(&runc, None), refusal(&ours, None));
        let gone = Status::new(Code::NotFound, "RLIMIT_X");
        assert_ne!(refusal(&gone, Some("RLIMIT_X")), refusal(&runc, Some("RLIMIT_X")));
    }

    #[test]
    fn ids_are_taken_out() {
        let plain = Plain::new([("k7".to_owned(), "ID"), (String::new(), "nothing")]);
        assert_eq!(plain.text("exec of k7"), "exec of ID");
    }
}
