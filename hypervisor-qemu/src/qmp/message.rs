//! What QEMU says, one JSON object per line. Pure.

use runtime::error::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Something that happened in QEMU, by its name in the QMP reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

impl Event {
    /// The data as a type. Loose types only: fields come and go between QEMU versions.
    pub fn data<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_value(self.data.clone()).ok()
    }
}

#[derive(Debug)]
pub(super) enum Message {
    Greeting { version: String },
    Event(Event),
    Answer { id: u64, result: Result<Value> },
}

impl Message {
    pub(super) fn parse(line: &[u8]) -> Result<Self> {
        let mut fields: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| Error::internal(format!("qemu sent what is not a JSON object: {error}")))?;
        if let Some(greeting) = fields.remove("QMP") {
            return Ok(Self::Greeting { version: version(&greeting) });
        }
        if let Some(Value::String(name)) = fields.remove("event") {
            return Ok(Self::Event(Event { name, data: fields.remove("data").unwrap_or_default() }));
        }
        let id = fields.get("id").and_then(Value::as_u64);
        let result = match (fields.remove("return"), fields.remove("error")) {
            (Some(value), None) => Ok(value),
            (None, Some(error)) => Err(refusal(&error)),
            _ => return Err(Error::internal("qemu sent neither answer nor event")),
        };
        match (id, result) {
            (Some(id), result) => Ok(Self::Answer { id, result }),
            // QEMU could not even read what we sent; nobody can tell which call that was.
            (None, Err(error)) => Err(error.context("qemu rejects our input")),
            (None, Ok(_)) => Err(Error::internal("qemu sent an answer without an id")),
        }
    }
}

fn version(greeting: &Value) -> String {
    let qemu = &greeting["version"]["qemu"];
    format!("{}.{}.{}", qemu["major"], qemu["minor"], qemu["micro"])
}

fn refusal(error: &Value) -> Error {
    let text = error["desc"].as_str().unwrap_or("an error without description");
    let kind = match error["class"].as_str() {
        Some("DeviceNotFound") => ErrorKind::NotFound,
        Some("CommandNotFound") => ErrorKind::Unimplemented,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_message_is_told_apart() {
        let greeting =
            br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;
        assert!(matches!(Message::parse(greeting), Ok(Message::Greeting { version }) if version == "7.2.22"));
        let event = br#"{"timestamp": {"seconds": 1}, "event": "STOP"}"#;
        assert!(
            matches!(Message::parse(event), Ok(Message::Event(e)) if e.name == "STOP" && e.data.is_null())
        );
        let answer = br#"{"return": {}, "id": 7}"#;
        assert!(matches!(Message::parse(answer), Ok(Message::Answer { id: 7, result: Ok(_) })));
        let refused = br#"{"id": 8, "error": {"class": "DeviceNotFound", "desc": "no x"}}"#;
        let Ok(Message::Answer { id: 8, result: Err(error) }) = Message::parse(refused) else { panic!() };
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, "no x"));
    }

    #[test]
    fn nonsense_is_an_error() {
        for line in [
            &b""[..],
            b"[]",
            b"{}",
            b"\xff\xfe",
            br#"{"return": 1}"#,
            br#"{"return": 1, "id": "seven"}"#,
            br#"{"return": 1, "error": {}, "id": 1}"#,
            br#"{"event": 5}"#,
            br#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#,
            &[b'['; 100_000],
        ] {
            assert!(
                Message::parse(line).is_err(),
                "{}",
                String::from_utf8_lossy(&line[..line.len().min(80)])
            );
        }
    }

    #[test]
    fn damaged_messages_do_no_harm() {
        let sound = [
            &br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#[..],
            br#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
            br#"{"return": {"status": "running", "running": true}, "id": 7}"#,
            br#"{"id": 8, "error": {"class": "GenericError", "desc": "no"}}"#,
        ];
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        let mut understood = 0;
        for _ in 0..20_000 {
            let mut line = sound[random(sound.len())].to_vec();
            for _ in 0..=random(3) {
                let at = random(line.len());
                match random(3) {
                    0 => line[at] = random(256) as u8,
                    1 => line.truncate(at.max(1)),
                    _ => line.extend_from_within(..at),
                }
            }
            understood += usize::from(Message::parse(&line).is_ok());
        }
        assert!((1..20_000).contains(&understood), "{understood}");
    }
}
