//! What a trace consists of. Times are milliseconds since `ctr` was started.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Track {
    Ctr,
    Containerd,
    Shim,
    Qemu,
    Kernel,
    Agent,
}

impl Track {
    pub const ALL: [Self; 6] =
        [Self::Ctr, Self::Containerd, Self::Shim, Self::Qemu, Self::Kernel, Self::Agent];

    pub fn label(self) -> &'static str {
        match self {
            Self::Ctr => "ctr",
            Self::Containerd => "containerd",
            Self::Shim => "shim",
            Self::Qemu => "qemu",
            Self::Kernel => "guest kernel",
            Self::Agent => "agent",
        }
    }
}

/// Something that took time, or with `end` equal to `begin` a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub track: Track,
    pub name: String,
    pub begin: f64,
    pub end: f64,
}

#[derive(Debug, Default)]
pub struct Trace {
    /// In the order of their beginning.
    pub spans: Vec<Span>,
}

impl Span {
    pub fn moment(track: Track, name: impl Into<String>, at: f64) -> Self {
        Self { track, name: name.into(), begin: at, end: at }
    }

    pub fn is_moment(&self) -> bool {
        self.end <= self.begin
    }
}

impl Trace {
    pub fn of(mut spans: Vec<Span>) -> Self {
        // Of those that begin together the longest is around the others.
        spans.sort_by(|a, b| a.begin.total_cmp(&b.begin).then(b.end.total_cmp(&a.end)));
        Self { spans }
    }

    pub fn end(&self) -> f64 {
        self.spans.iter().map(|span| span.end).fold(0.0, f64::max)
    }
}
