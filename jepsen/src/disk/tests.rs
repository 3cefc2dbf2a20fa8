//! Disks that are mounted, used like any other, and made to fail. Each test says why when it is skipped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

struct Bench {
    disk: FaultyDisk,
    rng: StdRng,
    root: PathBuf,
    // Dropped last: the disk is mounted in it.
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Self> {
        Self::with(Promise::Posix, |_| {})
    }

    fn with(promise: Promise, prepare: impl FnOnce(&Path)) -> Option<Self> {
        if let Err(reason) = available() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let backing = folder.path().join("backing");
        fs::create_dir(&backing).unwrap();
        prepare(&backing);
        let disk = FaultyDisk::mount_with(&backing, &folder.path().join("disk"), promise).unwrap();
        Some(Self {
            root: disk.path().to_owned(),
            disk,
            rng: StdRng::seed_from_u64(7),
            folder,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }

    /// Writes a file, and syncs it and its folder.
    fn durable(&self, name: &str, text: &str) {
        let path = self.at(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        sync_folder(path.parent().unwrap());
    }

    fn cut(&mut self) -> Loss {
        self.disk.lose_unsynced(Survival::Nothing, &mut self.rng).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.disk
            .files("**")
            .into_iter()
            .map(|(path, _)| path.display().to_string())
            .collect()
    }
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn errors(operation: Operation, how: How) -> Option<IoErrors> {
    Some(IoErrors {
        operations: vec![operation],
        files: "**".to_owned(),
        how,
    })
}

#[test]
fn what_was_not_synced_is_lost() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "old content");
    fs::write(bench.at("a"), "new").unwrap();
    fs::write(bench.at("b"), "never synced").unwrap();
    assert_eq!(bench.read("a").as_deref(), Some("new"));
    assert_eq!(bench.disk.unsynced(), Unsynced { files: 2, names: 1 });
    let loss = bench.cut();
    assert_eq!((loss.files, loss.names, loss.kept), (2, 1, 0));
    assert_eq!(bench.read("a").as_deref(), Some("old content"));
    assert_eq!(bench.names(), ["a"]);
    assert_eq!(bench.cut(), Loss::default(), "nothing is left to lose");
}

#[test]
fn what_was_synced_stays() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "0123456789");
    let file = OpenOptions::new().write(true).open(bench.at("a")).unwrap();
    file.write_all_at(b"xx", 2).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"yy", 2).unwrap();
    file.write_all_at(b"zz", 20).unwrap();
    file.set_len(5).unwrap();
    drop(file);
    assert_eq!(bench.read("a").as_deref(), Some("01yy4"));
    bench.cut();
    assert_eq!(bench.read("a").as_deref(), Some("01xx456789"));
}

#[test]
fn a_file_opened_for_synchronous_writes_needs_no_sync() {
    let Some(mut bench) = Bench::new() else { return };
    for (name, flags) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        bench.durable(name, "");
        let mut file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(bench.at(name))
            .unwrap();
        file.write_all(b"kept").unwrap();
    }
    bench.cut();
    assert_eq!(
        (bench.read("sync").as_deref(), bench.read("dsync").as_deref()),
        (Some("kept"), Some("kept"))
    );
}

#[test]
fn random_writes_come_back_as_they_were_synced() {
    use rand::Rng as _;
    let Some(mut bench) = Bench::new() else { return };
    let mut rng = StdRng::seed_from_u64(11);
    bench.durable("a", "");
    let mut durable: Vec<u8> = Vec::new();
    for _ in 0..40 {
        let mut now = durable.clone();
        let file = OpenOptions::new().read(true).write(true).open(bench.at("a")).unwrap();
        for _ in 0..rng.random_range(1..12) {
            match rng.random_range(0..10) {
                0 => {
                    let size = rng.random_range(0..9000);
                    now.resize(size, 0);
                    file.set_len(size as u64).unwrap();
                }
                1 | 2 => {
                    file.sync_all().unwrap();
                    durable.clone_from(&now);
                }
                _ => {
                    let (at, byte) = (rng.random_range(0..8000), rng.random());
                    let bytes = vec![byte; rng.random_range(1..1500)];
                    now.resize(now.len().max(at + bytes.len()), 0);
                    now[at..at + bytes.len()].copy_from_slice(&bytes);
                    file.write_all_at(&bytes, at as u64).unwrap();
                }
            }
        }
        drop(file);
        assert!(
            fs::read(bench.at("a")).unwrap() == now,
            "processes see something else than they wrote"
        );
        bench.cut();
        assert!(
            fs::read(bench.at("a")).unwrap() == durable,
            "the disk has something else than was synced"
        );
    }
}

