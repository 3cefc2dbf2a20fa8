//! The job as a list of tasks: pure, the same for the same documents and queries.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;

use crate::corpus::Document;
use crate::limits::{
    ANSWERS, DEPENDENCIES, DOCUMENT_BYTES, DOCUMENTS, GROUP_DOCUMENTS, GROUP_RESULT_BYTES, MERGE_FAN_IN, QUERIES, QUERY_BYTES, QUERY_TERMS,
    SHARD_BYTES, SHARDS, TOP_TERMS, frequency_line_bytes, map_result_bytes,
};
use crate::terms::terms;

/// The kinds of tasks, in the order in which they depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Counts the terms of one document.
    Map,
    /// Counts, for the documents of a group and the terms of a shard, in how many documents each term occurs.
    Count,
    /// Sums counts of one shard.
    Merge,
    /// Weighs the terms of the documents of a group.
    Score,
    /// Answers the queries.
    Query,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 5] = [Stage::Map, Stage::Count, Stage::Merge, Stage::Score, Stage::Query];

    /// The guest's first argument for this stage.
    pub const fn verb(self) -> &'static str {
        match self {
            Stage::Map => "map",
            Stage::Count => "count",
            Stage::Merge => "merge",
            Stage::Score => "score",
            Stage::Query => "query",
        }
    }
}

/// One task of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it does.
    pub stage: Stage,
    /// What it is called in lists: the stage and what it works on, such as `count g3 s1`.
    pub label: String,
    /// The guest's arguments after its own name: the verb first.
    pub args: Vec<String>,
    /// Its payload.
    pub payload: Bytes,
    /// The tasks whose results it takes, in this order, by their index in the plan: all less than its own.
    pub after: Vec<usize>,
    /// How many tasks stand before it in the longest chain: 0 for a task without dependencies.
    pub level: usize,
}

/// How a plan cuts the work up. Other shapes than the default serve tests that want many levels of few documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The most documents of a group; at least 1, at most [`GROUP_DOCUMENTS`].
    pub group_documents: usize,
    /// The most results that one merge takes; at least 2, at most [`MERGE_FAN_IN`].
    pub merge_fan_in: usize,
    /// The most bytes of one shard's frequencies; at most [`SHARD_BYTES`].
    pub shard_bytes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { group_documents: GROUP_DOCUMENTS, merge_fan_in: MERGE_FAN_IN, shard_bytes: SHARD_BYTES }
    }
}

/// Why there is no plan. Each message says what the user can do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The corpus is empty.
    #[error("there are no documents: name a folder with text files")]
    NoDocuments,
    /// More than [`DOCUMENTS`].
    #[error("{0} documents are more than the {DOCUMENTS} that one index holds: take fewer")]
    TooManyDocuments(usize),
    /// Longer than [`DOCUMENT_BYTES`], which [`crate::corpus::collect`] never gives.
    #[error("{name} has {length} bytes, over the {DOCUMENT_BYTES} that a document may have: cut it")]
    DocumentTooLong {
        /// The document's name.
        name: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The documents are so long that they make more than [`DEPENDENCIES`] groups.
    #[error("the documents are too long together, {groups} groups instead of at most {DEPENDENCIES}: take fewer")]
    TooMuchText {
        /// How many groups there would be.
        groups: usize,
    },
    /// The frequencies of the terms do not fit [`SHARDS`] shards.
    #[error("{terms} different terms are too many for {SHARDS} shards: take fewer documents, or other ones")]
    TooManyTerms {
        /// How many different terms all documents have.
        terms: usize,
    },
    /// None, or more than [`QUERIES`].
    #[error("{0} queries: ask 1 to {QUERIES}")]
    QueryCount(usize),
    /// A query over several lines, over [`QUERY_BYTES`], without terms, or with over [`QUERY_TERMS`].
    #[error("query {0:?} must be one line of at most {QUERY_BYTES} bytes, with 1 to {QUERY_TERMS} words that begin with a letter")]
    BadQuery(String),
}

/// The tasks of the job, in an order in which they can be submitted.
#[derive(Debug)]
pub struct Plan {
    tasks: Vec<Task>,
    groups: Vec<Range<usize>>,
    shards: usize,
}

impl Plan {
    /// Plans the index of `documents` and the answers to `queries`.
    ///
    /// # Errors
    /// If a limit of the job is exceeded or a query is not usable.
    pub fn new(documents: &[Document], queries: &[String]) -> Result<Plan, PlanError> {
        Plan::with_shape(documents, queries, Shape::default())
    }

