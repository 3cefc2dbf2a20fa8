//! The contract between the host and what runs inside a micro-VM: addresses, host calls, records.
//!
//! This file is compiled into both sides (and into the attack tests), so it uses nothing but `core`. Guest-virtual addresses
//! equal guest-physical ones; everything but the page tables is in ring 3. Whatever a guest can write, the host distrusts.

/// The size of a page.
pub const PAGE_BYTES: u64 = 0x1000;

/// Code and constants of the guest image: readable, its code executable.
pub const IMAGE_BASE: u64 = 0x20_0000;
/// The end of [`IMAGE_BASE`]'s region.
pub const IMAGE_END: u64 = 0x100_0000;

/// The first address of the guest's own memory, and its first page: see the module [`mailbox`]. Readable and writable.
pub const MAILBOX_BASE: u64 = 0x100_0000;

/// Where the guest collects [records](RECORD_HEADER_BYTES) for the host. Readable and writable.
pub const OUTPUT_BASE: u64 = 0x110_0000;
/// The size of [`OUTPUT_BASE`]'s region.
pub const OUTPUT_BYTES: u64 = 0x4_0000;

/// Where the host puts standard input, piece by piece. Readable.
pub const INPUT_BASE: u64 = 0x120_0000;
/// The size of [`INPUT_BASE`]'s region.
pub const INPUT_BYTES: u64 = 0x4_0000;

/// What the guest is to do: see [`mailbox`] for how it is divided. Readable.
pub const JOB_BASE: u64 = 0x140_0000;
/// The size of [`JOB_BASE`]'s region.
pub const JOB_BYTES: u64 = 0x40_0000;

/// The stack, with nothing below it. Readable and writable.
pub const STACK_BASE: u64 = 0x190_0000;
/// Where the stack begins, growing downwards.
pub const STACK_TOP: u64 = 0x1A0_0000;

/// Variables of the guest image. Readable and writable.
pub const DATA_BASE: u64 = 0x1B0_0000;
/// The end of [`DATA_BASE`]'s region.
pub const DATA_END: u64 = 0x1E0_0000;

/// A page with nothing behind it. Storing the number of a [`call`] here, as four bytes, makes the host call.
pub const DOORBELL: u64 = 0x1F0_0000;

/// The guest runtime's own heap. Readable and writable.
pub const HEAP_BASE: u64 = 0x200_0000;
/// The end of [`HEAP_BASE`]'s region.
pub const HEAP_END: u64 = 0x600_0000;

/// The compiled module, as the host's compiler made it. Readable and executable.
pub const CODE_BASE: u64 = 0x800_0000;
/// The end of [`CODE_BASE`]'s region.
pub const CODE_END: u64 = 0xC00_0000;

/// The module's linear memory, up to the attempt's limit. Readable and writable.
pub const LINEAR_BASE: u64 = 0xC00_0000;

/// Offsets within the page at [`MAILBOX_BASE`]. Each field is eight bytes wide, little-endian.
pub mod mailbox {
    /// Guest to host: the argument of a host call.
    pub const ARGUMENT: u64 = 0x00;
    /// Guest to host: how many bytes of [`super::OUTPUT_BASE`] hold whole records. The host sets it to zero when it took them.
    pub const OUTPUT_USED: u64 = 0x08;
    /// Guest to host, with [`super::call::EXIT`]: one of [`super::exit`].
    pub const EXIT_KIND: u64 = 0x10;
    /// Guest to host, with [`super::call::EXIT`]: the exit status, or how much was asked for.
    pub const EXIT_VALUE: u64 = 0x18;
    /// Guest to host: the most linear memory there was so far, in bytes.
    pub const MEMORY_PEAK: u64 = 0x20;
    /// Guest to host, with [`super::call::EXIT`]: the fuel that was used.
    pub const FUEL_USED: u64 = 0x28;