#[test]
fn a_name_is_durable_once_its_folder_is() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "a");
    bench.durable("b", "b");
    File::create(bench.at("new")).unwrap().sync_all().unwrap();
    fs::remove_file(bench.at("a")).unwrap();
    fs::rename(bench.at("b"), bench.at("c")).unwrap();
    bench.cut();
    assert_eq!(bench.names(), ["a", "b"]);
    assert_eq!(
        (bench.read("a").as_deref(), bench.read("b").as_deref()),
        (Some("a"), Some("b"))
    );

    fs::remove_file(bench.at("a")).unwrap();
    fs::rename(bench.at("b"), bench.at("c")).unwrap();
    sync_folder(&bench.root);
    bench.cut();
    assert_eq!(bench.names(), ["c"]);
    assert_eq!(bench.read("c").as_deref(), Some("b"));
}

#[test]
fn replacing_by_rename_needs_the_content_and_the_folder_synced() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("CURRENT", "one");
    let replace = |bench: &Bench, text: &str, sync_file: bool| {
        let mut file = File::create(bench.at("temporary")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        if sync_file {
            file.sync_all().unwrap();
        }
        drop(file);
        fs::rename(bench.at("temporary"), bench.at("CURRENT")).unwrap();
    };
    replace(&bench, "two", true);
    assert_eq!(bench.read("CURRENT").as_deref(), Some("two"));
    bench.cut();
    assert_eq!(
        (bench.names(), bench.read("CURRENT").as_deref()),
        (vec!["CURRENT".to_owned()], Some("one"))
    );

    replace(&bench, "three", false);
    sync_folder(&bench.root);
    bench.cut();
    assert_eq!(
        bench.read("CURRENT").as_deref(),
        Some(""),
        "the name is new, its content never came"
    );

    replace(&bench, "four", true);
    sync_folder(&bench.root);
    bench.cut();
    assert_eq!(bench.read("CURRENT").as_deref(), Some("four"));
}

#[test]
fn the_names_of_a_rename_between_folders_are_durable_together() {
    let Some(mut bench) = Bench::new() else { return };
    for folder in ["from", "to"] {
        fs::create_dir(bench.at(folder)).unwrap();
    }
    sync_folder(&bench.root);
    bench.durable("from/a", "a");
    fs::rename(bench.at("from/a"), bench.at("to/b")).unwrap();
    sync_folder(&bench.at("to"));
    bench.cut();
    assert_eq!(bench.names(), ["to/b"]);
    fs::rename(bench.at("to/b"), bench.at("from/c")).unwrap();
    bench.cut();
    assert_eq!(
        (bench.names(), bench.read("to/b").as_deref()),
        (vec!["to/b".to_owned()], Some("a"))
    );
}

#[test]
fn folders_come_back_with_what_was_in_them() {
    let Some(mut bench) = Bench::new() else { return };
    fs::create_dir(bench.at("old")).unwrap();
    sync_folder(&bench.root);
    bench.durable("old/a", "a");
    fs::create_dir(bench.at("new")).unwrap();
    bench.durable("new/b", "its folder has no durable name");
    fs::remove_dir_all(bench.at("old")).unwrap();
    bench.cut();
    assert_eq!(
        (bench.names(), bench.read("old/a").as_deref()),
        (vec!["old/a".to_owned()], Some("a"))
    );
    assert_eq!(fs::read_dir(&bench.root).unwrap().count(), 1);

    fs::rename(bench.at("old"), bench.at("renamed")).unwrap();
    bench.cut();
    assert_eq!(bench.names(), ["old/a"]);
    fs::rename(bench.at("old"), bench.at("renamed")).unwrap();
    sync_folder(&bench.root);
    bench.cut();
    assert_eq!(bench.names(), ["renamed/a"]);
}