    /// Plans with another shape than usual.
    ///
    /// # Errors
    /// As [`Plan::new`].
    ///
    /// # Panics
    /// If the shape is not within its limits.
    pub fn with_shape(documents: &[Document], queries: &[String], shape: Shape) -> Result<Plan, PlanError> {
        assert!((1..=GROUP_DOCUMENTS).contains(&shape.group_documents), "{shape:?}");
        assert!((2..=MERGE_FAN_IN).contains(&shape.merge_fan_in), "{shape:?}");
        assert!(shape.shard_bytes <= SHARD_BYTES, "{shape:?}");
        check_documents(documents)?;
        let query_payload = query_payload(queries)?;
        let groups = groups(documents, shape.group_documents)?;
        let shards = shards(documents, shape.shard_bytes)?;

        let mut plan = Plan { tasks: Vec::new(), groups, shards };
        let maps = plan.add_maps(documents);
        let counts = plan.add_counts(&maps);
        let frequencies: Vec<usize> = (0..shards).map(|shard| plan.add_merges(shard, &counts[shard], shape.merge_fan_in)).collect();
        let scores = plan.add_scores(&maps, &frequencies, documents.len());
        let args = vec![Stage::Query.verb().to_owned(), ANSWERS.to_string()];
        plan.add(Stage::Query, Stage::Query.verb().to_owned(), args, query_payload, scores);
        Ok(plan)
    }

    /// All tasks. Each comes after those that it depends on; the last one answers the queries.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The tasks whose results are the index, in the order of their documents, with the documents of each.
    pub fn scores(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let first = self.query() - self.groups.len();
        self.groups.iter().enumerate().map(move |(group, documents)| (first + group, documents.clone()))
    }

    /// The task whose result answers the queries.
    pub fn query(&self) -> usize {
        self.tasks.len() - 1
    }

    /// How many shards the terms are spread over.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// How many tasks there are of each stage at each level, level by level.
    pub fn levels(&self) -> Vec<(Stage, usize)> {
        let mut levels: Vec<(Stage, usize)> = Vec::new();
        for task in &self.tasks {
            // Every level is of one stage, as all groups, and all shards, are merged in trees of the same height.
            match levels.get_mut(task.level) {
                Some((stage, count)) => {
                    debug_assert_eq!(*stage, task.stage);
                    *count += 1;
                }
                None => levels.push((task.stage, 1)),
            }
        }
        levels
    }

    fn add(&mut self, stage: Stage, label: String, args: Vec<String>, payload: Bytes, after: Vec<usize>) -> usize {
        assert!(after.len() <= DEPENDENCIES, "{label} would have {} dependencies", after.len());
        let level = after.iter().map(|&index| self.tasks[index].level + 1).max().unwrap_or(0);
        self.tasks.push(Task { stage, label, args, payload, after, level });
        self.tasks.len() - 1
    }

    fn add_maps(&mut self, documents: &[Document]) -> Vec<usize> {
        let mut maps = Vec::with_capacity(documents.len());
        for (number, document) in documents.iter().enumerate() {
            let args = vec![Stage::Map.verb().to_owned()];
            maps.push(self.add(Stage::Map, format!("map d{number}"), args, document.text.clone(), Vec::new()));
        }
        maps
    }

    /// One task per group and shard; returned by shard, then by group.
    fn add_counts(&mut self, maps: &[usize]) -> Vec<Vec<usize>> {
        let mut counts = vec![Vec::new(); self.shards];
        for (group, documents) in self.groups.clone().into_iter().enumerate() {
            for (shard, counts) in counts.iter_mut().enumerate() {
                let args = vec![Stage::Count.verb().to_owned(), shard.to_string(), self.shards.to_string()];
                let after = maps[documents.clone()].to_vec();
                counts.push(self.add(Stage::Count, format!("count g{group} s{shard}"), args, Bytes::new(), after));
            }
        }
        counts
    }

    /// Merges the counts of a shard level by level; gives the one task that has them all.
    fn add_merges(&mut self, shard: usize, counts: &[usize], fan_in: usize) -> usize {
        let mut level = counts.to_vec();
        let mut round = 0;
        while level.len() > 1 {
            let mut next = Vec::new();
            for (part, inputs) in level.chunks(fan_in).enumerate() {
                let label = format!("merge s{shard} r{round} p{part}");
                let args = vec![Stage::Merge.verb().to_owned()];
                next.push(self.add(Stage::Merge, label, args, Bytes::new(), inputs.to_vec()));
            }
            level = next;
            round += 1;
        }
        level[0]
    }

