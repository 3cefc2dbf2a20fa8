//! Compiling CUDA C++ to PTX with NVRTC, once for each source, architecture and driver, and keeping the result on disk.
//!
//! An entry is a file named after a BLAKE3 hash of everything that the result depends on; it begins with the hash of its own content.
//! Anything else is compiled again: the cache can lose entries, never give a wrong one.

use std::fs;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts, sys};

use super::super::backend::tail;
use super::super::message::JobError;
use crate::Hash;
use crate::durable::{Unfinished, own_directory};

/// How much of a compiler's complaint is passed on, in characters: its end, where the errors are.
const COMPLAINT_MAX: usize = 2000;

/// Whether NVRTC can be loaded. Every call into it panics otherwise.
#[must_use]
pub fn is_present() -> bool {
    // SAFETY: it loads a library of the system by its well-known name, which runs that library's initialisers and nothing else.
    unsafe { sys::is_culib_present() }
}

/// Compiles for one architecture.
#[derive(Debug, Clone)]
pub struct Compiler {
    architecture: String,
    /// What else the result depends on: the driver's version, and NVRTC's.
    versions: String,
    cache_dir: Option<PathBuf>,
}

impl Compiler {
    /// A compiler for devices of this compute capability, with this version of the driver.
    #[must_use]
    pub fn new(compute_capability: (u32, u32), driver_version: u32, cache_dir: Option<&str>) -> Self {
        let (major, minor) = compute_capability;
        let cache_dir = cache_dir.map(PathBuf::from);
        // A cache that cannot be used costs time, not results.
        let cache_dir = cache_dir.filter(|dir| own_directory(dir).is_ok());
        Self {
            architecture: format!("compute_{major}{minor}"),
            versions: format!("driver {driver_version}, compiler {}", version()),
            cache_dir,
        }
    }