#[test]
fn under_a_journal_any_sync_makes_all_names_durable() {
    let Some(mut bench) = Bench::with(Promise::Journal, |_| {}) else {
        return;
    };
    fs::create_dir(bench.at("folder")).unwrap();
    fs::write(bench.at("folder/a"), "no data were synced").unwrap();
    File::create(bench.at("b")).unwrap().sync_all().unwrap();
    fs::write(bench.at("c"), "").unwrap();
    bench.cut();
    assert_eq!(bench.names(), ["b", "folder/a"]);
    assert_eq!(bench.read("folder/a").as_deref(), Some(""));
}

#[test]
fn the_last_write_is_torn() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("log", &"-".repeat(100));
    bench.durable("other", "");
    append(&bench.at("other"), &[b'o'; 4000]).unwrap();
    for letter in [b'a', b'b'] {
        append(&bench.at("log"), &[letter; 4000]).unwrap();
    }
    let loss = bench.disk.lose_unsynced(Survival::Torn, &mut bench.rng).unwrap();
    assert_eq!(loss.torn.as_deref(), Some(Path::new("log")));
    let log = fs::read(bench.at("log")).unwrap();
    assert_eq!(log.len() % 512, 0);
    assert!((4100..8100).contains(&log.len()), "{} bytes", log.len());
    assert!(log[..100].iter().all(|byte| *byte == b'-') && log[100..4100].iter().all(|byte| *byte == b'a'));
    assert!(log[4100..].iter().all(|byte| *byte == b'b'));
    assert_eq!(loss.kept, log.len() as u64 - 100);
    assert_eq!(bench.read("other").as_deref(), Some(""));
}

#[test]
fn scattered_sectors_survive() {
    let Some(mut bench) = Bench::new() else { return };
    let old = "o".repeat(100_000);
    bench.durable("a", &old);
    let file = OpenOptions::new().write(true).open(bench.at("a")).unwrap();
    file.write_all_at(&[b'n'; 100_000], 0).unwrap();
    drop(file);
    let loss = bench.disk.lose_unsynced(Survival::Scattered, &mut bench.rng).unwrap();
    let now = fs::read(bench.at("a")).unwrap();
    let new = now.iter().filter(|byte| **byte == b'n').count();
    assert_eq!((now.len(), new as u64), (100_000, loss.kept));
    assert!(new > 10_000 && new < 90_000, "{new} bytes");
    for sector in now.chunks(512) {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
    }
}

#[test]
fn a_disk_in_use_keeps_its_power() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "a");
    let held = File::open(bench.at("a")).unwrap();
    assert_eq!(bench.disk.files_open(), 1);
    drop(held);
    bench.cut();
}

