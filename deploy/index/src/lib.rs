//! The demonstration job: index a folder of documents, and answer queries from the index.
//!
//! The same job exists twice here, and the two must agree byte for byte:
//!
//! ```text
//!   corpus ──► documents ──┬──► plan ──► tasks ──► guest/ in WASM, run by a cluster ──┐
//!                          │                                                          ├──► equal?
//!                          └──► reference: directly, in one process, without tarn ────┘
//! ```
//!
//! # The job as tasks
//! A [`plan::Plan`] is a list of tasks, each with its arguments, its payload and the tasks whose results it takes,
//! which always stand before it. The levels depend on each other:
//!
//! ```text
//!   map    one per document           its text            ► "term count" lines
//!   count  one per group and shard    the group's maps    ► "term documents" lines: document frequencies
//!   merge  a tree per shard           counts              ► the same for all documents (as many levels as needed)
//!   score  one per group              maps, all shards    ► each document's heaviest terms: the index
//!   query  one, the last              all scores          ► each query's best documents
//! ```
//!
//! Terms are spread over shards by hash, and documents over groups by size, only so that no result and no input
//! grows over what tarn allows a task ([`limits`] has the numbers and the proof). The programs are in C, in `guest/`.
//!
//! # What an index is
//! - A *term* is an ASCII word: [`terms`] says which exactly.
//! - The *weight* of a term in a document is `(1 + log2 count) * log2(documents / documents with the term)`, in
//!   integers: [`weight`] defines it to the bit.
//! - The *index* has for each document its [`limits::TOP_TERMS`] heaviest terms; equal weights go by term.
//! - A document's *score* for a query is the sum of the weights that the index has for the query's different terms;
//!   equal scores go by document number, and documents without score are no answer.
//!
//! # What is where
//! [`corpus`] collects documents, [`plan`] makes tasks of them, [`mod@reference`] computes what the tasks must come to,
//! [`results`] writes and reads the bytes of results, and [`render`] shows them to a person.

pub mod corpus;
pub mod limits;
pub mod plan;
pub mod reference;
pub mod render;
pub mod results;
pub mod terms;
pub mod weight;
