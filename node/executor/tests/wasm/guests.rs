//! Guests, as WebAssembly text.

/// The imports that most guests need, a memory, and `$print`: writes `len` bytes at `ptr` to a file descriptor. Guests keep
/// their own data from address 1024 on.
const PRELUDE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func $print (param $fd i32) (param $ptr i32) (param $len i32)
        (i32.store (i32.const 0) (local.get $ptr))
        (i32.store (i32.const 4) (local.get $len))
        (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))
"#;

/// A command with this body.
pub fn command(body: &str) -> String {
    format!("(module {PRELUDE} (func (export \"_start\") {body}))")
}

/// A module with these definitions.
pub fn module(definitions: &str) -> String {
    format!("(module {PRELUDE} {definitions})")
}

/// A command that writes `text` to `fd`, then does `rest`.
pub fn say(fd: u32, text: &str, rest: &str) -> String {
    let length = text.len();
    module(&format!(
        r#"(data (i32.const 1024) "{text}")
        (func (export "_start") (call $print (i32.const {fd}) (i32.const 1024) (i32.const {length})) {rest})"#
    ))
}

/// Copies standard input to standard output.
pub fn echo() -> String {
    command(
        "(loop $more
            (i32.store (i32.const 16) (i32.const 1024))
            (i32.store (i32.const 20) (i32.const 65536))
            (if (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)) (then unreachable))
            (if (i32.load (i32.const 24)) (then
                (call $print (i32.const 1) (i32.const 1024) (i32.load (i32.const 24)))
                (br $more))))",
    )
}

/// Writes the arguments to standard output, each with a zero byte behind it.
pub fn print_args() -> String {
    print_list("args")
}

/// Writes the environment to standard output, each variable with a zero byte behind it.
pub fn print_env() -> String {
    print_list("environ")
}

fn print_list(list: &str) -> String {
    command(&format!(
        "(drop (call ${list}_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call ${list}_get (i32.const 1024) (i32.const 4096)))
        (call $print (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))"
    ))
}

/// Computes for ever.
pub const ENDLESS: &str = "(loop $again (br $again))";

/// Sleeps for an hour.
pub const SLEEP: &str = "
    (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 3600000000000))
    (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))";

/// Functions on numbers.
pub const NUMBERS: &str = r#"(module
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "long") (param i64) (result i64) (local.get 0))
    (func (export "half") (param f32) (result f32) (f32.div (local.get 0) (f32.const 2)))
    (func (export "root") (param f64) (result f64) (f64.sqrt (local.get 0)))
    (func (export "swap") (param i32 f64) (result f64 i32) (local.get 1) (local.get 0))
    (func (export "nothing"))
    (func (export "reference") (param funcref))
    (func (export "vector") (result v128) (v128.const i64x2 0 0))
    (global (export "answer") i32 (i32.const 42)))"#;

/// One function for each thing that needs a grant, and others that try the limits of it. The directory is descriptor 3.
pub const REACHING: &str = r#"(module
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_shutdown" (func $sock_shutdown (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 1024) "file../../etc/passwd")
    (func (export "clock") (result i32) (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 64)))
    (func (export "resolution") (result i32) (call $clock_res_get (i32.const 0) (i32.const 64)))
    (func (export "sleep") (result i32)
        (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1))
        (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))
    (func (export "random") (result i32) (call $random_get (i32.const 64) (i32.const 16)))
    (func (export "sockets") (result i32) (call $sock_shutdown (i32.const 3) (i32.const 0)))
    (func (export "directory") (result i32) (call $fd_prestat_get (i32.const 3) (i32.const 64)))
    (func $create (export "create") (result i32) (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4)
        (i32.const 1) (i64.const 0x400066) (i64.const 0x400066) (i32.const 0) (i32.const 64)))
    (func (export "escape") (result i32) (call $path_open (i32.const 3) (i32.const 0) (i32.const 1028) (i32.const 16)
        (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 64)))
    (func $name (export "name") (result i32) (call $mkdir (i32.const 3) (i32.const 1024) (i32.const 4)))
    ;; Writes pages of 4096 bytes to the file just opened until there is an error: their number times 1000, and the error.
    (func $fill (export "fill") (result i32) (local $pages i32) (local $errno i32)
        (drop (call $create))
        (i32.store (i32.const 72) (i32.const 4096)) (i32.store (i32.const 76) (i32.const 4096))
        (block $full (loop $more
            (br_if $full (local.tee $errno
                (call $fd_write (i32.load (i32.const 64)) (i32.const 72) (i32.const 1) (i32.const 80))))
            (local.set $pages (i32.add (local.get $pages) (i32.const 1)))
            (br $more)))
        (i32.add (i32.mul (local.get $pages) (i32.const 1000)) (local.get $errno)))
    ;; The same after standard output was closed, so that the file gets its number.
    (func (export "fill_as_output") (result i32)
        (drop (call $fd_close (i32.const 1)))
        (call $fill))
    ;; The same with the file put in the place of standard output.
    (func (export "fill_renumbered") (result i32)
        (drop (call $create))
        (drop (call $fd_renumber (i32.load (i32.const 64)) (i32.const 1)))
        (i32.store (i32.const 72) (i32.const 4096)) (i32.store (i32.const 76) (i32.const 131000))
        (call $fd_write (i32.const 1) (i32.const 72) (i32.const 1) (i32.const 80)))
    ;; The same, removing the name while the file stays open.
    (func (export "fill_nameless") (result i32)
        (drop (call $create))
        (drop (call $unlink (i32.const 3) (i32.const 1024) (i32.const 4)))
        (call $fill))
    (func (export "grow") (param $size i64) (result i32)
        (drop (call $create))
        (call $set_size (i32.load (i32.const 64)) (local.get $size)))
    ;; One byte behind a hole.
    (func (export "hole") (param $at i64) (result i32)
        (drop (call $create))
        (i32.store (i32.const 72) (i32.const 4096)) (i32.store (i32.const 76) (i32.const 1))
        (call $fd_pwrite (i32.load (i32.const 64)) (i32.const 72) (i32.const 1) (local.get $at) (i32.const 80)))
    ;; Pieces that are not in memory.
    (func (export "outside") (result i32)
        (drop (call $create))
        (call $fd_write (i32.load (i32.const 64)) (i32.const -8) (i32.const 0x7fffffff) (i32.const 80))))"#;