    fn add_scores(&mut self, maps: &[usize], frequencies: &[usize], documents: usize) -> Vec<usize> {
        let mut scores = Vec::new();
        for (group, range) in self.groups.clone().into_iter().enumerate() {
            let numbers = [documents, range.start, range.len(), TOP_TERMS];
            let args = [Stage::Score.verb().to_owned()].into_iter().chain(numbers.map(|number| number.to_string()));
            let after = [&maps[range], frequencies].concat();
            scores.push(self.add(Stage::Score, format!("score g{group}"), args.collect(), Bytes::new(), after));
        }
        scores
    }
}

fn check_documents(documents: &[Document]) -> Result<(), PlanError> {
    if documents.is_empty() {
        return Err(PlanError::NoDocuments);
    }
    if documents.len() > DOCUMENTS {
        return Err(PlanError::TooManyDocuments(documents.len()));
    }
    match documents.iter().find(|document| document.text.len() > DOCUMENT_BYTES) {
        Some(Document { name, text, .. }) => Err(PlanError::DocumentTooLong { name: name.clone(), length: text.len() }),
        None => Ok(()),
    }
}

/// The queries as the guest takes them, one a line.
fn query_payload(queries: &[String]) -> Result<Bytes, PlanError> {
    if queries.is_empty() || queries.len() > QUERIES {
        return Err(PlanError::QueryCount(queries.len()));
    }
    let mut payload = String::new();
    for query in queries {
        let different = terms(query.as_bytes()).collect::<HashSet<_>>().len();
        if query.len() > QUERY_BYTES || query.contains('\n') || !(1..=QUERY_TERMS).contains(&different) {
            return Err(PlanError::BadQuery(query.clone()));
        }
        payload.push_str(query);
        payload.push('\n');
    }
    Ok(payload.into())
}

/// Neighbouring documents, as many as the limits allow.
fn groups(documents: &[Document], group_documents: usize) -> Result<Vec<Range<usize>>, PlanError> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut result_bytes = 0;
    for (number, document) in documents.iter().enumerate() {
        let bytes = map_result_bytes(document.text.len());
        match groups.last_mut() {
            Some(group) if group.len() < group_documents && result_bytes + bytes <= GROUP_RESULT_BYTES => {
                group.end += 1;
                result_bytes += bytes;
            }
            _ => {
                groups.push(number..number + 1);
                result_bytes = bytes;
            }
        }
    }
    // The query depends on one score for each group.
    if groups.len() > DEPENDENCIES {
        return Err(PlanError::TooMuchText { groups: groups.len() });
    }
    Ok(groups)
}

/// The fewest shards of which none is over `shard_bytes`.
///
/// The planner reads all documents anyway, to make payloads of them. Guessing the vocabulary from their size instead
/// would go wrong for the folder whose files are full of random words.
fn shards(documents: &[Document], shard_bytes: usize) -> Result<usize, PlanError> {
    // The order of a hash set does not matter here: only sums are taken.
    let vocabulary: HashSet<String> = documents.iter().flat_map(|document| terms(&document.text)).collect();
    let lines: Vec<(u32, usize)> = vocabulary.iter().map(|term| (hash(term), frequency_line_bytes(term.len()))).collect();
    (1..=SHARDS)
        .find(|&shards| {
            let mut bytes = [0; SHARDS];
            for (hash, line_bytes) in &lines {
                bytes[*hash as usize % shards] += line_bytes;
            }
            bytes.iter().all(|&bytes| bytes <= shard_bytes)
        })
        .ok_or(PlanError::TooManyTerms { terms: vocabulary.len() })
}

