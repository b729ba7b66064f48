//! tracing -> the `log` fifo that containerd keeps in a bundle, one logfmt line per event.
//!
//! Logging never holds anything up: the fifo is opened without waiting for its reader, and a line that does not fit is
//! dropped. Where there is no fifo there is no log.

use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use nix::libc::O_NONBLOCK;
use runtime::{config::RuntimeConfig, ids::SandboxId};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry,
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

/// Before the name of the sandbox.
const SANDBOX: &str = " sandbox=";
/// containerd's fifo in the bundle.
const FIFO: &str = "log";

/// Sends this process's log to the bundle's fifo, and panics too.
pub fn init(bundle: &Path, debug: bool) -> LogLevel {
    open_fifo(bundle).map_or_else(LogLevel::default, |fifo| to(fifo, debug))
}

/// Sends this process's log to `file`, and panics too.
pub fn to(file: File, debug: bool) -> LogLevel {
    let first = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let (filter, handle) = reload::Layer::new(first);
    let sandbox = Sandbox::default();
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(Logfmt)
        .event_format(Lines(sandbox.clone()))
        .with_writer(Sink(Arc::new(file)))
        .with_filter(filter);
    if tracing_subscriber::registry().with(lines).try_init().is_err() {
        return LogLevel::default(); // Another log of this process came first, as in tests.
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "this process ends")));
    LogLevel(Some((handle, sandbox)))
}

/// Opens the bundle's fifo, if it is one.
pub fn open_fifo(bundle: &Path) -> Option<File> {
    // Also for reading: then neither a missing reader nor a restarted containerd breaks the pipe.
    let fifo =
        OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(bundle.join(FIFO)).ok()?;
    fifo.metadata().is_ok_and(|meta| meta.file_type().is_fifo()).then_some(fifo)
}

/// Tells how long a phase of a start-up or an end took; the bench reads these lines.
pub fn phase(name: &str, began: Instant) {
    tracing::debug!(phase = name, ms = began.elapsed().as_secs_f64() * 1e3, "phase");
}

/// How much is logged, and of which sandbox; can be changed while running.
#[derive(Debug, Clone, Default)]
pub struct LogLevel(Option<(reload::Handle<LevelFilter, Registry>, Sandbox)>);

/// The sandbox that lines are about which do not say so themselves.
type Sandbox = Arc<RwLock<String>>;

impl LogLevel {
    /// Logs as much as the configuration asks for; never less than everything that `-debug` asked for.
    pub fn apply(&self, config: &RuntimeConfig) {
        let configured =
            if config.enable_debug { Some(LevelFilter::DEBUG) } else { config.log_level.parse().ok() };
        let configured = configured.unwrap_or(LevelFilter::INFO);
        if let Some((handle, _)) = &self.0 {
            // The only failure is a subscriber that is gone, and its log with it.
            let _ = handle.modify(|level| {
                *level = if *level == LevelFilter::DEBUG { configured.max(*level) } else { configured };
            });
        }
    }
}

impl LogLevel {
    /// From now on every line has this sandbox's name.
    pub fn name(&self, id: &SandboxId) {
        if let Some((_, sandbox)) = &self.0 {
            id.as_str().clone_into(&mut sandbox.write().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Writes lines, or drops them.
#[derive(Debug, Clone)]
struct Sink(Arc<File>);

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (&*self.0).write(line) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(line.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// `time="…" level=info msg="…" key=value …`, then the fields of the spans around it, outermost first, and the sandbox.
#[derive(Debug, Clone)]
struct Lines(Sandbox);

/// ` key=value …`.
#[derive(Debug, Clone, Copy)]
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        out.write_str("time=\"")?;
        SystemTime.format_time(&mut out)?;
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        write!(out, "\" level={level}")?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(out, " msg={}{}", Quoted(&fields.message), fields.rest)?;
        let mut fields_say_sandbox = fields.rest.contains(SANDBOX);
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                fields_say_sandbox |= fields.contains(SANDBOX);
                out.write_str(fields)?;
            }
        }
        let sandbox = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !fields_say_sandbox && !sandbox.is_empty() {
            write!(out, "{SANDBOX}{}", Quoted(&sandbox))?;
        }
        out.write_char('\n')
    }
}

impl<'writer> FormatFields<'writer> for Logfmt {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Fields::default();
        fields.record(&mut visitor);
        out.write_str(&visitor.rest)
    }
}

/// Collects fields as ` key=value`, the message apart.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            // An empty exec or container is one that the request is not about.
            _ if value.is_empty() => {}
            name => {
                let _ = write!(self.rest, " {name}={}", Quoted(value)); // Writing to a string does not fail.
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &format!("{value:.3}"));
    }
}

/// A logfmt value, in quotes where it needs them.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
        if !self.0.is_empty() && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::Mutex};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// What is logged by `act`, through the same layers but for the global subscriber.
    fn logged(of: &str, act: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Memory(Arc<Mutex<Vec<u8>>>);
        impl Write for Memory {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory::default();
        let writer = memory.clone();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(Logfmt)
            .event_format(Lines(Sandbox::new(RwLock::new(of.into()))))
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), act);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_with_the_fields_of_its_spans() {
        let text = logged("another", || {
            let _outer = tracing::info_span!("create", sandbox = "s1", container = "c1", exec = "").entered();
            tracing::info!(phase = "vm-start", ms = 12.3456, "phase");
            tracing::warn!(error = %"two\nlines \"quoted\"", path = "/a=b", "odd but survived");
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("time=\"2"), "{text}");
        assert!(
            lines[0].ends_with("level=info msg=phase phase=vm-start ms=12.346 sandbox=s1 container=c1"),
            "{text}"
        );
        let second =
            r#"level=warning msg="odd but survived" error="two\nlines \"quoted\"" path="/a=b" sandbox=s1"#;
        assert!(lines[1].contains(second), "{text}");
    }

    #[test]
    fn every_line_has_its_sandbox_once() {
        let act = || {
            tracing::info!("one");
            tracing::info!(sandbox = "s2", "two");
            let _span = tracing::info_span!("call", sandbox = "s3").entered();
            tracing::info!("three");
        };
        let ends = |text: &str| {
            let ends = text.lines().map(|line| line.split_once("msg=").map_or("", |(_, end)| end).to_owned());
            ends.collect::<Vec<_>>()
        };
        assert_eq!(ends(&logged("s1", act)), ["one sandbox=s1", "two sandbox=s2", "three sandbox=s3"]);
        assert_eq!(ends(&logged("", act))[0], "one");
    }

    #[test]
    fn a_full_fifo_drops_lines_and_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open_fifo(dir.path()).is_none());
        mkfifo(&dir.path().join(FIFO), Mode::S_IRWXU).unwrap();
        let mut sink = Sink(Arc::new(open_fifo(dir.path()).unwrap()));
        let line = [b'x'; 4096];
        for _ in 0..64 {
            sink.write_all(&line).unwrap();
        }
        let mut reader = open_fifo(dir.path()).unwrap();
        let mut kept = 0;
        let mut block = [0; 4096];
        while let Ok(length) = reader.read(&mut block) {
            kept += length;
        }
        assert!(kept > 0 && kept < 64 * 4096, "{kept} bytes kept");
    }

    #[test]
    fn a_plain_file_called_log_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FIFO), "theirs").unwrap();
        assert!(open_fifo(dir.path()).is_none());
    }
}
