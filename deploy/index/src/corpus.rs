//! Collecting the documents of some folders.
//!
//! What a folder gives depends on its files alone, not on the order in which the system lists them: paths are sorted,
//! symbolic links inside a folder are not followed (so that nothing is found twice and no loop is entered), and each
//! file that is no document is counted with the reason. A `.gz` file stands for what it decompresses to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::limits::DOCUMENT_BYTES;

/// Folders with texts that every Debian machine has.
pub const DEBIAN_FOLDERS: [&str; 2] = ["/usr/share/common-licenses", "/usr/share/doc"];

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The path of its file, for people: what is not UTF-8 in it is replaced.
    pub name: String,
    /// Its first [`DOCUMENT_BYTES`] bytes, in whatever encoding they are.
    pub text: Bytes,
    /// Whether there was more of it.
    pub cut: bool,
}

/// The documents that were found, in the order of their paths, and what was not taken.
#[derive(Debug, Default)]
pub struct Corpus {
    /// Numbered by their position everywhere else.
    pub documents: Vec<Document>,
    /// Files that are no documents.
    pub skipped: Skipped,
    /// Whether the limit on documents left files out.
    pub more: bool,
}

/// How many files were no documents, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Nothing in them.
    pub empty: usize,
    /// No text: a zero byte within the first [`DOCUMENT_BYTES`].
    pub binary: usize,
    /// Named `.gz`, but they do not decompress.
    pub damaged: usize,
    /// The file, or a whole folder, could not be read.
    pub unreadable: usize,
}

/// A folder that was asked for by name cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct CorpusError {
    path: PathBuf,
    source: io::Error,
}

/// Collects the first `limit` documents of all `roots`, which are folders or single files.
///
/// # Errors
/// If a root itself cannot be read. What cannot be read inside a root is skipped and counted.
pub fn collect(roots: &[PathBuf], limit: usize) -> Result<Corpus, CorpusError> {
    let mut corpus = Corpus::default();
    let mut files = BTreeSet::new();
    for root in roots {
        list(root, &mut files, &mut corpus.skipped).map_err(|source| CorpusError { path: root.clone(), source })?;
    }
    for path in files {
        if corpus.documents.len() == limit {
            corpus.more = true;
            break;
        }
        match read(&path) {
            Ok((text, cut)) => corpus.documents.push(Document { name: path.to_string_lossy().into_owned(), text, cut }),
            Err(NoDocument::Empty) => corpus.skipped.empty += 1,
            Err(NoDocument::Binary) => corpus.skipped.binary += 1,
            Err(NoDocument::Damaged) => corpus.skipped.damaged += 1,
            Err(NoDocument::Unreadable) => corpus.skipped.unreadable += 1,
        }
    }
    Ok(corpus)
}

/// Adds the regular files of a root to `files`. The root itself may be a symbolic link.
fn list(root: &Path, files: &mut BTreeSet<PathBuf>, skipped: &mut Skipped) -> io::Result<()> {
    if fs::metadata(root)?.is_file() {
        files.insert(root.to_owned());
        return Ok(());
    }
    let mut folders = vec![fs::read_dir(root)?];
    while let Some(folder) = folders.pop() {
        for entry in folder {
            let Ok((kind, entry)) = entry.and_then(|entry| Ok((entry.file_type()?, entry))) else {
                skipped.unreadable += 1;
                continue;
            };
            if kind.is_file() {
                files.insert(entry.path());
            } else if kind.is_dir() {
                match fs::read_dir(entry.path()) {
                    Ok(inner) => folders.push(inner),
                    Err(_) => skipped.unreadable += 1,
                }
            }
        }
    }
    Ok(())
}

/// Why a file is no document.
enum NoDocument {
    Empty,
    Binary,
    Damaged,
    Unreadable,
}

/// The text of a file, and whether it was cut.
fn read(path: &Path) -> Result<(Bytes, bool), NoDocument> {
    let file = File::open(path).map_err(|_| NoDocument::Unreadable)?;
    let (mut text, cut) = if path.extension().is_some_and(|extension| extension == "gz") {
        // A read error of the file itself is rare enough to pass for damage.
        read_start(MultiGzDecoder::new(file)).map_err(|_| NoDocument::Damaged)?
    } else {
        read_start(file).map_err(|_| NoDocument::Unreadable)?
    };
    if text.is_empty() {
        return Err(NoDocument::Empty);
    }
    if text.contains(&0) {
        return Err(NoDocument::Binary);
    }
    text.shrink_to_fit();
    Ok((text.into(), cut))
}