#[test]
fn a_full_disk_takes_nothing_new() {
    let Some(bench) = Bench::new() else { return };
    bench.durable("a", "0123456789");
    bench.durable("reserved", "");
    let reserved = OpenOptions::new().write(true).open(bench.at("reserved")).unwrap();
    nix::fcntl::fallocate(&reserved, nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 100).unwrap();
    bench.disk.fill(true);
    let full = |result: io::Result<File>| assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
    full(append(&bench.at("a"), b"x"));
    full(File::create(bench.at("new")));
    assert_eq!(
        fs::create_dir(bench.at("new")).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    let error = nix::fcntl::fallocate(&reserved, nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 200).unwrap_err();
    assert_eq!(error, nix::errno::Errno::ENOSPC);
    assert_eq!(nix::sys::statvfs::statvfs(&bench.root).unwrap().blocks_available(), 0);
    assert_eq!(bench.disk.struck(), 4);
    // What is there can be read, overwritten, and written where room was reserved.
    reserved.write_all_at(&[b'r'; 100], 0).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(bench.at("a")).unwrap();
    file.write_all_at(b"xx", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(bench.read("a").as_deref(), Some("xx23456789"));
    // What is removed makes room.
    file.set_len(0).unwrap();
    append(&bench.at("a"), b"0123456789").unwrap();
    bench.disk.fill(false);
    append(&bench.at("a"), &[b'x'; 10_000]).unwrap();
}

#[test]
fn a_write_across_the_limit_is_short() {
    let Some(bench) = Bench::new() else { return };
    bench.durable("a", "0123456789");
    bench.disk.limit(Some(5000));
    let file = OpenOptions::new().append(true).open(bench.at("a")).unwrap();
    let written = nix::unistd::write(&file, &[b'x'; 9000]).unwrap();
    assert_eq!((written, file.metadata().unwrap().len()), (5000, 5010));
    assert_eq!(nix::unistd::write(&file, b"x").unwrap_err(), nix::errno::Errno::ENOSPC);
}

#[test]
fn operations_fail_as_often_as_asked() {
    let Some(bench) = Bench::new() else { return };
    bench.durable("a", "0123456789");
    bench.durable("b", "0123456789");
    let file = OpenOptions::new().read(true).write(true).open(bench.at("a")).unwrap();
    let eio = |result: io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
    bench.disk.io_errors(errors(Operation::Write, How::Next(2)));
    eio(file.write_all_at(b"x", 0));
    eio(file.write_all_at(b"x", 0));
    file.write_all_at(b"x", 0).unwrap();
    // The kernel reads ahead first, and tries again when that fails.
    bench.disk.io_errors(errors(Operation::Read, How::Next(2)));
    eio(file.read_exact_at(&mut [0; 10], 0));
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    bench.disk.io_errors(errors(Operation::Sync, How::Chance(1.0, 3)));
    eio(file.sync_all());
    eio(file.sync_data());
    bench.disk.io_errors(Some(IoErrors {
        operations: vec![Operation::Write],
        files: "b*".to_owned(),
        how: How::Chance(1.0, 3),
    }));
    file.write_all_at(b"x", 0).unwrap();
    eio(append(&bench.at("b"), b"x").map(drop));
    bench.disk.io_errors(None);
    append(&bench.at("b"), b"x").unwrap();
    assert_eq!(bench.disk.struck(), 7);
}

#[test]
fn a_failed_sync_cannot_be_repeated() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "----------");
    let file = OpenOptions::new().read(true).write(true).open(bench.at("a")).unwrap();
    file.write_all_at(b"1111", 0).unwrap();
    file.write_all_at(b"2222", 10).unwrap();
    bench.disk.io_errors(errors(Operation::Sync, How::Next(1)));
    file.sync_all().unwrap_err();
    file.write_all_at(b"3", 1).unwrap();
    file.write_all_at(b"4444", 16).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(fs::read(bench.at("a")).unwrap(), b"1311------2222\0\x004444");
    bench.cut();
    assert_eq!(fs::read(bench.at("a")).unwrap(), b"-3--------\0\0\0\0\0\x004444");
}

#[test]
fn a_lying_disk_confirms_and_forgets() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "old");
    bench.disk.lie(true);
    bench.durable("a", "new");
    bench.durable("b", "new");
    bench.disk.lie(false);
    bench.cut();
    assert_eq!(
        (bench.names(), bench.read("a").as_deref()),
        (vec!["a".to_owned()], Some("old"))
    );
}

#[test]
fn a_disk_can_be_slow() {
    let Some(bench) = Bench::new() else { return };
    bench.durable("a", "a");
    let file = OpenOptions::new().write(true).open(bench.at("a")).unwrap();
    bench.disk.slow(Slowness {
        sync: Duration::from_millis(60),
        ..Slowness::default()
    });
    let start = Instant::now();
    file.sync_all().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60));
}

fn hurt(bench: &mut Bench, damage: Damage) -> Option<Wound> {
    bench.disk.corrupt("log/*.sst", damage, &mut bench.rng).unwrap()
}

