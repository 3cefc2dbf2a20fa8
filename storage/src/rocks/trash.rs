//! Gives back the space of files that are not needed any more in small steps.
//!
//! Where a file system tells its disk at once which blocks became free (`mount -o discard`, usual on cloud machines), the removal of a large
//! file keeps every flush on that disk waiting, a log's too: 40 ms were measured for 32 MiB, and merging may remove ten such files at once. So
//! each data file gets a second name here. When that is the last one it has, because the engine and all snapshots have let go of it, it is cut
//! shorter step by step, and then removed.
//!
//! ```text
//!   data directory
//!     000123.sst          the engine's name for a file; snapshots have names of their own for it
//!     trash/000123.sst    the same file; alone, it is rubbish
//! ```
//!
//! What is missed, because it came and went between two looks, because there is too much of it, or because the file system cannot do this, goes
//! as it would without; so does a whole directory that a snapshot has taken the place of. A build before this one does not look in here: whoever
//! goes back to one removes `trash` while the node is stopped, or has to do without the space of files that were merged meanwhile.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const DIR: &str = "trash";
/// What the names of RocksDB's data files end in.
const EXTENSION: &str = "sst";
/// How often new and abandoned files are looked for. A file usually lives for many seconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much of a file goes at once: of flushes beside it one in a hundred took 2.9 ms on that disk, and the slowest 6.3.
const STEP_BYTES: u64 = 1 << 20;
/// The shortest pause between two steps: about 100 MiB go in a second.
const PAUSE_MIN: Duration = Duration::from_millis(8);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(80);
/// As long as there is no more rubbish than this, a pause is so many times as long as the step before it took: the disk has other things to do
/// most of the time, also where several nodes share it.
const UNHURRIED: (u64, u32) = (128 << 20, 12);
/// A disk that takes so long for a step is not spared by more of them: the rest goes at once.
const STEP_TAKES_MAX: Duration = Duration::from_millis(50);
/// Of more rubbish than this, the rest goes at once: whoever writes so much needs the space.
const WAITING_BYTES_MAX: u64 = 512 << 20;

/// The thread that does it. It ends when this is dropped; what is left then goes after the next start.
pub(super) struct Trash {
    /// `None` while it is being dropped.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Starts to look after the data files in an engine's directory. `None` where that cannot be done: everything else goes on without it.
    pub fn follow(home: &Path) -> Option<Self> {
        let bin = Bin { home: home.to_owned(), trash: home.join(DIR) };
        bin.prepare().ok()?;
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("tarn-trash".into()).spawn(move || bin.run(&stopped)).ok()?;
        Some(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It does nothing that can panic, and if it did nothing would be lost.
            let _ = thread.join();
        }
    }
}

struct Bin {
    home: PathBuf,
    trash: PathBuf,
}

/// A file that has no other name.
struct Rubbish {
    path: PathBuf,
    bytes: u64,
}

impl Bin {
    /// Makes the directory, and sees that the file system counts names: what has no other name is destroyed.
    fn prepare(&self) -> Result<(), io::Error> {
        fs::create_dir_all(&self.trash)?;
        let (first, second) = (self.trash.join("probe"), self.trash.join("probe-too"));
        let clear = || [&first, &second].into_iter().for_each(|path| drop(fs::remove_file(path)));
        clear();
        fs::write(&first, [])?;
        let names = || fs::metadata(&first).map(|metadata| metadata.nlink());
        let alone = names()?;
        let linked = fs::hard_link(&first, &second).and_then(|()| names());
        clear();
        match (alone, linked?) {
            (1, 2) => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    fn run(&self, stopped: &mpsc::Receiver<()>) {
        let pause = |time| matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout));
        while pause(LOOK_EVERY) {
            // Nothing depends on this but how soon space is free: a directory that cannot be read is the engine's to complain about.
            let (mut looked, mut rubbish) = (Instant::now(), self.look().unwrap_or_default());
            while let Some(file) = rubbish.pop() {
                let waiting: u64 = rubbish.iter().map(|rubbish| rubbish.bytes).sum();
                if waiting + file.bytes > WAITING_BYTES_MAX {
                    let _ = fs::remove_file(&file.path);
                    continue;
                }
                match cut_away(&file, |took| pause(pause_after(took, waiting))) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(_) => drop(fs::remove_file(&file.path)),
                }
                if looked.elapsed() > LOOK_EVERY {
                    (looked, rubbish) = (Instant::now(), self.look().unwrap_or_default());
                }
            }
        }
    }

    /// Gives each data file that has none its name here, and tells what has no other name any more. Nobody can give it one, as nobody else
    /// looks here.
    fn look(&self) -> Result<Vec<Rubbish>, io::Error> {
        let (here, there) = (data_files(&self.trash)?, data_files(&self.home)?);
        for name in there.difference(&here) {
            // It may have gone meanwhile; and where there is no room for a name, it goes as it would without this.
            let _ = fs::hard_link(self.home.join(name), self.trash.join(name));
        }
        let abandoned = here.difference(&there).filter_map(|name| {
            let path = self.trash.join(name);
            let metadata = fs::metadata(&path).ok().filter(|metadata| metadata.nlink() == 1)?;
            Some(Rubbish { path, bytes: metadata.len() })
        });
        Ok(abandoned.collect())
    }
}

