//! The suite that states what every [`Engine`] promises. Both engines of this crate pass it, and so must any wrapper.
//!
//! An engine under test is set up by a [`Bench`], which knows where its data are and can open them again.
//! [`run`] takes a function that makes a fresh bench for each check.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::{Batch, Direction, Durability, Engine, Keyspace, Op, Range, Scan, StorageError, prefix_end};

const A: Keyspace = Keyspace::new("a");
const B: Keyspace = Keyspace::new("b");
const MISSING: Keyspace = Keyspace::new("missing");

/// The keyspaces with which an engine under test must be opened, these and no others.
pub const KEYSPACES: &[Keyspace] = &[A, B];

/// One place where an engine under test keeps its data.
pub trait Bench {
    /// Opens the data of this bench: empty the first time, afterwards what the engine opened before has left. All
    /// handles to that one have been dropped.
    ///
    /// # Errors
    ///
    /// What the engine returns.
    fn open(&mut self) -> Result<Arc<dyn Engine>, StorageError>;

    /// Opens a checkpoint as an engine of its own.
    ///
    /// # Errors
    ///
    /// What the engine returns.
    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Engine>, StorageError>;

    /// An existing directory of the bench's own, for checkpoints.
    fn scratch(&self) -> &Path;
}

type Check = fn(&mut dyn Bench);

/// All checks by name, for those who want to run them one by one.
pub const CHECKS: &[(&str, Check)] = &[
    ("an empty engine is empty", empty_engine),
    ("a write is read back at once", read_your_writes),
    ("keys are ordered as unsigned bytes", byte_order),
    ("ranges hold their start and not their end", ranges),
    ("scans run backwards too", reverse_scans),
    ("keys and values may be empty", empty_keys_and_values),
    ("values of a megabyte are kept", large_values),
    ("later operations of a batch win", order_within_a_batch),
    ("a range is deleted, and nothing beside it", delete_range),
    ("a delete_range sees the operations before it", delete_range_within_a_batch),
    ("an empty delete_range deletes nothing", delete_empty_range),
    ("keyspaces are separate", separate_keyspaces),
    ("an unknown keyspace is refused before anything is written", unknown_keyspace),
    ("an empty batch is accepted", empty_batch),
    ("a scan sees one moment", scan_is_a_snapshot),
    ("a reader never sees half a batch", concurrent_reader),
    ("concurrent writers lose nothing", concurrent_writers),
    ("everything is there after a reopen", reopen),
    ("a checkpoint is complete and on its own", checkpoint_isolation),
    ("a checkpoint overwrites nothing", checkpoint_refuses_existing),
    ("a checkpoint of an empty engine opens", checkpoint_of_nothing),
    ("random batches agree with an ordered map", random_against_model),
];

/// Runs every check, each on a fresh bench.
///
/// # Panics
///
/// If a check fails. The name of the failing check is the last one on the standard error stream.
pub fn run(mut fresh: impl FnMut() -> Box<dyn Bench>) {
    for (name, check) in CHECKS {
        eprintln!("conformance: {name}");
        check(&mut *fresh());
    }
}

fn open(bench: &mut dyn Bench) -> Arc<dyn Engine> {
    bench.open().expect("the engine opens")
}

fn write(engine: &dyn Engine, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    engine.write(batch, Durability::Buffered).expect("the batch is written");
}

fn get(engine: &dyn Engine, keyspace: Keyspace, key: &[u8]) -> Option<Vec<u8>> {
    engine.get(keyspace, key).expect("the key is read")
}

fn entries(scan: Scan<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    scan.collect::<Result<_, _>>().expect("the scan succeeds")
}

fn keys(engine: &dyn Engine, keyspace: Keyspace, range: Range<'_>) -> Vec<Vec<u8>> {
    entries(engine.scan(keyspace, range)).into_iter().map(|(key, _)| key).collect()
}

/// Fills keyspace `a` with one entry for each key, all with the value `v`.
fn fill(engine: &dyn Engine, keys: &[&[u8]]) {
    write(engine, |batch| {
        for key in keys {
            batch.put(A, key, b"v");
        }
    });
}