#[test]
fn files_can_be_damaged() {
    let Some(mut bench) = Bench::new() else { return };
    let text: String = "0123456789abcdef".repeat(1024);
    fs::create_dir(bench.at("log")).unwrap();
    bench.durable("log/1.sst", &text);
    bench.durable("else", &text);
    assert_eq!(bench.disk.remember("log/*.sst").unwrap(), 1);
    let bytes = |bench: &Bench| fs::read(bench.at("log/1.sst")).unwrap();
    assert_eq!(hurt(&mut bench, Damage::OldChunk), None, "nothing has changed since");

    let wound = hurt(&mut bench, Damage::BitFlip).unwrap();
    assert_eq!((wound.file.as_path(), wound.size), (Path::new("log/1.sst"), 16384));
    let after = fs::read(bench.at("log/1.sst")).unwrap();
    let different: Vec<usize> = (0..16384).filter(|at| after[*at] != text.as_bytes()[*at]).collect();
    assert_eq!(different, [usize::try_from(wound.at).unwrap()]);
    assert_eq!((after[different[0]] ^ text.as_bytes()[different[0]]).count_ones(), 1);

    let old = hurt(&mut bench, Damage::OldChunk).unwrap();
    assert!((old.at..old.at + old.bytes).contains(&wound.at));
    assert_eq!(bytes(&bench), text.as_bytes());

    let zeros = hurt(&mut bench, Damage::ZeroChunk).unwrap();
    assert_eq!(zeros.bytes, 4096);
    let at = usize::try_from(zeros.at).unwrap();
    assert!(bytes(&bench)[at..at + 4096].iter().all(|byte| *byte == 0));

    let cut = hurt(&mut bench, Damage::Truncation).unwrap();
    assert_eq!(bytes(&bench).len() as u64, cut.at);
    assert!(cut.bytes <= 8192 && cut.at + cut.bytes == 16384);
    assert_eq!(bench.cut(), Loss::default(), "damage is durable");
    assert_eq!(bytes(&bench).len() as u64, cut.at);
    assert_eq!(bench.read("else"), Some(text));
}

/// Names the file for the child process of the test below.
const MAP: &str = "TARN_JEPSEN_MAP";

#[test]
fn files_can_be_mapped() {
    if let Some(path) = std::env::var_os(MAP) {
        return map(Path::new(&path));
    }
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", &"a".repeat(10_000));
    // Another process: one that maps a file which it serves itself would wait for itself.
    let mapped = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::tests::files_can_be_mapped"])
        .env(MAP, bench.at("a"))
        .output()
        .unwrap();
    assert!(mapped.status.success(), "{}", String::from_utf8_lossy(&mapped.stdout));
    let now = fs::read(bench.at("a")).unwrap();
    assert_eq!((now[0], now[9000]), (b'c', b'b'));
    bench.cut();
    let now = fs::read(bench.at("a")).unwrap();
    assert_eq!((now[0], now[9000]), (b'a', b'b'), "one was synced, the other was not");
}

fn map(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the mapping is as long as the file, is used only here, and is unmapped before the file is closed.
    unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            10_000,
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(map, libc::MAP_FAILED);
        let bytes = std::slice::from_raw_parts_mut(map.cast::<u8>(), 10_000);
        assert!(bytes.iter().all(|byte| *byte == b'a'));
        bytes[9000] = b'b';
        assert_eq!(libc::msync(map, 10_000, libc::MS_SYNC), 0);
        bytes[0] = b'c';
        assert_eq!(libc::munmap(map, 10_000), 0);
    }
}

#[test]
fn hard_links_share_their_content() {
    let Some(mut bench) = Bench::new() else { return };
    bench.durable("a", "a");
    fs::hard_link(bench.at("a"), bench.at("b")).unwrap();
    assert_eq!(fs::metadata(bench.at("a")).unwrap().nlink(), 2);
    sync_folder(&bench.root);
    fs::remove_file(bench.at("a")).unwrap();
    sync_folder(&bench.root);
    append(&bench.at("b"), b"b").unwrap().sync_all().unwrap();
    fs::hard_link(bench.at("b"), bench.at("lost")).unwrap();
    bench.cut();
    assert_eq!(
        (bench.names(), bench.read("b").as_deref()),
        (vec!["b".to_owned()], Some("ab"))
    );
    assert_eq!(fs::metadata(bench.at("b")).unwrap().nlink(), 1);
}

