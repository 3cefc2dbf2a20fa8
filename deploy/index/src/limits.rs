//! Every limit of the job, and the proof that its tasks stay within tarn's.
//!
//! The proof is done at compile time where it is about constants; [`crate::plan`] checks the rest for each plan. A
//! task of a plan that was accepted cannot fail for its size, whatever the documents contain.

/// The most bytes that tarn takes as a task's payload.
pub const PAYLOAD_BYTES: usize = 1 << 20;
/// The most bytes that tarn takes as a task's result.
pub const RESULT_BYTES: usize = 1 << 20;
/// The most bytes that the results of a task's dependencies may have together.
pub const DEPENDENCY_BYTES: usize = 16 << 20;
/// The most dependencies of one task.
pub const DEPENDENCIES: usize = 256;

/// A document is cut after this many bytes (of its decompressed text), wherever that falls.
///
/// Half a payload, so that the document's [`map_result_bytes`] still fit a result.
pub const DOCUMENT_BYTES: usize = 512 << 10;
/// The most documents of one index: the last task reads what the index has of each of them.
pub const DOCUMENTS: usize = 4096;
/// The most documents of a group. It decides how many results one task waits for: enough to be a fan-in, few enough
/// that the first groups are done long before the last document is.
pub const GROUP_DOCUMENTS: usize = 64;
/// The most bytes that the map results of a group may come to. With all shards it must fit one task's dependencies.
pub const GROUP_RESULT_BYTES: usize = 7 << 20;
/// The most results that one merge takes.
pub const MERGE_FAN_IN: usize = 16;
/// The most bytes of one shard's document frequencies, which keeps a distance to [`RESULT_BYTES`].
pub const SHARD_BYTES: usize = 960 << 10;
/// The most shards, as a score task reads all of them beside its group.
pub const SHARDS: usize = 8;
/// How many terms the index has of each document.
pub const TOP_TERMS: usize = 64;

/// The shortest term, in bytes.
pub const TERM_BYTES_MIN: usize = 2;
/// The longest term, in bytes.
pub const TERM_BYTES_MAX: usize = 40;

/// The most queries that are answered at once.
pub const QUERIES: usize = 16;
/// The most bytes of one query.
pub const QUERY_BYTES: usize = 1024;
/// The most different terms of one query.
pub const QUERY_TERMS: usize = 16;
/// How many documents are given for each query.
pub const ANSWERS: usize = 10;

/// The bytes of a line "term documents" with its newline: a number of documents has at most four digits.
pub const fn frequency_line_bytes(term_bytes: usize) -> usize {
    term_bytes + " 4096\n".len()
}

/// The most bytes that the map result of a text can have.
///
/// A term of `n` bytes that occurs once takes at least `n + 1` bytes of text (with a separator, except at the end) and
/// gives a line of `n + 3`; that ratio is greatest, 5 to 3, for the shortest terms. A term that occurs more often
/// takes its text again each time and adds at most a digit to its line.
pub const fn map_result_bytes(text_bytes: usize) -> usize {
    (text_bytes + 1) * 5 / 3
}

/// What frames one piece of a task's input: a length of at most seven digits, and a newline.
const FRAME_BYTES: usize = 8;
/// A line "term weight" in a score result; no weight has over eight digits (see [`crate::weight`]).
const WEIGHT_LINE_BYTES: usize = TERM_BYTES_MAX + " 16777215\n".len();
/// All that a score result has of one document, with the line of its number.
const SCORED_BYTES: usize = TOP_TERMS * WEIGHT_LINE_BYTES + "# 4095\n".len();

const _: () = {
    assert!(DOCUMENT_BYTES <= PAYLOAD_BYTES);
    assert!(QUERIES * (QUERY_BYTES + 1) <= PAYLOAD_BYTES);
    assert!(map_result_bytes(DOCUMENT_BYTES) <= RESULT_BYTES);
    assert!(map_result_bytes(DOCUMENT_BYTES) <= GROUP_RESULT_BYTES);
    assert!(SHARD_BYTES <= RESULT_BYTES);
    assert!(GROUP_DOCUMENTS * SCORED_BYTES <= RESULT_BYTES);
    // count, merge, score and query, in this order
    assert!(GROUP_RESULT_BYTES + GROUP_DOCUMENTS * FRAME_BYTES <= DEPENDENCY_BYTES);
    assert!(MERGE_FAN_IN * (SHARD_BYTES + FRAME_BYTES) <= DEPENDENCY_BYTES);
    assert!(GROUP_RESULT_BYTES + SHARDS * SHARD_BYTES + (GROUP_DOCUMENTS + SHARDS) * FRAME_BYTES <= DEPENDENCY_BYTES);
    assert!(DOCUMENTS * SCORED_BYTES + DEPENDENCIES * FRAME_BYTES <= DEPENDENCY_BYTES);
    assert!(GROUP_DOCUMENTS + SHARDS <= DEPENDENCIES && MERGE_FAN_IN <= DEPENDENCIES);
    assert!(DOCUMENTS < 10_000, "four digits");
};