/// FNV-1a with 32 bits, as in the guest: a term belongs to the shard `hash % shards`.
fn hash(term: &str) -> u32 {
    term.bytes().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(texts: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Vec<Document> {
        let named = |(number, text): (usize, Vec<u8>)| Document { name: format!("d{number}"), text: text.into(), cut: false };
        texts.into_iter().map(Into::into).enumerate().map(named).collect()
    }

    fn queries() -> Vec<String> {
        vec!["free software".to_owned()]
    }

    #[test]
    fn one_document_needs_no_merge() {
        let plan = Plan::new(&documents(["some text"]), &queries()).unwrap();
        let seen: Vec<_> = plan.tasks().iter().map(|task| (task.args.join(" "), task.after.clone(), task.level)).collect();
        let expected = [
            ("map".to_owned(), vec![], 0),
            ("count 0 1".to_owned(), vec![0], 1),
            ("score 1 0 1 64".to_owned(), vec![0, 1], 2),
            ("query 10".to_owned(), vec![2], 3),
        ];
        assert_eq!(seen, expected);
        assert_eq!(&plan.tasks()[3].payload[..], b"free software\n");
    }

    #[test]
    fn levels_are_as_deep_as_the_tree_of_merges() {
        let shape = Shape { group_documents: 2, merge_fan_in: 2, shard_bytes: 30 };
        let plan = Plan::with_shape(&documents((0..9).map(|n| format!("word{n} text"))), &queries(), shape).unwrap();
        let shards = plan.shards();
        assert!(shards > 1);
        let expected = [
            (Stage::Map, 9),
            (Stage::Count, 5 * shards),
            (Stage::Merge, 3 * shards),
            (Stage::Merge, 2 * shards),
            (Stage::Merge, shards),
            (Stage::Score, 5),
            (Stage::Query, 1),
        ];
        assert_eq!(plan.levels(), expected);
        for (index, task) in plan.tasks().iter().enumerate() {
            assert!(task.after.iter().all(|&before| before < index), "{task:?}");
        }
        let scores: Vec<_> = plan.scores().collect();
        assert_eq!(scores.len(), 5);
        assert_eq!(scores[4].1, 8..9);
        assert!(scores.iter().all(|&(index, _)| plan.tasks()[index].stage == Stage::Score));
        assert_eq!(plan.tasks()[plan.query()].stage, Stage::Query);
    }

    #[test]
    fn groups_close_by_size_too() {
        let long = documents(vec![vec![b' '; DOCUMENT_BYTES]; 20]);
        let groups = groups(&long, GROUP_DOCUMENTS).unwrap();
        assert_eq!(groups, [0..8, 8..16, 16..20]);
    }

    #[test]
    fn shards_hold_what_the_limit_says() {
        let words = |count: usize| (0..count).map(|number| format!("w{number:039} ")).collect::<String>();
        // A line of 46 bytes each: the number of documents is reckoned with four digits.
        let per_shard = SHARD_BYTES / 46;
        let split = |text: String| documents(text.as_bytes().chunks(41 * 5000).map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(shards(&split(words(per_shard)), SHARD_BYTES), Ok(1));
        assert_eq!(shards(&split(words(per_shard + 1)), SHARD_BYTES), Ok(2));
        let many = per_shard * SHARDS + 1;
        assert_eq!(shards(&split(words(many)), SHARD_BYTES), Err(PlanError::TooManyTerms { terms: many }));
    }

    #[test]
    fn what_is_over_a_limit_is_refused() {
        let one = documents(["text"]);
        let plan = |documents: &[Document], queries: &[String]| Plan::new(documents, queries).map(|_| ()).unwrap_err();
        assert_eq!(plan(&[], &queries()), PlanError::NoDocuments);
        let many = documents(vec![""; DOCUMENTS + 1]);
        assert_eq!(plan(&many, &queries()), PlanError::TooManyDocuments(DOCUMENTS + 1));
        let length = DOCUMENT_BYTES + 1;
        let long = documents([vec![b'x'; length]]);
        assert_eq!(plan(&long, &queries()), PlanError::DocumentTooLong { name: "d0".into(), length });
        // Documents share their bytes, so that a gigabyte of them is cheap.
        let mut much = documents([vec![b' '; DOCUMENT_BYTES]]);
        much.resize(8 * DEPENDENCIES + 1, much[0].clone());
        assert_eq!(plan(&much, &queries()), PlanError::TooMuchText { groups: DEPENDENCIES + 1 });

        assert_eq!(plan(&one, &[]), PlanError::QueryCount(0));
        assert_eq!(plan(&one, &vec!["gnu".into(); QUERIES + 1]), PlanError::QueryCount(QUERIES + 1));
        let too_many_terms: String = (0..=QUERY_TERMS).map(|number| format!("w{number} ")).collect();
        for bad in ["", "1 2 3", "two\nlines", &too_many_terms, &"gnu ".repeat(QUERY_BYTES / 4 + 1)] {
            assert_eq!(plan(&one, &[bad.to_owned()]), PlanError::BadQuery(bad.to_owned()));
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash(""), 0x811c_9dc5);
        assert_eq!(hash("foobar"), 0xbf9c_f968);
    }
}
