//! Everything else that a database does to its files.

use super::*;

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
        .args(["--exact", "disk::tests::usage::files_can_be_mapped"])
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
        let map = libc::mmap(std::ptr::null_mut(), 10_000, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
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
    assert_eq!((bench.names(), bench.read("b").as_deref()), (vec!["b".to_owned()], Some("ab")));
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
    assert_eq!((fs::read_link(bench.at("link")).unwrap(), bench.read("link")), (PathBuf::from("a"), bench.read("a")));
    fs::create_dir_all(bench.at("x/y")).unwrap();
    assert_eq!(fs::remove_dir(bench.at("x")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(fs::rename(bench.at("x"), bench.at("x/y/z")).unwrap_err().raw_os_error(), Some(libc::EINVAL));
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
    let (one, two) = (File::create(bench.at("LOCK")).unwrap(), File::open(bench.at("LOCK")).unwrap());
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
    assert_eq!((bench.read("link/node.key").as_deref(), bench.read("again").as_deref()), (Some("secret"), Some("secret")));
    append(&bench.at("again"), b" and more").unwrap();
    let backing = bench.folder.path().join("backing");
    assert!(!backing.join("keys").exists());
    bench.disk.unmount().unwrap();
    assert_eq!(fs::read_to_string(backing.join("link/node.key")).unwrap(), "secret and more");
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