    /// The PTX of a source.
    ///
    /// # Errors
    /// `InvalidKernel` with the compiler's complaint, or `Device` when there is no compiler.
    pub fn compile(&self, source: &str) -> Result<String, JobError> {
        let key = self.key(source);
        if let Some(ptx) = self.load(&key) {
            return Ok(ptx);
        }
        if !is_present() {
            return Err(JobError::Device { detail: "NVRTC is not installed".into() });
        }
        check_directives(source)?;
        let options = CompileOptions {
            options: vec![format!("--gpu-architecture={}", self.architecture), "--std=c++17".into()],
            name: Some("kernel.cu".into()),
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(source, options).map_err(complain)?.to_src();
        self.store(&key, &ptx);
        Ok(ptx)
    }

    fn key(&self, source: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("tarn 2026 compiled CUDA kernel cache entry");
        for part in [&self.architecture, &self.versions, source] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        format!("{}.ptx", hasher.finalize().to_hex())
    }

    fn load(&self, key: &str) -> Option<String> {
        let bytes = fs::read(self.cache_dir.as_ref()?.join(key)).ok()?;
        let (hash, ptx) = bytes.split_first_chunk::<32>()?;
        if Hash::of(ptx).as_bytes() != hash {
            return None;
        }
        String::from_utf8(ptx.to_vec()).ok()
    }

    /// Not being able to keep the result only means to compile again.
    fn store(&self, key: &str, ptx: &str) {
        if let Some(dir) = &self.cache_dir
            && let Err(error) = persist(dir, key, ptx)
        {
            tracing::warn!(%error, "a compiled CUDA kernel could not be kept");
        }
    }
}

fn persist(dir: &Path, key: &str, ptx: &str) -> std::io::Result<()> {
    let mut file = Unfinished::create(dir)?;
    file.append(Hash::of(ptx.as_bytes()).as_bytes())?;
    file.append(ptx.as_bytes())?;
    file.persist(dir, key)
}

fn version() -> String {
    if !is_present() {
        return "none".into();
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes two integers to the places given.
    let _ = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    format!("{major}.{minor}")
}

/// Refuses directives that read other files: the compiler runs with the worker's rights, and its complaints quote what it reads.
fn check_directives(source: &str) -> Result<(), JobError> {
    // A backslash at the end of a line joins it with the next one before directives are read.
    let joined = source.replace("\\\r\n", "").replace("\\\n", "");
    let reads = |line: &str| {
        let mark = ["#", "%:", "??="].iter().filter_map(|mark| line.find(mark)).min();
        mark.is_some_and(|at| ["include", "embed", "import"].iter().any(|word| line[at..].contains(word)))
    };
    match joined.lines().position(reads) {
        None => Ok(()),
        Some(line) => Err(JobError::InvalidKernel {
            detail: format!("line {} includes a file, and a kernel must be one file: leave it out", line + 1),
        }),
    }
}

fn complain(error: CompileError) -> JobError {
    let detail = match error {
        CompileError::CompileError { log, .. } => tail(&log.to_string_lossy(), COMPLAINT_MAX),
        other => format!("{other:?}"),
    };
    JobError::InvalidKernel { detail }
}

#[cfg(test)]
mod tests {
    use super::super::gpu::SOURCES;
    use super::*;

    /// The compiler works without a device. Where it is not installed (PyPI's `nvidia-cuda-nvrtc` is enough), these tests say so.
    fn compiler(cache_dir: Option<&str>) -> Option<Compiler> {
        let found = is_present();
        assert!(found || std::env::var_os("TARN_REQUIRE_NVRTC").is_none(), "NVRTC was not found");
        if !found {
            eprintln!("skipped: NVRTC was not found");
        }
        found.then(|| Compiler::new((8, 0), 13_000, cache_dir))
    }

    #[test]
    fn the_kernels_compile_for_old_and_new_devices() {
        if compiler(None).is_none() {
            return;
        }
        for capability in [(7, 5), (8, 0), (9, 0), (10, 0)] {
            for (name, source, entries) in SOURCES {
                let ptx = Compiler::new(capability, 13_000, None).compile(source);
                let ptx = ptx.unwrap_or_else(|error| panic!("{name} for {capability:?}: {error}"));
                for entry in *entries {
                    assert!(ptx.contains(&format!(".entry {entry}(")), "{name} has no kernel {entry}");
                }
            }
        }
    }

    #[test]
    fn complaints_of_the_compiler_reach_the_user() {
        let Some(compiler) = compiler(None) else { return };
        let error = compiler.compile("__global__ void f() { undeclared = 1; }").unwrap_err();
        assert!(matches!(&error, JobError::InvalidKernel { detail } if detail.contains("undeclared")), "{error}");
    }

    #[test]
    fn entries_are_kept_and_damaged_ones_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("kernels");
        let Some(compiler) = compiler(cache.to_str()) else {
            return;
        };
        let source = "extern \"C\" __global__ void f(int *x) { *x = 1; }";
        let ptx = compiler.compile(source).unwrap();
        let path = cache.join(compiler.key(source));
        let good = fs::read(&path).unwrap();
        assert_eq!(compiler.load(&compiler.key(source)).as_deref(), Some(ptx.as_str()));
        fs::write(&path, [&good[..40], b"!", &good[41..]].concat()).unwrap();
        assert_eq!(compiler.load(&compiler.key(source)), None);
        assert_eq!(compiler.compile(source).unwrap(), ptx);
        assert_eq!(fs::read(&path).unwrap(), good);
        let other = Compiler::new((9, 0), 13_000, cache.to_str());
        assert_ne!(other.key(source), compiler.key(source));
    }

    #[test]
    fn files_cannot_be_read_by_any_spelling() {
        for bad in [
            "#include \"/etc/hostname\"",
            "  # /* */ include </etc/hostname>",
            "#inc\\\nlude \"/etc/hostname\"",
            "int a;\n%:include \"x\"",
            "#if __has_include(\"/etc/shadow\")",
            "/* */ #embed \"x\"",
        ] {
            assert!(matches!(check_directives(bad), Err(JobError::InvalidKernel { .. })), "{bad}");
        }
        check_directives("#define N 4\n// include nothing\n__global__ void f() {}").unwrap();
    }
}
