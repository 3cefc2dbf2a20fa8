//! What a power cut takes and what it leaves.

use super::*;

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
        let mut file = OpenOptions::new().write(true).custom_flags(flags).open(bench.at(name)).unwrap();
        file.write_all(b"kept").unwrap();
    }
    bench.cut();
    assert_eq!((bench.read("sync").as_deref(), bench.read("dsync").as_deref()), (Some("kept"), Some("kept")));
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
        assert!(fs::read(bench.at("a")).unwrap() == now, "processes see something else than they wrote");
        bench.cut();
        assert!(fs::read(bench.at("a")).unwrap() == durable, "the disk has something else than was synced");
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
    assert_eq!((bench.read("a").as_deref(), bench.read("b").as_deref()), (Some("a"), Some("b")));

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
    assert_eq!((bench.names(), bench.read("CURRENT").as_deref()), (vec!["CURRENT".to_owned()], Some("one")));

    replace(&bench, "three", false);
    sync_folder(&bench.root);
    bench.cut();
    assert_eq!(bench.read("CURRENT").as_deref(), Some(""), "the name is new, its content never came");

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
    assert_eq!((bench.names(), bench.read("to/b").as_deref()), (vec!["to/b".to_owned()], Some("a")));
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
    assert_eq!((bench.names(), bench.read("old/a").as_deref()), (vec!["old/a".to_owned()], Some("a")));
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
    bench.durable("a", "old");
    fs::write(bench.at("a"), "new").unwrap();
    let held = File::open(bench.at("a")).unwrap();
    let cut = bench.disk.lose_unsynced_within(Duration::ZERO, Survival::Nothing, &mut bench.rng);
    let refused = cut.unwrap_err().to_string();
    assert!(refused.contains("1 files on") && refused.contains("still open"), "{refused}");
    assert_eq!(bench.read("a").as_deref(), Some("new"));
    drop(held);
    bench.cut();
    assert_eq!(bench.read("a").as_deref(), Some("old"));
}