fn empty_engine(bench: &mut dyn Bench) {
    let engine = open(bench);
    assert_eq!(get(&*engine, A, b"x"), None);
    assert!(keys(&*engine, A, Range::all()).is_empty());
    assert!(keys(&*engine, A, Range::all().reversed()).is_empty());
    engine.sync().expect("there is nothing to sync, and that is well");
}

fn read_your_writes(bench: &mut dyn Bench) {
    let engine = open(bench);
    for durability in [Durability::Buffered, Durability::Synced] {
        let mut batch = Batch::new();
        batch.put(A, b"k", format!("{durability:?}"));
        engine.write(batch, durability).expect("the batch is written");
        let expected = format!("{durability:?}").into_bytes();
        assert_eq!(get(&*engine, A, b"k"), Some(expected.clone()));
        assert_eq!(entries(engine.scan(A, Range::all())), [(b"k".to_vec(), expected)]);
    }
    write(&*engine, |batch| batch.delete(A, b"k"));
    assert_eq!(get(&*engine, A, b"k"), None);
    write(&*engine, |batch| batch.delete(A, b"k"));
}

fn byte_order(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"\xff\xff", b"b", b"\x80", b"a\x00", b"\xff", b"a", b"\x00", b"ab", b"\x7f"]);
    let expected: [&[u8]; 9] = [b"\x00", b"a", b"a\x00", b"ab", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\xff"];
    assert_eq!(keys(&*engine, A, Range::all()), expected);
}

fn ranges(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"a", b"b", b"ba", b"c", b"\xff", b"\xff\xff"]);
    let scanned = |range: Range<'_>| keys(&*engine, A, range);
    assert_eq!(scanned(Range::between("b", "c")), [b"b".to_vec(), b"ba".to_vec()]);
    assert_eq!(scanned(Range::between("aa", "c")), [b"b".to_vec(), b"ba".to_vec()]);
    assert_eq!(scanned(Range::starting_at("c")).len(), 3);
    assert_eq!(scanned(Range::starting_at(b"\xff\xff\xff")).len(), 0);
    assert_eq!(scanned(Range::between("", "b")), [b"a".to_vec()]);
    assert_eq!(scanned(Range::prefix("b")), [b"b".to_vec(), b"ba".to_vec()]);
    assert_eq!(scanned(Range::prefix(b"\xff")).len(), 2);
    assert_eq!(scanned(Range::prefix("")).len(), 6);
    assert!(scanned(Range::between("c", "c")).is_empty());
    assert!(scanned(Range::between("c", "a")).is_empty());
}

fn reverse_scans(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"", b"a", b"b", b"ba", b"c", b"\xff", b"\xff\xff"]);
    for range in [
        Range::all(),
        Range::between("b", "c"),
        Range::between("aa", "bb"),
        Range::between("", "a"),
        Range::starting_at("ba"),
        Range::prefix("b"),
        Range::prefix(b"\xff"),
        Range::between("c", "a"),
        Range::between("x", "y"),
    ] {
        let mut backwards = keys(&*engine, A, range.clone().reversed());
        backwards.reverse();
        assert_eq!(backwards, keys(&*engine, A, range.clone()), "{range:?}");
    }
    let last = engine.scan(A, Range::prefix("b").reversed()).next();
    assert_eq!(last.expect("there is one").expect("it is read").0, b"ba");
}

fn empty_keys_and_values(bench: &mut dyn Bench) {
    let engine = open(bench);
    write(&*engine, |batch| {
        batch.put(A, b"", b"under the empty key");
        batch.put(A, b"k", b"");
    });
    assert_eq!(get(&*engine, A, b"").as_deref(), Some(&b"under the empty key"[..]));
    assert_eq!(get(&*engine, A, b"k"), Some(Vec::new()));
    assert_eq!(keys(&*engine, A, Range::all()), [b"".to_vec(), b"k".to_vec()]);
    write(&*engine, |batch| batch.delete(A, b""));
    assert_eq!(keys(&*engine, A, Range::all()), [b"k".to_vec()]);
}

fn large_values(bench: &mut dyn Bench) {
    let engine = open(bench);
    let value: Vec<u8> = Random(7).bytes(1 << 20);
    // Enough of them to fill an engine's buffers, so that some are read from disk and some from memory.
    for number in 0..24u8 {
        write(&*engine, |batch| batch.put(A, [number], &value));
    }
    for number in 0..24u8 {
        assert_eq!(get(&*engine, A, &[number]).as_ref(), Some(&value));
    }
    assert_eq!(engine.scan(A, Range::all()).count(), 24);
}

