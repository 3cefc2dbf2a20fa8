//! What guests may import: WASI, with a refusal in the place of each function that a guest was not granted.
//!
//! Tool-chains import more than a program uses, so an import is never missing; calling it is what ends the guest, with
//! a reason that names the capability.

use std::sync::OnceLock;

use wasmtime::{Engine, ExternType, FuncType, Linker, Store, component};
use wasmtime_wasi::{p1, p2};

use super::guest::{Guest, Stop};
use super::{contract, driver, nested, scratch};
use crate::Grants;

/// The module name of WASI preview 1.
const WASI: &str = "wasi_snapshot_preview1";

/// What a guest can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    Clock,
    Random,
    Scratch,
    Sockets,
}

impl Capability {
    /// The field of [`Grants`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Scratch => "scratch",
            Self::Sockets => "sockets",
        }
    }

    /// What the user can do about a refusal.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Clock => "add `clock` to the task's grants",
            Self::Random => {
                "add `random` to the task's grants (the run-time systems of Rust, Python, JavaScript, Go and others want it merely to start)"
            }
            Self::Scratch => "add `scratch_bytes` to the task's grants",
            Self::Sockets => "no task is given sockets: use the HTTP that tarn:guest offers",
        }
    }
}

/// The functions of WASI preview 1 that need a capability. The others work on what is always there: standard input, output and
/// error, arguments, environment, exit.
const PREVIEW1_NEEDS: [(&str, Capability); 20] = [
    ("clock_res_get", Capability::Clock),
    ("clock_time_get", Capability::Clock),
    ("poll_oneoff", Capability::Clock),
    ("random_get", Capability::Random),
    ("path_create_directory", Capability::Scratch),
    ("path_filestat_get", Capability::Scratch),
    ("path_filestat_set_times", Capability::Scratch),
    ("path_link", Capability::Scratch),
    ("path_open", Capability::Scratch),
    ("path_readlink", Capability::Scratch),
    ("path_remove_directory", Capability::Scratch),
    ("path_rename", Capability::Scratch),
    ("path_symlink", Capability::Scratch),
    ("path_unlink_file", Capability::Scratch),
    ("fd_readdir", Capability::Scratch),
    ("fd_allocate", Capability::Scratch),
    ("sock_accept", Capability::Sockets),
    ("sock_recv", Capability::Sockets),
    ("sock_send", Capability::Sockets),
    ("sock_shutdown", Capability::Sockets),
];

/// The same of WASI 0.2. Without scratch there is no directory, so that every function on one is out of reach.
const PREVIEW2_NEEDS: [(&str, &[&str], Capability); 9] = [
    ("wasi:clocks/wall-clock@0.2.12", &["now", "resolution"], Capability::Clock),
    ("wasi:clocks/monotonic-clock@0.2.12", &["now", "resolution", "subscribe-instant", "subscribe-duration"], Capability::Clock),
    ("wasi:random/random@0.2.12", &["get-random-bytes", "get-random-u64"], Capability::Random),
    ("wasi:random/insecure@0.2.12", &["get-insecure-random-bytes", "get-insecure-random-u64"], Capability::Random),
    ("wasi:random/insecure-seed@0.2.12", &["insecure-seed"], Capability::Random),
    ("wasi:sockets/instance-network@0.2.12", &["instance-network"], Capability::Sockets),
    ("wasi:sockets/ip-name-lookup@0.2.12", &["resolve-addresses"], Capability::Sockets),
    ("wasi:sockets/tcp-create-socket@0.2.12", &["create-tcp-socket"], Capability::Sockets),
    ("wasi:sockets/udp-create-socket@0.2.12", &["create-udp-socket"], Capability::Sockets),
];

/// The part of the grants that decides what is linked. Everything else is asked for at each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    clock: bool,
    random: bool,
    scratch: bool,
}

/// How many different offers there are.
pub(super) const OFFERS: usize = 8;

impl Offer {
    pub(super) fn of(grants: &Grants) -> Self {
        Self { clock: grants.clock, random: grants.random, scratch: grants.scratch_bytes > 0 }
    }

    /// A number below [`OFFERS`].
    pub(super) fn index(self) -> usize {
        usize::from(self.clock) | usize::from(self.random) << 1 | usize::from(self.scratch) << 2
    }

