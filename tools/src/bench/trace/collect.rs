//! From the lines of a log to a trace. Pure.

use super::{
    kernel::{self, Printed},
    spans::{Span, Trace, Track},
};
use crate::bench::log::Line;

const AGENT_IS_READY: &str = "ready";

/// What `lines` say of the start of container `id`, by a `ctr` that began then and took so long.
pub fn trace(lines: &[Line], id: &str, began: u64, ms: f64) -> Trace {
    let since = |at: u64| (at as f64 - began as f64) / 1e6;
    let mut spans = vec![Span { track: Track::Ctr, name: "ctr run --rm".into(), begin: 0.0, end: ms }];
    let mut printed: Vec<Printed> = Vec::new();
    for line in lines {
        let at = since(line.at);
        match line.message() {
            "guest console" => {
                let words = line.field("line").unwrap_or_default();
                if let Some(line) = kernel::printed(words, at) {
                    printed.push(line);
                } else if let Some(words) = kernel::agents_words(words) {
                    spans.push(Span::moment(Track::Agent, words, at));
                }
            }
            "qemu event" => spans.push(Span::moment(Track::Qemu, line.field("event").unwrap_or("event"), at)),
            "event forwarded" | "event published" => {
                spans.push(Span::moment(Track::Containerd, line.field("topic").unwrap_or("event"), at));
            }
            _ if line.field("sandbox") == Some(id) => match line.phase() {
                Some(phase) => {
                    let begin = at - phase.ms;
                    spans.push(Span { track: Track::Shim, name: phase.name, begin, end: at });
                }
                None => spans.push(Span::moment(Track::Shim, line.message(), at)),
            },
            _ => {}
        }
    }
    spans.extend(between(
        &spans,
        "qemu: from its start until it greets",
        Track::Qemu,
        "start qemu",
        "qemu greets",
    ));
    let kernel = kernel::spans(&printed);
    spans.extend(agent(&spans, kernel.first()));
    spans.extend(shims_way(&spans));
    spans.extend(kernel);
    Trace::of(spans)
}

/// The span between two moments of the shim.
fn between(spans: &[Span], name: &str, track: Track, from: &str, to: &str) -> Option<Span> {
    let at =
        |name: &str| spans.iter().find(|span| span.is_moment() && span.name == name).map(|span| span.begin);
    let (begin, end) = (at(from)?, at(to)?);
    (end > begin).then(|| Span { track, name: name.into(), begin, end })
}

/// From the kernel's last word to the agent's first.
fn agent(spans: &[Span], kernel: Option<&Span>) -> Option<Span> {
    let is_ready = |span: &&Span| span.track == Track::Agent && span.name.contains(AGENT_IS_READY);
    let booted = kernel.filter(|span| span.name == kernel::BOOT)?;
    let (begin, end) = (booted.end, spans.iter().find(is_ready)?.begin);
    (end > begin).then(|| Span { track: Track::Agent, name: "agent, until it is ready".into(), begin, end })
}

/// What lies before the shim's first word: ctr, containerd and the shim's own start.
fn shims_way(spans: &[Span]) -> Option<Span> {
    let of_shim = spans.iter().filter(|span| span.track == Track::Shim).map(|span| span.begin);
    let end = of_shim.min_by(f64::total_cmp)?;
    let name = "ctr, containerd and the shim's start".into();
    (end > 0.0).then_some(Span { track: Track::Containerd, name, begin: 0.0, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
time="1970-01-01T00:00:01.020Z" level=debug msg="event published" topic=/containers/create
time="1970-01-01T00:00:01.040Z" level=debug msg=phase phase=config ms=5.000 call=create sandbox=c container=c
time="1970-01-01T00:00:01.050Z" level=debug msg="start qemu" command="x" sandbox=c
time="1970-01-01T00:00:01.060Z" level=debug msg="qemu greets" version=7.2.22 sandbox=c
time="1970-01-01T00:00:01.070Z" level=debug msg=phase phase=vm-start ms=25.000 sandbox=c
time="1970-01-01T00:00:01.080Z" level=debug msg="guest console" line="[    0.000000] Linux"
time="1970-01-01T00:00:01.180Z" level=debug msg="guest console" line="[    0.100000] Run /init as init process"
time="1970-01-01T00:00:01.200Z" level=debug msg="guest console" line="2026-11-21T07:32:18.6Z  INFO kata_agent: ready"
time="1970-01-01T00:00:01.210Z" level=debug msg=phase phase=guest-boot ms=140.000 sandbox=c
time="1970-01-01T00:00:01.220Z" level=debug msg=phase phase=vm-start ms=1.000 sandbox=another
"#;

    #[test]
    fn every_side_of_a_start_is_on_one_scale() {
        let lines: Vec<Line> = LOG.lines().filter_map(Line::parse).collect();
        let trace = trace(&lines, "c", 1_000_000_000, 300.0);
        let found: Vec<String> = trace
            .spans
            .iter()
            .map(|span| format!("{} {} {:.0}-{:.0}", span.track.label(), span.name, span.begin, span.end))
            .collect();
        for expected in [
            "ctr ctr run --rm 0-300",
            "containerd ctr, containerd and the shim's start 0-35",
            "containerd /containers/create 20-20",
            "shim config 35-40",
            "shim vm-start 45-70",
            "qemu qemu: from its start until it greets 50-60",
            "guest kernel kernel, until it runs /init 80-180",
            "guest kernel after: Linux 80-180",
            "agent agent, until it is ready 180-200",
            "shim guest-boot 70-210",
        ] {
            assert!(found.iter().any(|found| found == expected), "{expected:?} is not in {found:#?}");
        }
        assert!(!found.iter().any(|found| found.contains("219")), "{found:#?}");
        assert_eq!(trace.end(), 300.0);
    }
}