/// The names of the data files in a directory.
fn data_files(path: &Path) -> Result<BTreeSet<OsString>, io::Error> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|found| found == EXTENSION) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// How long to wait after a step that took so long, with so much rubbish waiting.
fn pause_after(took: Duration, waiting: u64) -> Duration {
    let (bytes, times) = UNHURRIED;
    match waiting <= bytes {
        true => (took * times).clamp(PAUSE_MIN, PAUSE_MAX),
        false => PAUSE_MIN,
    }
}

/// Cuts a file shorter step by step, and removes it. `go_on` is told after each step how long that took, and waits; false ends the work, and so
/// does this.
fn cut_away(file: &Rubbish, mut go_on: impl FnMut(Duration) -> bool) -> Result<bool, io::Error> {
    let open = OpenOptions::new().write(true).open(&file.path)?;
    let mut left = file.bytes;
    while left > STEP_BYTES {
        let began = Instant::now();
        left -= STEP_BYTES;
        open.set_len(left)?;
        // Else the file system gathers steps, and the disk hears of them together.
        open.sync_all()?;
        let took = began.elapsed();
        if took > STEP_TAKES_MAX {
            break;
        }
        if !go_on(took) {
            return Ok(false);
        }
    }
    let began = Instant::now();
    fs::remove_file(&file.path)?;
    Ok(go_on(began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(home: &Path) -> Bin {
        let bin = Bin { home: home.to_owned(), trash: home.join(DIR) };
        bin.prepare().unwrap();
        assert_eq!(fs::read_dir(&bin.trash).unwrap().count(), 0, "the probe leaves nothing behind");
        bin
    }

    #[test]
    fn a_file_with_another_name_is_never_touched() {
        let home = tempfile::tempdir().unwrap();
        let bin = bin(home.path());
        let (engine, snapshot) = (home.path().join("000007.sst"), home.path().join("snapshot"));
        fs::write(&engine, vec![7; 3 << 20]).unwrap();
        fs::write(home.path().join("CURRENT"), "not a data file").unwrap();
        assert!(bin.look().unwrap().is_empty());
        assert_eq!(data_files(&bin.trash).unwrap(), BTreeSet::from(["000007.sst".into()]));
        fs::hard_link(&engine, &snapshot).unwrap();
        for name in [&engine, &snapshot] {
            assert!(bin.look().unwrap().is_empty());
            fs::remove_file(name).unwrap();
        }
        assert_eq!(bin.look().unwrap().len(), 1);
        // The engine may use a number again.
        fs::write(&engine, "new").unwrap();
        assert!(bin.look().unwrap().is_empty());
    }

    #[test]
    fn rubbish_goes_in_steps_and_an_interruption_leaves_the_rest() {
        let home = tempfile::tempdir().unwrap();
        let bin = bin(home.path());
        let path = bin.trash.join("000007.sst");
        fs::write(&path, vec![7; (4 << 20) + 5]).unwrap();
        let file = || bin.look().unwrap().pop().unwrap();
        assert!(!cut_away(&file(), |_| false).unwrap());
        let left = file().bytes;
        assert_eq!(left, (3 << 20) + 5);
        let mut steps = 0;
        let all = cut_away(&file(), |_| {
            steps += 1;
            true
        });
        assert!(all.unwrap());
        // Fewer where a disk took too long for one.
        assert!((1..=4).contains(&steps), "{steps}");
        assert!(!path.exists());
    }

    #[test]
    fn the_disk_is_spared_until_too_much_waits() {
        let took = Duration::from_millis(2);
        assert_eq!(pause_after(took, 0), 12 * took);
        assert_eq!(pause_after(Duration::ZERO, 0), PAUSE_MIN);
        assert_eq!(pause_after(STEP_TAKES_MAX, 0), PAUSE_MAX);
        assert_eq!(pause_after(took, UNHURRIED.0 + 1), PAUSE_MIN);
    }

    #[test]
    fn what_an_earlier_start_left_goes() {
        let home = tempfile::tempdir().unwrap();
        let left = home.path().join(DIR).join("000007.sst");
        fs::create_dir(home.path().join(DIR)).unwrap();
        fs::write(&left, "rubbish").unwrap();
        let _trash = Trash::follow(home.path()).unwrap();
        let began = Instant::now();
        while left.exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "it is there still");
            std::thread::yield_now();
        }
    }
}
