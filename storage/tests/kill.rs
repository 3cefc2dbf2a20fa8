//! A process is killed with SIGKILL while it writes. Whatever it acknowledged is there afterwards, and what is there
//! is a prefix of whole batches.
//!
//! The process is this test binary itself, started again with an environment variable that makes one of its tests
//! the writer.

#![cfg(feature = "rocksdb")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tarn_storage::{Batch, Durability, Engine, JournalEngine, Keyspace, Profile, Range, RocksEngine, RocksOptions, StorageError};

const DATA: Keyspace = Keyspace::new("data");
const COUNT: Keyspace = Keyspace::new("count");

/// Where the writer writes; a process without it is no writer.
const DIRECTORY: &str = "TARN_TEST_KILL_DIRECTORY";
const DURABILITY: &str = "TARN_TEST_KILL_DURABILITY";
const ENGINE: &str = "TARN_TEST_KILL_ENGINE";

fn open(path: &Path, engine: &str) -> Result<Box<dyn Engine>, StorageError> {
    let keyspaces = &[DATA, COUNT];
    Ok(match engine {
        "journal" => Box::new(JournalEngine::open(path, keyspaces)?),
        "state" => Box::new(RocksEngine::open(path, RocksOptions { keyspaces, profile: Profile::State })?),
        _ => Box::new(RocksEngine::open(path, RocksOptions { keyspaces, profile: Profile::Log })?),
    })
}

/// How many batches there are; panics if they are not a prefix of whole batches.
fn batches_in(engine: &dyn Engine) -> u64 {
    let count = engine.get(COUNT, b"").unwrap().map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
    let mut keys = engine.scan(DATA, Range::all()).map(|entry| entry.unwrap().0);
    for number in 1..=count {
        assert_eq!(keys.next(), Some(number.to_be_bytes().to_vec()), "no batch is missing");
    }
    assert_eq!(keys.next(), None, "no batch is torn");
    count
}

/// The writer: continues where the data end, and prints each number once it is acknowledged. It never ends by itself.
#[test]
fn the_writer() {
    let Some(path) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let durability = match std::env::var(DURABILITY).as_deref() {
        Ok("synced") => Durability::Synced,
        _ => Durability::Buffered,
    };
    let engine = open(Path::new(&path), &std::env::var(ENGINE).unwrap()).unwrap();
    let first = batches_in(engine.as_ref()) + 1;
    for number in first.. {
        let mut batch = Batch::new();
        batch.put(DATA, number.to_be_bytes(), vec![number as u8; 3000]);
        batch.put(COUNT, b"", number.to_be_bytes());
        engine.write(batch, durability).unwrap();
        // When the parent has gone, nobody will kill this process: the error ends it.
        writeln!(std::io::stdout(), "acknowledged {number}").unwrap();
    }
}

/// A writer whose end is certain, also when the test fails.
struct Writer(Child);

impl Writer {
    fn start(path: &Path, engine: &str, durability: &str) -> Self {
        let binary: PathBuf = std::env::current_exe().unwrap();
        let child = Command::new(binary)
            .args(["the_writer", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, path)
            .env(DURABILITY, durability)
            .env(ENGINE, engine)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number that a line acknowledges. The test harness prints lines of its own, and may leave one unfinished before
/// the first of ours.
fn acknowledged(line: &str) -> Option<u64> {
    line.split("acknowledged ").nth(1)?.parse().ok()
}

fn kill_and_look(engine: &str, durability: &str) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let mut last = 0;
    for kill_after in [1, 40, 333] {
        let mut writer = Writer::start(&path, engine, durability);
        let mut lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < kill_after {
            let line = lines.next().expect("the writer writes on").unwrap();
            if let Some(number) = acknowledged(&line) {
                last = number;
                seen += 1;
            }
        }
        let error = open(&path, engine).err().expect("the writer holds the directory");
        assert!(matches!(error, StorageError::Locked { .. }), "{error:?}");

        writer.0.kill().unwrap();
        writer.0.wait().unwrap();
        // What was acknowledged between the last line read and the kill is still in the pipe. The very last line may
        // be cut off, and a cut-off number is smaller than the real one, so it can only make the test milder.
        let rest = lines.map_while(Result::ok).filter_map(|line| acknowledged(&line));
        last = rest.fold(last, u64::max);

        let found = batches_in(open(&path, engine).unwrap().as_ref());
        assert!(found >= last, "{last} was acknowledged and only {found} is there");
        // One batch may have been written and not yet acknowledged, no more.
        assert!(found <= last + 1, "{found} is there and only {last} was acknowledged");
    }
}

#[test]
fn what_was_synced_survives_a_kill() {
    ["journal", "rocksdb", "state"].iter().for_each(|engine| kill_and_look(engine, "synced"));
}

#[test]
fn what_was_buffered_survives_a_kill_too() {
    ["journal", "rocksdb"].iter().for_each(|engine| kill_and_look(engine, "buffered"));
}