#[test]
fn it_is_a_file_system_like_any_other() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.at("a");
    bench.durable("a", "0123456789");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(File::create_new(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    symlink("a", bench.at("link")).unwrap();
    assert_eq!(
        (fs::read_link(bench.at("link")).unwrap(), bench.read("link")),
        (PathBuf::from("a"), bench.read("a"))
    );
    fs::create_dir_all(bench.at("x/y")).unwrap();
    assert_eq!(
        fs::remove_dir(bench.at("x")).unwrap_err().kind(),
        ErrorKind::DirectoryNotEmpty
    );
    assert_eq!(
        fs::rename(bench.at("x"), bench.at("x/y/z")).unwrap_err().raw_os_error(),
        Some(libc::EINVAL)
    );
    assert_eq!(fs::copy(&path, bench.at("x/y/copy")).unwrap(), 10);
    assert_eq!(bench.read("x/y/copy").as_deref(), Some("0123456789"));

    // An unlinked file lives as long as it is open.
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.seek(SeekFrom::Start(8)).unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), file.metadata().unwrap().nlink()), ("89", 0));

    // Many names, more than fit into one answer.
    for at in 0..500 {
        File::create(bench.at(&format!("x/y/file-{at:04}-with-a-rather-long-name"))).unwrap();
    }
    assert_eq!(fs::read_dir(bench.at("x/y")).unwrap().count(), 501);
    fs::remove_dir_all(bench.at("x")).unwrap();
    assert_eq!(fs::read_dir(&bench.root).unwrap().count(), 1);
}

#[test]
fn locks_exclude() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = (
        File::create(bench.at("LOCK")).unwrap(),
        File::open(bench.at("LOCK")).unwrap(),
    );
    one.try_lock().unwrap();
    assert!(matches!(two.try_lock(), Err(fs::TryLockError::WouldBlock)));
    drop(one);
    two.try_lock().unwrap();
}

#[test]
fn a_folder_becomes_a_disk_and_a_folder_again() {
    let prepared = Bench::with(Promise::Posix, |backing| {
        fs::create_dir(backing.join("keys")).unwrap();
        fs::write(backing.join("keys/node.key"), "secret").unwrap();
        fs::set_permissions(backing.join("keys/node.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(backing.join("keys/node.key"), backing.join("again")).unwrap();
        symlink("keys", backing.join("link")).unwrap();
    });
    let Some(mut bench) = prepared else { return };
    bench.cut();
    assert_eq!(
        (bench.read("link/node.key").as_deref(), bench.read("again").as_deref()),
        (Some("secret"), Some("secret"))
    );
    append(&bench.at("again"), b" and more").unwrap();
    let backing = bench.folder.path().join("backing");
    assert!(!backing.join("keys").exists());
    bench.disk.unmount().unwrap();
    assert_eq!(
        fs::read_to_string(backing.join("link/node.key")).unwrap(),
        "secret and more"
    );
    assert_eq!(fs::metadata(backing.join("again")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(backing.join("again")).unwrap().nlink(), 2);
    assert!(!backing.join(".objects").exists());
    assert_eq!(fs::read_dir(bench.root).unwrap().count(), 0, "it is still mounted");
}

#[test]
fn a_folder_is_one_disk_only() {
    let Some(bench) = Bench::new() else { return };
    let backing = bench.folder.path().join("backing");
    let refused = FaultyDisk::mount(&backing, &bench.folder.path().join("other")).unwrap_err();
    assert!(refused.to_string().contains("in use as a disk"), "{refused}");
}

#[test]
fn small_synced_writes_are_fast_enough() {
    let Some(bench) = Bench::new() else { return };
    let file = File::create(bench.at("log")).unwrap();
    let start = Instant::now();
    for at in 0..200 {
        file.write_all_at(&[7; 512], at * 512).unwrap();
        file.sync_data().unwrap();
    }
    let each = start.elapsed() / 200;
    eprintln!("512 bytes written and synced in {each:?}");
    // Some 0.1 ms; the bound only catches what would make a database useless.
    assert!(each < Duration::from_millis(20), "{each:?}");
}
