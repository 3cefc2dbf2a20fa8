//! WebAssembly modules, compiled ahead of time for the guest.
//!
//! The compiler runs here, on bytes that a tenant chose; what it makes runs in the guest only. So a compiler that can be talked into
//! wrong code lets a tenant out of the sandbox, but not out of the machine.

use std::hash::{Hash as _, Hasher};

use wasmparser::types::EntityType;
use wasmparser::{FuncType, ValType, Validator};
use wasmtime::{Config, Engine, OptLevel};

use super::abi::{CODE_BASE, CODE_END, WASI, WASI_FUNCTIONS};
use super::settings;
use crate::ExecutionError;
use crate::function::{Number, Signature};

/// A compiled module.
pub(super) struct Module {
    /// What the guest loads.
    pub(super) code: Vec<u8>,
    /// The exported functions.
    pub(super) functions: Vec<(String, Signature)>,
}

/// A compiler for the guest.
pub(super) struct Compiler {
    engine: Engine,
    /// Differs between compilers that cannot use each other's code, and from that of every other runtime.
    pub(super) fingerprint: String,
}

impl Compiler {
    /// A compiler for this machine's processor.
    pub(super) fn new(metered: bool) -> Result<Self, ExecutionError> {
        let mut config = Config::new();
        config.target("x86_64-unknown-none").map_err(broken)?;
        settings::agree(&mut config, metered);
        config.cranelift_opt_level(OptLevel::Speed).cranelift_nan_canonicalization(true);
        for (feature, flag, detected) in features() {
            if detected {
                // SAFETY: the processor has the feature, and the guest runs on the same one.
                unsafe { config.cranelift_flag_enable(flag) };
            } else if NEEDED.contains(&feature) {
                return Err(ExecutionError::KvmUnavailable { detail: format!("the processor has no {feature}") });
            }
        }
        let engine = Engine::new(&config).map_err(broken)?;
        let mut hasher = StableHasher(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let fingerprint = format!("vm{}", &hasher.0.finalize().to_hex()[..14]);
        Ok(Self { engine, fingerprint })
    }

    /// Checks a module, which may be given as text, and compiles it.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Module, ExecutionError> {
        let invalid = |detail: String| ExecutionError::InvalidModule { detail };
        let binary = wat::parse_bytes(bytes).map_err(|error| invalid(one_line(&error.to_string())))?;
        let code = self.engine.precompile_module(&binary);
        let code = code.map_err(|error| invalid(one_line(&format!("{error:#}"))))?;
        let room = CODE_END - CODE_BASE;
        if code.len() as u64 > room {
            let detail = format!("its machine code has {} bytes and the limit is {room}", code.len());
            return Err(invalid(detail));
        }
        let functions = inspect(&binary)?;
        Ok(Module { code, functions })
    }
}

/// The processor's features that compiled code may use: the name that the processor's maker uses, the compiler's, and whether
/// it is there.
fn features() -> [(&'static str, &'static str, bool); 12] {
    macro_rules! feature {
        ($name:tt, $flag:literal) => {
            ($name, $flag, std::arch::is_x86_feature_detected!($name))
        };
    }
    [
        feature!("sse3", "has_sse3"),
        feature!("ssse3", "has_ssse3"),
        feature!("sse4.1", "has_sse41"),
        feature!("sse4.2", "has_sse42"),
        feature!("popcnt", "has_popcnt"),
        feature!("lzcnt", "has_lzcnt"),
        feature!("bmi1", "has_bmi1"),
        feature!("bmi2", "has_bmi2"),
        feature!("avx", "has_avx"),
        feature!("avx2", "has_avx2"),
        feature!("fma", "has_fma"),
        feature!("cmpxchg16b", "has_cmpxchg16b"),
    ]
}

/// Without these, compiled code calls functions of the guest with numbers in registers that the guest, which is built without
/// floating point, does not look into.
const NEEDED: [&str; 5] = ["sse3", "ssse3", "sse4.1", "sse4.2", "fma"];

/// Checks the imports and finds the exported functions of a valid module.
fn inspect(binary: &[u8]) -> Result<Vec<(String, Signature)>, ExecutionError> {
    let types = Validator::new().validate_all(binary);
    let types = types.map_err(|error| ExecutionError::InvalidModule { detail: one_line(&error.to_string()) })?;
    let types = types.as_ref();
    for (module, name, ty) in types.core_imports().into_iter().flatten() {
        let function = match ty {
            EntityType::Func(id) | EntityType::FuncExact(id) => Some(types[id].unwrap_func()),
            _ => None,
        };
        check_import(module, name, function)?;
    }
    let mut functions = Vec::new();
    for (name, ty) in types.core_exports().into_iter().flatten() {
        if let EntityType::Func(id) | EntityType::FuncExact(id) = ty {
            functions.push((name.to_owned(), signature(types[id].unwrap_func())));
        }
    }
    Ok(functions)
}

