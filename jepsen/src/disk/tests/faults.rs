//! Disks that are full, slow, lying, damaged, or have errors.

use super::*;

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
    assert_eq!(fs::create_dir(bench.at("new")).unwrap_err().kind(), ErrorKind::StorageFull);
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
fn what_fails_beneath_is_the_machines_failure_and_no_fault() {
    let Some(bench) = Bench::new() else { return };
    bench.durable("a", "0123456789");
    bench.disk.fill(true);
    assert!(append(&bench.at("a"), b"x").is_err());
    assert_eq!(bench.disk.machine_failure(), None, "a fault that was ordered");
    for object in fs::read_dir(bench.folder.path().join("backing/.objects")).unwrap() {
        fs::remove_file(object.unwrap().path()).unwrap();
    }
    assert!(File::open(bench.at("a")).is_err());
    let failure = bench.disk.machine_failure().unwrap();
    assert!(failure.contains("opening a"), "{failure}");
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
    bench.disk.io_errors(Some(IoErrors { operations: vec![Operation::Write], files: "b*".to_owned(), how: How::Chance(1.0, 3) }));
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
fn a_sync_fails_of_a_file_that_was_cut_short_since_it_was_written() {
    let Some(mut bench) = Bench::new() else { return };
    let durable = "-".repeat(30);
    bench.durable("a", &durable);
    let file = OpenOptions::new().read(true).write(true).open(bench.at("a")).unwrap();
    file.write_all_at(b"1111", 20).unwrap();
    file.set_len(12).unwrap();
    bench.disk.io_errors(errors(Operation::Sync, How::Next(1)));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(file);
    assert_eq!(bench.read("a").as_deref(), Some(&durable[..12]));
    bench.cut();
    assert_eq!(bench.read("a"), Some(durable));
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
    assert_eq!((bench.names(), bench.read("a").as_deref()), (vec!["a".to_owned()], Some("old")));
}

#[test]
fn a_disk_can_be_slow() {
    let Some(bench) = Bench::new() else { return };
    bench.durable("a", "a");
    let file = OpenOptions::new().write(true).open(bench.at("a")).unwrap();
    bench.disk.slow(Slowness { sync: Duration::from_millis(60), ..Slowness::default() });
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