    fn from_index(index: usize) -> Self {
        Self { clock: index & 1 != 0, random: index & 2 != 0, scratch: index & 4 != 0 }
    }

    fn has(self, capability: Capability) -> bool {
        match capability {
            Capability::Clock => self.clock,
            Capability::Random => self.random,
            Capability::Scratch => self.scratch,
            Capability::Sockets => false,
        }
    }
}

/// A linker for each offer.
pub(super) struct Linkers {
    engine: Engine,
    preview1: Vec<Linker<Guest>>,
    /// Made when first wanted: many nodes never see a component.
    component: [OnceLock<component::Linker<Guest>>; OFFERS],
}

impl Linkers {
    pub(super) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let whole = preview1(engine)?;
        let types = preview1_types(engine, &whole)?;
        let offers = (0..OFFERS).map(Offer::from_index);
        Ok(Self {
            engine: engine.clone(),
            component: Default::default(),
            preview1: offers.map(|offer| refuse_the_rest(&whole, &types, offer)).collect::<wasmtime::Result<_>>()?,
        })
    }

    pub(super) fn preview1(&self, offer: usize) -> &Linker<Guest> {
        &self.preview1[offer]
    }

    pub(super) fn component(&self, offer: usize) -> wasmtime::Result<&component::Linker<Guest>> {
        if let Some(linker) = self.component[offer].get() {
            return Ok(linker);
        }
        let made = components(&self.engine, Offer::from_index(offer))?;
        Ok(self.component[offer].get_or_init(|| made))
    }
}

/// WASI preview 1 with everything.
fn preview1(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, Guest::preview1)?;
    linker.allow_shadowing(true);
    // The stock function turns exit statuses from 126 up into an anonymous error, but `exit(255)` and `abort` are what
    // programs do.
    linker.func_wrap(WASI, "proc_exit", Guest::exit)?;
    scratch::add_to_linker(&mut linker, WASI)?;
    Ok(linker)
}

/// The types of the functions that may have to be refused.
fn preview1_types(engine: &Engine, whole: &Linker<Guest>) -> wasmtime::Result<Vec<FuncType>> {
    let mut store = Store::new(engine, Guest::nobody());
    let types = PREVIEW1_NEEDS.map(|(name, _)| match whole.get(&mut store, WASI, name).map(|it| it.ty(&store)) {
        Ok(ExternType::Func(function)) => Ok(function),
        _ => Err(wasmtime::Error::msg(format!("{WASI} has no function {name}"))),
    });
    types.into_iter().collect()
}

/// A copy in which calling what is not on offer ends the guest.
fn refuse_the_rest(whole: &Linker<Guest>, types: &[FuncType], offer: Offer) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = whole.clone();
    for ((name, capability), ty) in PREVIEW1_NEEDS.into_iter().zip(types) {
        if !offer.has(capability) {
            linker.func_new(WASI, name, ty.clone(), move |mut caller, _, _| {
                Err(caller.data_mut().refuse(capability.name(), name, capability.advice()))
            })?;
        }
    }
    linker.allow_shadowing(false);
    Ok(linker)
}

/// WASI 0.2 and the contract of tarn, with refusals in place.
fn components(engine: &Engine, offer: Offer) -> wasmtime::Result<component::Linker<Guest>> {
    let mut linker = component::Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    contract::add_to_linker(&mut linker)?;
    nested::add_to_linker(&mut linker)?;
    driver::add_to_linker(&mut linker)?;
    linker.allow_shadowing(true);
    scratch::add_to_component_linker(&mut linker)?;
    for (interface, functions, capability) in PREVIEW2_NEEDS {
        if offer.has(capability) {
            continue;
        }
        let mut instance = linker.instance(interface)?;
        for function in functions {
            instance.func_new(function, move |mut store, _, _, _| {
                let call = format!("{interface}.{function}");
                Err(store.data_mut().refuse(capability.name(), call, capability.advice()))
            })?;
        }
    }
    Ok(linker)
}

impl Guest {
    /// Ends the guest because it used what it was not granted.
    pub(super) fn refuse(&mut self, capability: &'static str, call: impl Into<String>, advice: impl Into<String>) -> wasmtime::Error {
        self.stop = Some(Stop::Refused { capability, call: call.into(), advice: advice.into() });
        wasmtime::Error::msg("not granted")
    }
}
