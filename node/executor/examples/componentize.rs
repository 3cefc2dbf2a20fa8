//! Makes a component of a core module that speaks WASI preview 1, by putting wasmtime's adapter in front of it:
//!
//! ```text
//! cargo run --package tarn-executor --example componentize -- CORE.wasm COMPONENT.wasm [WIT-FOLDER WORLD]
//! ```
//!
//! A world is named for a module that imports or exports interfaces of its own, as those of `client/proto/wit`.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

#[allow(dead_code, reason = "the tests use the rest")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (core, component, world) = match arguments.as_slice() {
        [core, component] => (core, component, None),
        [core, component, wit, world] => (core, component, Some((Path::new(wit), world.as_str()))),
        _ => return Err("usage: componentize CORE.wasm COMPONENT.wasm [WIT-FOLDER WORLD]".into()),
    };
    fs::write(component, componentize(&fs::read(core)?, world)?)?;
    Ok(())
}

/// The component. What exports `_start` becomes a program, anything else a library.
pub fn componentize(core: &[u8], world: Option<(&Path, &str)>) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut module = core.to_vec();
    if let Some((wit, world)) = world {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(wit)?;
        let world = resolve.select_world(&[package], Some(world))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    let is_program = module.windows(b"\x06_start".len()).any(|bytes| bytes == b"\x06_start");
    let adapter = if is_program { WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER } else { WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER };
    let encoder = ComponentEncoder::default().validate(true).module(&module)?;
    Ok(encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?.encode()?)
}
