//! A bundle as a folder.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
};

use serde_json::Value;

use super::{Bundle, Manifest};
use crate::{
    Error, json,
    limits::{BUNDLE_BYTES_MAX, MODULE_BYTES_MAX, MODULES_MAX, PATH_PARTS_MAX},
};

const MANIFEST: &str = "bundle.toml";
const DATA: &str = "data.json";
/// Entries that are looked at. A home directory given by mistake ends here.
const ENTRIES_MAX: usize = 10_000;

pub(super) fn read(folder: &Path) -> Result<Bundle, Error> {
    let manifest = read_text(&folder.join(MANIFEST), MODULE_BYTES_MAX)?;
    let manifest: Manifest = toml::from_str(&manifest).map_err(|error| Error::malformed(MANIFEST, error.to_string().trim_end()))?;
    let data = match read_text(&folder.join(DATA), BUNDLE_BYTES_MAX) {
        Ok(text) => json::parse(DATA, text.as_bytes())?,
        Err(Error::Folder { .. }) if !folder.join(DATA).exists() => Value::Object(serde_json::Map::new()),
        Err(error) => return Err(error),
    };
    let mut found = Found { modules: Vec::new(), entries: 0 };
    found.collect(folder, "", PATH_PARTS_MAX)?;
    Bundle::new(manifest, found.modules, &data)
}

/// The modules that a walk has found.
struct Found {
    modules: Vec<(String, String)>,
    entries: usize,
}

impl Found {
    fn collect(&mut self, folder: &Path, prefix: &str, levels: usize) -> Result<(), Error> {
        for entry in fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
            let entry = entry.map_err(|error| failed(folder, &error))?;
            self.entries += 1;
            Error::at_most(format!("the number of files below {}", folder.display()), ENTRIES_MAX, self.entries)?;
            let kind = entry.file_type().map_err(|error| failed(&entry.path(), &error))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{prefix}{name}");
            let is_module = name.ends_with(".rego");
            if kind.is_symlink() && (is_module || entry.path().is_dir()) {
                return Err(Error::malformed(path, "is a symbolic link; a bundle holds files and folders alone"));
            }
            if kind.is_dir() && levels > 1 {
                self.collect(&entry.path(), &format!("{path}/"), levels - 1)?;
            } else if kind.is_file() && is_module {
                let text = read_text(&entry.path(), MODULE_BYTES_MAX)?;
                self.modules.push((path, text));
                Error::at_most("the number of modules", MODULES_MAX, self.modules.len())?;
            }
        }
        Ok(())
    }
}

/// Reads a file that may have `limit` bytes, and no more than one further.
fn read_text(path: &Path, limit: usize) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| failed(path, &error))?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(path, &error))?;
    Error::at_most(format!("{}, in bytes", path.display()), limit, bytes.len())?;
    String::from_utf8(bytes).map_err(|_| Error::malformed(path.display().to_string(), "is not UTF-8"))
}

pub(super) fn write(bundle: &Bundle, folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    if fs::read_dir(folder).map_err(|error| failed(folder, &error))?.next().is_some() {
        return Err(Error::malformed(folder.display().to_string(), "is not empty; name a folder that does not exist yet"));
    }
    let manifest = toml::to_string(bundle.manifest()).map_err(|error| Error::malformed(MANIFEST, format!("cannot be written: {error}")))?;
    write_text(&folder.join(MANIFEST), &manifest)?;
    write_text(&folder.join(DATA), bundle.data())?;
    for (path, text) in bundle.modules() {
        let file = folder.join(path);
        let parent = file.parent().expect("a joined path has a parent");
        fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        write_text(&file, text)?;
    }
    Ok(())
}

fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    let message = match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
        _ => error.to_string(),
    };
    Error::Folder { path: path.display().to_string(), message }
}
