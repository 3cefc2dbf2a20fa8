//! Reading and writing PEM files, with errors that name the file and the remedy.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};

/// Largest PEM file that is read. A chain is about 15 kB; what is larger is some other file, given by mistake.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Characters per line of base64, as RFC 7468 wants.
const LINE_CHARS: usize = 64;

/// Why a PEM file or text was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file is not there, or this process may not read it.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is far larger than any certificate or key.
    #[error("{path} has {bytes} bytes, more than the {FILE_BYTES_MAX} of any certificate or key file: is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The path names a directory, a device or a pipe.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else than the owner can read or change a private key.
    #[error(
        "{path} is a private key that others can access (mode {mode:03o}): run `chmod 600 {path}`, and replace the key if others may have read it"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The text between the markers is broken, or a marker is missing.
    #[error("{what} is not valid PEM: {reason}")]
    Malformed {
        /// File or description.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no section of the wanted kind.
    #[error("{what} holds no {wanted}{hint}")]
    Missing {
        /// File or description.
        what: String,
        /// The marker that was looked for.
        wanted: &'static str,
        /// What was found instead, as the end of a sentence; may be empty.
        hint: &'static str,
    },
}

/// Reads a file that may be public: a certificate.
///
/// # Errors
/// [`PemError`] when the file cannot be read, is no regular file, or is far too large.
pub fn read_public_file(path: &Path) -> Result<Vec<u8>, PemError> {
    let (file, metadata) = open_regular(path)?;
    read_bounded(path, file, &metadata)
}

/// Reads a file that must be private: a key. Refuses one that group or others can read or write, because a key that others may have
/// copied proves nothing.
///
/// # Errors
/// As [`read_public_file`], and [`PemError::TooOpen`].
pub fn read_secret_file(path: &Path) -> Result<Vec<u8>, PemError> {
    let (file, metadata) = open_regular(path)?;
    check_owner_only(path, &metadata)?;
    read_bounded(path, file, &metadata)
}

/// Opens first and asks the open file afterwards, so that what is checked is what is read.
fn open_regular(path: &Path) -> Result<(File, Metadata), PemError> {
    let read_error = |source| PemError::Read { path: path.to_owned(), source };
    // Asked before opening, because opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(read_error)?.is_file() {
        return Err(PemError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    Ok((file, metadata))
}

#[cfg(unix)]
fn check_owner_only(path: &Path, metadata: &Metadata) -> Result<(), PemError> {
    use std::os::unix::fs::PermissionsExt;

    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PemError::TooOpen { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner_only(_path: &Path, _metadata: &Metadata) -> Result<(), PemError> {
    Ok(())
}

fn read_bounded(path: &Path, file: File, metadata: &Metadata) -> Result<Vec<u8>, PemError> {
    let too_large = |bytes| PemError::TooLarge { path: path.to_owned(), bytes };
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew meanwhile.
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| PemError::Read { path: path.to_owned(), source })?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(too_large(read as u64));
    }
    Ok(bytes)
}

/// One PEM section: `label` is what stands in the markers, for example `CERTIFICATE`.
pub fn encode(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// All certificates of a text, in order; at least one. `what` names the text in errors.
pub(super) fn certificates(what: &str, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().map_err(|error| malformed(what, &error))?;
    if certificates.is_empty() {
        return Err(missing(what, bytes, "certificate"));
    }
    Ok(certificates)
}

/// The one private key of a text. `what` names the text in errors, which never show its content.
pub(super) fn private_key(what: &str, bytes: &[u8]) -> Result<Vec<u8>, PemError> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|error| malformed(what, &error))?;
        if kind == SectionKind::PrivateKey {
            keys.push(der);
        }
    }
    match keys.len() {
        0 => Err(missing(what, bytes, "private key")),
        1 => Ok(keys.remove(0)),
        count => Err(PemError::Malformed { what: what.to_owned(), reason: format!("it holds {count} private keys where one is expected") }),
    }
}

/// The library's error without the offending line, which may be part of a key.
fn malformed(what: &str, error: &rustls_pki_types::pem::Error) -> PemError {
    use rustls_pki_types::pem::Error;

    let reason = match error {
        Error::MissingSectionEnd { .. } => "a section has no END line (was the file cut off?)",
        Error::IllegalSectionStart { .. } => "a BEGIN line is broken",
        Error::Base64Decode(_) => "the text between BEGIN and END is not base64",
        Error::SectionTooLarge => "a section is too large",
        _ => "it cannot be read",
    };
    PemError::Malformed { what: what.to_owned(), reason: reason.to_owned() }
}

fn missing(what: &str, bytes: &[u8], wanted: &'static str) -> PemError {
    let holds = |marker: &str| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
    let hint = if wanted == "certificate" && holds("PRIVATE KEY-----") {
        " but a private key: were the two files swapped?"
    } else if wanted == "private key" && holds("BEGIN CERTIFICATE-----") {
        " but a certificate: were the two files swapped?"
    } else if wanted == "private key" && holds("BEGIN ENCRYPTED PRIVATE KEY-----") {
        " that can be read without a passphrase"
    } else {
        ""
    };
    PemError::Missing { what: what.to_owned(), wanted, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for size in [1_usize, 47, 48, 49, 5000] {
            let der: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let text = encode("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= LINE_CHARS));
            let read = certificates("text", text.as_bytes()).unwrap();
            assert_eq!(read[0].as_ref(), der);
        }
    }

    #[test]
    fn malformed_text_is_refused_with_the_reason() {
        let text = encode("CERTIFICATE", &[7; 100]);
        let cut = &text[..text.len() - 20];
        let error = certificates("ca.pem", cut.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("ca.pem"), "{error}");
        assert!(error.to_string().contains("cut off"), "{error}");

        let error = certificates("ca.pem", b"").unwrap_err();
        assert_eq!(error.to_string(), "ca.pem holds no certificate");

        let garbled = text.replace('B', "*");
        assert!(certificates("ca.pem", garbled.as_bytes()).is_err());
    }

    #[test]
    fn swapped_files_are_recognised() {
        let key = encode("PRIVATE KEY", &[1; 54]);
        let certificate = encode("CERTIFICATE", &[1; 54]);
        let error = certificates("node.pem", key.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("swapped"), "{error}");
        let error = private_key("node.key", certificate.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("swapped"), "{error}");
    }

    #[test]
    fn a_key_file_with_two_keys_is_refused() {
        let twice = encode("PRIVATE KEY", &[1; 54]).repeat(2);
        assert!(matches!(private_key("node.key", twice.as_bytes()), Err(PemError::Malformed { .. })));
    }

    #[test]
    fn oversized_and_odd_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.pem");
        std::fs::write(&path, vec![b'x'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(read_public_file(&path), Err(PemError::TooLarge { .. })));
        assert!(matches!(read_public_file(dir.path()), Err(PemError::NotAFile { .. })));
        assert!(matches!(read_public_file(&dir.path().join("absent")), Err(PemError::Read { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        std::fs::write(&path, "key").unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644, 0o777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = read_secret_file(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
            assert!(error.contains("node.key"), "{error}");
        }
        for mode in [0o600, 0o400] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_secret_file(&path).unwrap(), b"key");
        }
    }
}
