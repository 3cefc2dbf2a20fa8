//! Every limit of the crate, in one place, each with its reason.

use std::time::Duration;

/// Canonical bytes of one bundle, 1 MiB: it travels in one command through the log and is kept in every snapshot.
pub const BUNDLE_BYTES_MAX: usize = 1 << 20;
/// Text of one module, 256 KiB. Longer ones are generated, and belong into the data.
pub const MODULE_BYTES_MAX: usize = 256 << 10;
/// Modules in one bundle, tests included.
pub const MODULES_MAX: usize = 256;
/// Canonical data document, 512 KiB.
pub const DATA_BYTES_MAX: usize = 512 << 10;
/// A module's path, in bytes.
pub const PATH_BYTES_MAX: usize = 128;
/// Folders and file name in a module's path.
pub const PATH_PARTS_MAX: usize = 8;
/// Names of bundles and environments: as tarn's other names.
pub const NAME_BYTES_MAX: usize = 64;
/// A version as text. Pre-release and build parts are free text, so they need a bound.
pub const VERSION_BYTES_MAX: usize = 64;
/// A bundle's description.
pub const DESCRIPTION_BYTES_MAX: usize = 1 << 10;
/// A signature: ML-DSA-65 takes 3,309 bytes. Room for its larger sister.
pub const SIGNATURE_BYTES_MAX: usize = 8 << 10;
/// Length of one line of a module, in columns. The parser refuses longer ones.
pub const LINE_COLUMNS_MAX: usize = 1_024;
/// Nesting of JSON in data and inputs. Deeper documents are built to exhaust stacks.
pub const JSON_DEPTH_MAX: usize = 64;

/// Rules in one bundle, tests included.
pub const RULES_MAX: usize = 10_000;
/// Rules and functions that call each other in a chain. Each link takes stack.
pub const CALL_DEPTH_MAX: usize = 64;
/// Statements in one rule's body. Each loop among them takes stack.
pub const STATEMENTS_MAX: usize = 200;
/// Problems that one report lists; their number is always whole.
pub const PROBLEMS_MAX: usize = 64;
/// Tests in one bundle.
pub const TESTS_MAX: usize = 2_000;
/// Time of one test.
pub const TEST_BUDGET: Duration = Duration::from_secs(1);
/// Time of a bundle's tests together.
pub const TESTS_BUDGET: Duration = Duration::from_secs(30);
/// Time to compile a bundle.
pub const COMPILE_BUDGET: Duration = Duration::from_secs(10);

/// An evaluation's time if the caller has no opinion. Common ones take well under a millisecond; the rest is room for a busy machine.
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(50);
/// Longest budget that is honoured. What an evaluation can nest grows with its time, and its stack is finite.
pub const BUDGET_MAX: Duration = Duration::from_secs(1);
/// How far beyond its budget an evaluation may run before it counts as stuck and is left behind. It is stopped between steps, and a
/// step's size is bounded, but a busy machine may delay any step.
pub const GRACE: Duration = Duration::from_millis(250);
/// Stack of an evaluating thread. Reserved, not used: pages that nothing touches cost nothing.
pub const STACK_BYTES: usize = 512 << 20;
/// Memory of one evaluation, where the program's allocator is [`Rationed`](crate::Rationed).
pub const MEMORY_BYTES: usize = 128 << 20;
/// Memory to compile a bundle or to run one of its tests, likewise. A parsed module takes some hundred times its text.
pub const TRYING_MEMORY_BYTES: usize = 512 << 20;
/// Stuck evaluations that are left behind before further ones are refused outright.
pub const LOST_MAX: usize = 8;
/// Evaluations that wait for a thread. More are refused as busy.
pub const WAITING_MAX: usize = 4_096;

/// What the arguments of one call of a built-in function may weigh: bytes of strings, and 16 for every value.
pub const ARGUMENT_BYTES_MAX: usize = 256 << 10;
/// What one call of a built-in function may produce where that can exceed its arguments.
pub const PRODUCT_BYTES_MAX: usize = 1 << 20;
/// Elements of a `numbers.range`.
pub const RANGE_MAX: u64 = 10_000;
/// Positions of a `bits.lsh`.
pub const SHIFT_MAX: u64 = 1_024;
/// Text that becomes a number.
pub const NUMBER_BYTES_MAX: usize = 64;
/// Width in a format of `sprintf`.
pub const WIDTH_MAX: usize = 1_000;
/// A regular expression or a glob, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1 << 10;

/// An input document as canonical JSON: a task's specification is at most 64 KiB, and JSON escapes.
pub const INPUT_BYTES_MAX: usize = 512 << 10;
/// Violations that one verdict carries, `deny` and `warn` together. Further ones are counted.
pub const VIOLATIONS_MAX: usize = 64;
/// A violation's message. Longer ones are cut.
pub const MESSAGE_BYTES_MAX: usize = 1 << 10;
/// A violation's code.
pub const CODE_BYTES_MAX: usize = 64;
/// Weight of all that a bundle decided: what `deny`, `warn` and `allow` produce together.
pub const RESULT_BYTES_MAX: usize = 1 << 20;

/// Decisions that are remembered if the caller has no opinion.
pub const CACHE_ENTRIES: usize = 16_384;
/// Weight of a decision that is remembered. Heavier ones are made anew, so that the cache's size is bounded in bytes too.
pub const CACHED_BYTES_MAX: usize = 4 << 10;
/// Active bundles of one environment.
pub const ACTIVE_MAX: usize = 32;

/// Changed outcomes that a replay lists; their number is always whole.
pub const CHANGES_MAX: usize = 1_000;
/// Changes that a diff lists of each kind; their number is always whole.
pub const DIFFERENCES_MAX: usize = 1_000;