fn order_within_a_batch(bench: &mut dyn Bench) {
    let engine = open(bench);
    write(&*engine, |batch| {
        batch.put(A, b"x", b"1");
        batch.put(A, b"x", b"2");
        batch.put(A, b"y", b"1");
        batch.delete(A, b"y");
        batch.delete(A, b"z");
        batch.put(A, b"z", b"1");
    });
    let expected = [(b"x".to_vec(), b"2".to_vec()), (b"z".to_vec(), b"1".to_vec())];
    assert_eq!(entries(engine.scan(A, Range::all())), expected);
}

fn delete_range(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"a", b"b", b"ba", b"bb", b"c", b"d"]);
    write(&*engine, |batch| batch.put(B, b"b", b"another keyspace"));
    write(&*engine, |batch| batch.delete_range(A, b"b", b"c"));
    assert_eq!(keys(&*engine, A, Range::all()), [b"a".to_vec(), b"c".to_vec(), b"d".to_vec()]);
    assert_eq!(get(&*engine, A, b"ba"), None);
    assert_eq!(get(&*engine, B, b"b").as_deref(), Some(&b"another keyspace"[..]));
    // What is written after the deletion stays.
    fill(&*engine, &[b"ba"]);
    assert_eq!(get(&*engine, A, b"ba").as_deref(), Some(&b"v"[..]));
    assert_eq!(keys(&*engine, A, Range::prefix("b").reversed()), [b"ba".to_vec()]);
}

fn delete_range_within_a_batch(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"k0"]);
    write(&*engine, |batch| {
        batch.put(A, b"k1", b"before");
        batch.delete_range(A, b"k", b"l");
        batch.put(A, b"k2", b"after");
    });
    assert_eq!(keys(&*engine, A, Range::all()), [b"k2".to_vec()]);
}

fn delete_empty_range(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"a", b"b", b"c"]);
    write(&*engine, |batch| {
        batch.delete_range(A, b"b", b"b");
        batch.delete_range(A, b"c", b"a");
        batch.delete_range(A, b"x", b"z");
        batch.put(A, b"d", b"v");
    });
    assert_eq!(keys(&*engine, A, Range::all()).len(), 4);
}

fn separate_keyspaces(bench: &mut dyn Bench) {
    let engine = open(bench);
    write(&*engine, |batch| {
        batch.put(A, b"k", b"a");
        batch.put(B, b"k", b"b");
    });
    write(&*engine, |batch| batch.delete(A, b"k"));
    assert_eq!(get(&*engine, A, b"k"), None);
    assert_eq!(get(&*engine, B, b"k").as_deref(), Some(&b"b"[..]));
}

fn unknown_keyspace(bench: &mut dyn Bench) {
    let engine = open(bench);
    let refused = |error: StorageError| {
        assert!(matches!(&error, StorageError::UnknownKeyspace { keyspace } if keyspace == "missing"), "{error:?}");
    };
    refused(engine.get(MISSING, b"k").expect_err("a read is refused"));

    let mut scan = engine.scan(MISSING, Range::all());
    refused(scan.next().expect("there is an item").expect_err("and it is the refusal"));
    assert!(scan.next().is_none(), "nothing follows the refusal");

    let mut batch = Batch::new();
    batch.put(A, b"k", b"v");
    batch.put(MISSING, b"k", b"v");
    refused(engine.write(batch, Durability::Synced).expect_err("a write is refused"));
    assert_eq!(get(&*engine, A, b"k"), None, "nothing of a refused batch is written");
}

fn empty_batch(bench: &mut dyn Bench) {
    let engine = open(bench);
    for durability in [Durability::Buffered, Durability::Synced] {
        engine.write(Batch::new(), durability).expect("an empty batch is written");
    }
    assert!(keys(&*engine, A, Range::all()).is_empty());
}