    /// Host to guest: how many bytes of standard input lie at [`super::INPUT_BASE`]; zero at its end.
    pub const INPUT_LENGTH: u64 = 0x80;
    /// Host to guest: nanoseconds since 1970.
    pub const WALL_NS: u64 = 0x88;
    /// Host to guest: nanoseconds since the attempt began.
    pub const MONOTONIC_NS: u64 = 0x90;
    /// Host to guest: one of [`super::kind`].
    pub const KIND: u64 = 0x98;
    /// Host to guest: the size of the compiled module at [`super::CODE_BASE`].
    pub const CODE_LENGTH: u64 = 0xA0;
    /// Host to guest: the limit of linear memory in bytes.
    pub const MEMORY_LIMIT: u64 = 0xA8;
    /// Host to guest: the most elements that a table may have.
    pub const TABLE_LIMIT: u64 = 0xB0;
    /// Host to guest: the fuel that there is; zero does not meter.
    pub const FUEL: u64 = 0xB8;
    /// Host to guest: how many arguments (or numbers, for a function) lie in the job.
    pub const ARGS_COUNT: u64 = 0xC0;
    /// Host to guest: how many bytes they take, from [`super::JOB_BASE`] on.
    pub const ARGS_LENGTH: u64 = 0xC8;
    /// Host to guest: how many environment variables follow them.
    pub const ENV_COUNT: u64 = 0xD0;
    /// Host to guest: how many bytes they take.
    pub const ENV_LENGTH: u64 = 0xD8;
    /// Host to guest: how many bytes the name of the function takes, which follows them.
    pub const NAME_LENGTH: u64 = 0xE0;

    /// Host to guest: random bytes, fresh after each [`super::call::RANDOM`].
    pub const RANDOM: u64 = 0x800;
    /// How many.
    pub const RANDOM_BYTES: u64 = 0x400;
}

/// The numbers of the host calls.
pub mod call {
    /// The image is initialised. The machine's snapshot is taken here; a copy of it goes on from here with a job.
    pub const READY: u32 = 1;
    /// Take the records.
    pub const FLUSH: u32 = 2;
    /// Give the next piece of standard input.
    pub const INPUT: u32 = 3;
    /// Give the time.
    pub const CLOCK: u32 = 4;
    /// Give fresh random bytes.
    pub const RANDOM: u32 = 5;
    /// Come back after so many nanoseconds.
    pub const SLEEP: u32 = 6;
    /// This is the end.
    pub const EXIT: u32 = 7;
}

/// What is to be run.
pub mod kind {
    /// `_start`, with arguments and environment: strings that each end with a zero byte.
    pub const COMMAND: u64 = 0;
    /// A function by name; the arguments are eight bytes of bits for each number.
    pub const EXPORT: u64 = 1;
}

/// How a job ended.
pub mod exit {
    /// The function returned.
    pub const RETURNED: u64 = 0;
    /// The module exited with a status.
    pub const STATUS: u64 = 1;
    /// It trapped; the detail says why.
    pub const TRAP: u64 = 2;
    /// It asked for more memory than the limit.
    pub const MEMORY: u64 = 3;
    /// It asked for a larger table than the limit.
    pub const TABLE: u64 = 4;
    /// It used up its fuel.
    pub const FUEL: u64 = 5;
    /// It could not be started; the detail says why.
    pub const START: u64 = 6;
    /// The guest runtime itself failed; the detail says why.
    pub const PANIC: u64 = 7;
}

/// A record is a stream (one of [`stream`]) and a length, four bytes each, and so many bytes.
pub const RECORD_HEADER_BYTES: u64 = 8;

/// Where the bytes of a record belong.
pub mod stream {
    /// Standard output.
    pub const STDOUT: u32 = 1;
    /// Standard error.
    pub const STDERR: u32 = 2;
    /// The results of a function: eight bytes of bits for each number.
    pub const RESULTS: u32 = 3;
    /// Text that says why something failed.
    pub const DETAIL: u32 = 4;
}

/// The module name of WASI preview 1.
pub const WASI: &str = "wasi_snapshot_preview1";

/// Its functions, each with its parameters: `i` for an `i32`, `I` for an `i64`. All but `proc_exit` return an `i32`, which is an
/// error number (<https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md>).
pub const WASI_FUNCTIONS: &[(&str, &str)] = &[
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "iIi"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "iiiIi"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_prestat_get", "ii"),
    ("fd_pwrite", "iiiIi"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiiIi"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiiIIi"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiiIIii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_exit", "i"),
    ("proc_raise", "i"),
    ("random_get", "ii"),
    ("sched_yield", ""),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];
