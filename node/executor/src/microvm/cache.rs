//! Finds the compiled form of an artifact: in memory, on disk, or by compiling it, once however many ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, Semaphore};

use super::module::{Compiler, Module};
use crate::wasm::disk::{DiskCache, Entry};
use crate::{ExecutionError, Hash, Source};

/// How many bytes the compiled modules in memory may have together.
const MODULES_BYTES_MAX: usize = 256 << 20;

/// How many modules stay in memory at most.
const MODULES_MAX: usize = 128;

/// How many modules are compiled at once. The compiler already uses all cores for one module.
const COMPILING_MAX: usize = 2;

/// A compiler and the modules that it compiled.
pub(super) struct Cache {
    compiler: Arc<Compiler>,
    disk: Option<Arc<DiskCache>>,
    kept: Mutex<Kept>,
    compiling: Semaphore,
}

#[derive(Default)]
struct Kept {
    modules: HashMap<Hash, Slot>,
    uses: u64,
}

struct Slot {
    module: Arc<OnceCell<Arc<Module>>>,
    last_use: u64,
}

impl Cache {
    pub(super) fn new(compiler: Compiler, disk: Option<Arc<DiskCache>>) -> Self {
        Self { compiler: Arc::new(compiler), disk, kept: Mutex::default(), compiling: Semaphore::new(COMPILING_MAX) }
    }

    /// Returns the module of an artifact, making it if need be. While one caller makes it, others wait; when that caller fails or
    /// goes away, the next one tries with its own source.
    pub(super) async fn module(&self, artifact: &Hash, source: Source) -> Result<Arc<Module>, ExecutionError> {
        let slot = self.lock().slot(artifact);
        let made = slot.get_or_try_init(|| self.make(*artifact, source)).await;
        let module = made.map(Arc::clone);
        self.lock().tidy(artifact);
        module
    }

    async fn make(&self, artifact: Hash, source: Source) -> Result<Arc<Module>, ExecutionError> {
        if let Some(disk) = self.disk.clone() {
            let compiler = Arc::clone(&self.compiler);
            if let Some(module) = blocking(move || load(&disk, &compiler, &artifact)).await? {
                return Ok(Arc::new(module));
            }
        }
        let bytes = source.obtain(&artifact).await?;
        let _compiling = self.compiling.acquire().await.map_err(ExecutionError::broken)?;
        let (compiler, disk) = (Arc::clone(&self.compiler), self.disk.clone());
        let module = blocking(move || compile(disk.as_deref(), &compiler, &artifact, &bytes)).await??;
        Ok(Arc::new(module))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn slot(&mut self, artifact: &Hash) -> Arc<OnceCell<Arc<Module>>> {
        self.uses += 1;
        let slot = self.modules.entry(*artifact).or_insert_with(|| Slot { module: Arc::default(), last_use: 0 });
        slot.last_use = self.uses;
        Arc::clone(&slot.module)
    }

    /// Forgets what could not be made, and what was unused for longest, down to the bounds. `newest` stays if it was made: it is
    /// about to be run.
    fn tidy(&mut self, newest: &Hash) {
        // The map holds one reference; another one is somebody who waits or makes.
        self.modules.retain(|_, slot| slot.module.initialized() || Arc::strong_count(&slot.module) > 1);
        while self.modules.len() > MODULES_MAX || self.bytes() > MODULES_BYTES_MAX {
            let others = self.modules.iter().filter(|(artifact, _)| *artifact != newest);
            let Some((oldest, _)) = others.min_by_key(|(_, slot)| slot.last_use) else {
                return;
            };
            let oldest = *oldest;
            self.modules.remove(&oldest);
        }
    }

    fn bytes(&self) -> usize {
        let modules = self.modules.values().filter_map(|slot| slot.module.get());
        modules.map(|module| module.code.len()).sum()
    }
}

/// Reads a module from disk. Anything wrong with it only means that it has to be compiled again.
fn load(disk: &DiskCache, compiler: &Compiler, artifact: &Hash) -> Option<Module> {
    let why = match disk.load(artifact, &compiler.fingerprint) {
        Ok(Entry::Missing) => return None,
        Ok(Entry::Intact(bytes)) => match Module::from_bytes(&bytes) {
            Some(module) => return Some(module),
            None => "it has another layout".to_owned(),
        },
        Ok(Entry::Damaged) => "it is damaged".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(%artifact, why, "a compiled module on disk cannot be used: compiling it again");
    if let Err(error) = disk.discard(artifact, &compiler.fingerprint) {
        tracing::warn!(%artifact, %error, "cannot remove a compiled module from disk");
    }
    None
}

fn compile(disk: Option<&DiskCache>, compiler: &Compiler, artifact: &Hash, bytes: &[u8]) -> Result<Module, ExecutionError> {
    let actual = Hash::of(bytes);
    if actual != *artifact {
        return Err(ExecutionError::HashMismatch { expected: *artifact, actual });
    }
    let module = compiler.compile(bytes)?;
    if let Some(disk) = disk
        && let Err(error) = disk.store(artifact, &compiler.fingerprint, &module.to_bytes())
    {
        // The attempt can go on; only the next start of this node has to compile again.
        tracing::warn!(%artifact, %error, "cannot keep a compiled module on disk");
    }
    Ok(module)
}

/// Runs `work`, which is heavy on the processor or the disk, away from the threads that serve everything else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ExecutionError> {
    tokio::task::spawn_blocking(work).await.map_err(ExecutionError::broken)
}