fn scan_is_a_snapshot(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"a", b"b", b"c"]);
    let mut forwards = engine.scan(A, Range::all());
    let backwards = engine.scan(A, Range::all().reversed());
    forwards.next();
    write(&*engine, |batch| {
        batch.delete(A, b"b");
        batch.put(A, b"bb", b"new");
        batch.put(A, b"c", b"changed");
    });
    let rest = [(b"b".to_vec(), b"v".to_vec()), (b"c".to_vec(), b"v".to_vec())];
    assert_eq!(entries(forwards), rest);
    assert_eq!(entries(backwards).len(), 3);
    assert_eq!(keys(&*engine, A, Range::all()), [b"a".to_vec(), b"bb".to_vec(), b"c".to_vec()]);
}

fn concurrent_reader(bench: &mut dyn Bench) {
    const ROUNDS: u32 = 300;
    const WIDTH: u8 = 8;
    let engine = open(bench);
    let done = AtomicBool::new(false);
    let round = |number: u32| {
        let mut batch = Batch::new();
        for key in 0..WIDTH {
            batch.put(A, [key], number.to_be_bytes());
        }
        engine.write(batch, Durability::Buffered).expect("the batch is written");
    };
    round(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = Vec::new();
            let mut looks = 0u32;
            while !done.load(Ordering::Acquire) || looks == 0 {
                let seen = entries(engine.scan(A, Range::all()));
                assert_eq!(seen.len(), usize::from(WIDTH));
                assert!(seen.iter().all(|entry| entry.1 == seen[0].1), "a batch is seen whole: {seen:?}");
                assert!(seen[0].1 >= last, "time does not run backwards");
                last = seen[0].1.clone();
                looks += 1;
            }
        });
        for number in 1..=ROUNDS {
            round(number);
        }
        done.store(true, Ordering::Release);
        reader.join().expect("the reader found nothing wrong");
    });
}

fn concurrent_writers(bench: &mut dyn Bench) {
    const WRITERS: u8 = 4;
    const WRITES: u8 = 50;
    let engine = open(bench);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let engine = &engine;
            scope.spawn(move || {
                for number in 0..WRITES {
                    let mut batch = Batch::new();
                    batch.put(A, [writer, number], b"v");
                    let durability = if number % 10 == 0 { Durability::Synced } else { Durability::Buffered };
                    engine.write(batch, durability).expect("the batch is written");
                }
            });
        }
    });
    let expected = usize::from(WRITERS) * usize::from(WRITES);
    assert_eq!(keys(&*engine, A, Range::all()).len(), expected);
}

fn reopen(bench: &mut dyn Bench) {
    for round in 0..4u8 {
        let engine = open(bench);
        for earlier in 0..round {
            assert_eq!(get(&*engine, A, &[earlier]).as_deref(), Some(&b"v"[..]));
            assert_eq!(get(&*engine, B, &[earlier]), None);
        }
        write(&*engine, |batch| {
            batch.put(A, [round], b"v");
            batch.put(B, [round], b"v");
        });
        write(&*engine, |batch| batch.delete_range(B, [0], [round + 1]));
        if round % 2 == 0 {
            engine.sync().expect("the engine syncs");
        }
    }
}

fn checkpoint_isolation(bench: &mut dyn Bench) {
    let engine = open(bench);
    fill(&*engine, &[b"a", b"b"]);
    write(&*engine, |batch| {
        batch.put(B, b"x", b"v");
        batch.delete(A, b"b");
    });
    let dir = bench.scratch().join("checkpoint");
    engine.checkpoint(&dir).expect("the checkpoint is made");
    write(&*engine, |batch| {
        batch.put(A, b"later", b"v");
        batch.delete_range(B, b"", b"z");
    });

    let copy = bench.open_checkpoint(&dir).expect("the checkpoint opens");
    assert_eq!(keys(&*copy, A, Range::all()), [b"a".to_vec()]);
    assert_eq!(keys(&*copy, B, Range::all()), [b"x".to_vec()]);
    write(&*copy, |batch| batch.put(A, b"only in the copy", b"v"));
    assert_eq!(get(&*engine, A, b"only in the copy"), None);
    assert_eq!(keys(&*engine, A, Range::all()), [b"a".to_vec(), b"later".to_vec()]);
    assert!(keys(&*engine, B, Range::all()).is_empty());
}

