//! A trace in the format of Chrome's `about:tracing`. Pure.

use serde_json::{Value, json};

use super::spans::{Trace, Track};

pub fn json(trace: &Trace) -> Value {
    let number = |track: Track| Track::ALL.iter().position(|other| *other == track).unwrap_or(0) + 1;
    let names = Track::ALL.iter().map(|track| {
        json!({ "ph": "M", "name": "process_name", "pid": number(*track), "args": { "name": track.label() } })
    });
    let spans = trace.spans.iter().map(|span| {
        let (pid, ts) = (number(span.track), span.begin * 1e3);
        if span.is_moment() {
            json!({ "ph": "i", "s": "p", "name": span.name, "pid": pid, "tid": 1, "ts": ts })
        } else {
            let dur = (span.end - span.begin) * 1e3;
            json!({ "ph": "X", "name": span.name, "pid": pid, "tid": 1, "ts": ts, "dur": dur })
        }
    });
    json!({ "displayTimeUnit": "ms", "traceEvents": names.chain(spans).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::trace::spans::Span;

    #[test]
    fn times_are_microseconds() {
        let span = Span { track: Track::Qemu, name: "q".into(), begin: 1.5, end: 2.5 };
        let value = json(&Trace::of(vec![span, Span::moment(Track::Agent, "a", 3.0)]));
        let events = value["traceEvents"].as_array().unwrap();
        assert_eq!(
            events[6],
            json!({ "ph": "X", "name": "q", "pid": 4, "tid": 1, "ts": 1500.0, "dur": 1000.0 })
        );
        assert_eq!(events[7]["ph"], "i");
        assert_eq!(events[3]["args"]["name"], "qemu");
    }
}