fn check_import(module: &str, name: &str, function: Option<&FuncType>) -> Result<(), ExecutionError> {
    let unsupported = |import: String| Err(ExecutionError::UnsupportedImport { import });
    let offered = WASI_FUNCTIONS.iter().find(|(offered, _)| module == WASI && name == *offered);
    let Some((_, params)) = offered else {
        return unsupported(format!("{module}::{name}"));
    };
    let wanted = |function: &FuncType| {
        let letters = function.params().iter().map(|ty| match ty {
            ValType::I32 => 'i',
            ValType::I64 => 'I',
            _ => '?',
        });
        let results: &[ValType] = if name == "proc_exit" { &[] } else { &[ValType::I32] };
        letters.eq(params.chars()) && function.results() == results
    };
    if function.is_some_and(wanted) { Ok(()) } else { unsupported(format!("{module}::{name} with another type")) }
}

fn signature(function: &FuncType) -> Signature {
    let number = |ty: &ValType| match ty {
        ValType::I32 => Some(Number::I32),
        ValType::I64 => Some(Number::I64),
        ValType::F32 => Some(Number::F32),
        ValType::F64 => Some(Number::F64),
        ValType::V128 | ValType::Ref(_) => None,
    };
    let numbers = |types: &[ValType]| types.iter().map(number).collect();
    Signature { params: numbers(function.params()), results: numbers(function.results()) }
}

/// Modules as entries of the cache on disk: a count, the exported functions, and the code. A string is its length and its
/// bytes; lengths are four bytes.
impl Module {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let string = |bytes: &mut Vec<u8>, string: &[u8]| {
            bytes.extend(u32::try_from(string.len()).expect("shorter than a module").to_le_bytes());
            bytes.extend_from_slice(string);
        };
        let count = u32::try_from(self.functions.len()).expect("fewer than a module has bytes");
        bytes.extend(count.to_le_bytes());
        for (name, signature) in &self.functions {
            string(&mut bytes, name.as_bytes());
            string(&mut bytes, &letters(&signature.params));
            string(&mut bytes, &letters(&signature.results));
        }
        bytes.extend_from_slice(&self.code);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made; `None` for anything else.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let count = take_number(&mut bytes)?;
        let mut functions = Vec::new();
        for _ in 0..count {
            let name = String::from_utf8(take_string(&mut bytes)?.to_vec()).ok()?;
            let params = numbers(take_string(&mut bytes)?)?;
            let results = numbers(take_string(&mut bytes)?)?;
            functions.push((name, Signature { params, results }));
        }
        Some(Self { code: bytes.to_vec(), functions })
    }
}

fn take_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

fn take_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_number(bytes)? as usize;
    let (string, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(string)
}

fn letters(types: &[Option<Number>]) -> Vec<u8> {
    types
        .iter()
        .map(|number| match number {
            Some(Number::I32) => b'i',
            Some(Number::I64) => b'I',
            Some(Number::F32) => b'f',
            Some(Number::F64) => b'F',
            None => b'-',
        })
        .collect()
}

fn numbers(letters: &[u8]) -> Option<Vec<Option<Number>>> {
    let number = |letter: &u8| match letter {
        b'i' => Some(Some(Number::I32)),
        b'I' => Some(Some(Number::I64)),
        b'f' => Some(Some(Number::F32)),
        b'F' => Some(Some(Number::F64)),
        b'-' => Some(None),
        _ => None,
    };
    letters.iter().map(number).collect()
}

fn broken(error: wasmtime::Error) -> ExecutionError {
    ExecutionError::broken(format!("{error:#}"))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Feeds what is hashed into BLAKE3, which unlike the standard library's hasher does not change with the compiler.
struct StableHasher(blake3::Hasher);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func (export "mix") (param i32 i64 f32) (result f64 i32) f64.const 0 i32.const 0)
        (func (export "odd") (param funcref)))"#;

    #[test]
    fn a_module_comes_back_from_its_bytes() {
        let module = Compiler::new(false).unwrap().compile(TEXT.as_bytes()).unwrap();
        let again = Module::from_bytes(&module.to_bytes()).unwrap();
        assert_eq!(again.functions, module.functions);
        assert!(again.code == module.code);
        let (name, signature) = &module.functions[0];
        assert_eq!(name, "mix");
        assert_eq!(signature.params, [Some(Number::I32), Some(Number::I64), Some(Number::F32)]);
        assert_eq!(module.functions[1].1.params, [None]);
    }

    #[test]
    fn imports_that_are_not_offered_are_named() {
        let compiler = Compiler::new(false).unwrap();
        let cases = [
            (r#"(module (import "env" "f" (func)))"#, "env::f"),
            (r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func)))"#, "wasi_snapshot_preview1::proc_exit with another type"),
            (r#"(module (import "wasi_snapshot_preview1" "fd_read" (memory 1)))"#, "wasi_snapshot_preview1::fd_read with another type"),
        ];
        for (text, expected) in cases {
            match compiler.compile(text.as_bytes()).map(|_| ()) {
                Err(ExecutionError::UnsupportedImport { import }) => assert_eq!(import, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn metered_code_is_not_taken_for_unmetered() {
        assert_ne!(Compiler::new(false).unwrap().fingerprint, Compiler::new(true).unwrap().fingerprint);
    }
}