fn checkpoint_refuses_existing(bench: &mut dyn Bench) {
    let engine = open(bench);
    let dir = bench.scratch().join("checkpoint");
    engine.checkpoint(&dir).expect("the first checkpoint is made");
    fill(&*engine, &[b"a"]);
    let error = engine.checkpoint(&dir).expect_err("the second is refused");
    assert!(matches!(error, StorageError::AlreadyExists { .. }), "{error:?}");
    assert!(!error.must_stop_node());
    let copy = bench.open_checkpoint(&dir).expect("the first is unharmed");
    assert!(keys(&*copy, A, Range::all()).is_empty());
    engine.checkpoint(&bench.scratch().join("another")).expect("another place is well");
}

fn checkpoint_of_nothing(bench: &mut dyn Bench) {
    let engine = open(bench);
    let dir = bench.scratch().join("checkpoint");
    engine.checkpoint(&dir).expect("the checkpoint is made");
    drop(engine);
    let copy = bench.open_checkpoint(&dir).expect("the checkpoint opens");
    assert!(keys(&*copy, A, Range::all()).is_empty());
}

type Model = BTreeMap<Keyspace, BTreeMap<Vec<u8>, Vec<u8>>>;

fn random_against_model(bench: &mut dyn Bench) {
    let mut random = Random(2026);
    let mut model = Model::new();
    let mut engine = open(bench);
    for round in 0..300 {
        let batch = random.batch();
        apply_to_model(&mut model, &batch);
        let durability = if random.below(20) == 0 { Durability::Synced } else { Durability::Buffered };
        engine.write(batch, durability).expect("the batch is written");
        compare(&*engine, &model, &mut random);
        if round % 100 == 99 {
            drop(engine);
            engine = open(bench);
        }
    }
}

fn apply_to_model(model: &mut Model, batch: &Batch) {
    for op in batch {
        match op {
            Op::Put { keyspace, key, value } => {
                model.entry(keyspace).or_default().insert(key.to_vec(), value.to_vec());
            }
            Op::Delete { keyspace, key } => {
                model.entry(keyspace).or_default().remove(key);
            }
            Op::DeleteRange { keyspace, start, end } => {
                model.entry(keyspace).or_default().retain(|key, _| !(key.as_slice() >= start && key.as_slice() < end));
            }
        }
    }
}

/// Reads one random key and one random range, and compares them with the model.
fn compare(engine: &dyn Engine, model: &Model, random: &mut Random) {
    let empty = BTreeMap::new();
    let keyspace = random.keyspace();
    let map = model.get(&keyspace).unwrap_or(&empty);

    let key = random.key();
    assert_eq!(get(engine, keyspace, &key).as_ref(), map.get(&key), "key {key:?} of {keyspace}");

    let (start, end) = (random.key(), random.key());
    let mut range = match random.below(4) {
        0 => Range::all(),
        1 => Range::starting_at(&start),
        2 => Range::prefix(&start),
        _ => Range::between(&start, &end),
    };
    if random.below(2) == 0 {
        range = range.reversed();
    }
    let mut expected: Vec<_> = map.iter().filter(|(key, _)| range.contains(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    if range.direction() == Direction::Descending {
        expected.reverse();
    }
    assert_eq!(entries(engine.scan(keyspace, range.clone())), expected, "{range:?} of {keyspace}");
}

/// A small generator (splitmix64), so that the suite needs no dependency and every run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Up to three bytes from a small alphabet, so that keys collide and are prefixes of each other.
    fn key(&mut self) -> Vec<u8> {
        let len = self.below(4);
        (0..len).map(|_| [0, b'a', b'b', 0xff][self.below(4) as usize]).collect()
    }

    fn keyspace(&mut self) -> Keyspace {
        KEYSPACES[self.below(KEYSPACES.len() as u64) as usize]
    }

    fn batch(&mut self) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..self.below(6) {
            let (keyspace, key) = (self.keyspace(), self.key());
            match self.below(10) {
                0..=6 => {
                    let len = self.below(40) as usize;
                    batch.put(keyspace, key, self.bytes(len));
                }
                7..=8 => batch.delete(keyspace, key),
                _ => match prefix_end(&key) {
                    Some(end) => batch.delete_range(keyspace, key, end),
                    None => batch.delete_range(keyspace, self.key(), key),
                },
            }
        }
        batch
    }
}
