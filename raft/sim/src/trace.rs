//! What happened, line by line: the same bytes for the same seed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::dice::mix;

/// Lines kept for the report of a failure.
const RECENT: usize = 60;

/// The trace of one run. Clones share it.
#[derive(Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    now_ms: u64,
    lines: u64,
    hash: u64,
    recent: VecDeque<String>,
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// A trace that is also written to a file, if one is named.
    ///
    /// # Errors
    ///
    /// The file cannot be created.
    pub fn new(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?.map(BufWriter::new);
        let inner = Inner { now_ms: 0, lines: 0, hash: 0, recent: VecDeque::new(), file };
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    /// True time moves on, in milliseconds since the run began.
    pub fn set_now(&self, now_ms: u64) {
        self.lock().now_ms = now_ms;
    }

    /// The true time, in milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    /// Notes that something happened.
    pub fn note(&self, what: impl AsRef<str>) {
        let mut inner = self.lock();
        let line = format!("{:>8} {}", inner.now_ms, what.as_ref());
        inner.lines += 1;
        inner.hash = line.bytes().fold(inner.hash, |hash, byte| mix(hash ^ u64::from(byte)));
        if let Some(file) = &mut inner.file {
            // A trace that cannot be written is noticed when it is closed.
            let _ = writeln!(file, "{line}");
        }
        if inner.recent.len() == RECENT {
            inner.recent.pop_front();
        }
        inner.recent.push_back(line);
    }

    /// Ends the trace: the number of lines, a hash over all of them, and the last ones.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub fn finish(&self) -> io::Result<(u64, u64, Vec<String>)> {
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file {
            file.flush()?;
        }
        Ok((inner.lines, inner.hash, inner.recent.iter().cloned().collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}