/// The first [`DOCUMENT_BYTES`] bytes, and whether there are more. Reads no further, however much a file unpacks to.
fn read_start(reader: impl Read) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    reader.take(DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let cut = bytes.len() > DOCUMENT_BYTES;
    bytes.truncate(DOCUMENT_BYTES);
    Ok((bytes, cut))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn write(folder: &Path, files: &[(&str, &[u8])]) {
        for (name, bytes) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn names(corpus: &Corpus, folder: &Path) -> Vec<String> {
        let prefix = format!("{}/", folder.display());
        corpus.documents.iter().map(|document| document.name.replace(&prefix, "")).collect()
    }

    #[test]
    fn documents_are_sorted_by_path_and_decompressed() {
        let folder = tempfile::tempdir().unwrap();
        let twice = [gzip(b"one "), gzip(b"two")].concat();
        write(
            folder.path(),
            &[
                ("b/x", b"bx"),
                ("a.txt", b"a"),
                ("b/a.gz", &twice),
                ("b/empty", b""),
                ("b/empty.gz", &gzip(b"")),
                ("b/binary", b"text\0text"),
                ("b/binary.gz", &gzip(b"\0")),
                ("b/damaged.gz", b"no gzip at all"),
                ("b/short.gz", &gzip(b"some text that is long enough")[..20]),
            ],
        );
        symlink("x", folder.path().join("b/link")).unwrap();
        symlink("..", folder.path().join("b/loop")).unwrap();
        symlink("nowhere", folder.path().join("b/dangling")).unwrap();

        let corpus = collect(&[folder.path().to_owned()], 100).unwrap();
        assert_eq!(names(&corpus, folder.path()), ["a.txt", "b/a.gz", "b/x"]);
        assert_eq!(&corpus.documents[1].text[..], b"one two");
        assert_eq!(corpus.skipped, Skipped { empty: 2, binary: 2, damaged: 2, unreadable: 0 });
        assert!(!corpus.more);
    }

    #[test]
    fn roots_may_overlap_and_may_be_files_or_links() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("in/a", b"a"), ("in/b", b"b"), ("c", b"c")]);
        symlink("in", folder.path().join("link")).unwrap();
        let roots = ["in", "in/b", "c", "link"].map(|name| folder.path().join(name));
        let corpus = collect(&roots, 100).unwrap();
        assert_eq!(names(&corpus, folder.path()), ["c", "in/a", "in/b", "link/a", "link/b"]);
    }

    #[test]
    fn the_limit_counts_documents_and_says_that_there_is_more() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("a", b"\0"), ("b", b"b"), ("c", b"c"), ("d", b"d")]);
        let root = [folder.path().to_owned()];
        let two = collect(&root, 2).unwrap();
        assert_eq!(names(&two, folder.path()), ["b", "c"]);
        assert!(two.more);
        assert!(!collect(&root, 3).unwrap().more);
    }

    #[test]
    fn long_documents_are_cut_compressed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let exact = vec![b'x'; DOCUMENT_BYTES];
        let long = vec![b'x'; DOCUMENT_BYTES + 1];
        // What lies behind the cut is not looked at: neither a zero byte nor the end of the stream.
        let mut tail = vec![b'x'; DOCUMENT_BYTES * 3];
        tail.push(0);
        write(folder.path(), &[("a", &exact), ("b", &long), ("c.gz", &gzip(&tail)), ("d", &tail)]);
        let corpus = collect(&[folder.path().to_owned()], 100).unwrap();
        assert_eq!(corpus.documents.iter().map(|document| document.cut).collect::<Vec<_>>(), [false, true, true, true]);
        assert!(corpus.documents.iter().all(|document| document.text == exact));
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        let error = collect(&[PathBuf::from("/nonexistent/folder")], 1).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nonexistent/folder"), "{error}");
    }
}
