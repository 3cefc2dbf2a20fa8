//! The same job without tasks: what a cluster must come to, computed another way.
//!
//! It shares with the guest only the definitions ([`crate::terms`], [`crate::weight`], the order of equals). There are
//! no groups, shards or merges here: one pass over all documents finds the document frequencies, a second one weighs
//! each document's terms, sorts all of them and keeps the first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::corpus::Document;
use crate::limits::{ANSWERS, TOP_TERMS};
use crate::plan::Plan;
use crate::results::{Answer, Scored, Weighted, write_answers, write_scores};
use crate::terms::terms;
use crate::weight::weight;

/// The index of a corpus.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    documents: Vec<Scored>,
}

impl Index {
    /// Indexes the documents.
    pub fn of(documents: &[Document]) -> Index {
        let mut frequencies: BTreeMap<String, u32> = BTreeMap::new();
        for document in documents {
            for term in count(&document.text).into_keys() {
                *frequencies.entry(term).or_default() += 1;
            }
        }
        let total = u32::try_from(documents.len()).expect("fewer than 2^32 documents");
        let score = |(document, Document { text, .. }): (usize, &Document)| {
            let weigh = |(term, count): (String, u32)| {
                let weight = weight(count, frequencies[&term], total);
                Weighted { term, weight }
            };
            let mut top: Vec<Weighted> = count(text).into_iter().map(weigh).collect();
            top.sort_by(|a, b| (Reverse(a.weight), &a.term).cmp(&(Reverse(b.weight), &b.term)));
            top.truncate(TOP_TERMS);
            Scored { document, top }
        };
        Index { documents: documents.iter().enumerate().map(score).collect() }
    }

    /// What the index has of each document, in the order of the corpus.
    pub fn documents(&self) -> &[Scored] {
        &self.documents
    }

    /// Answers one query.
    pub fn answer(&self, query: &str) -> Answer {
        let mut wanted: Vec<String> = Vec::new();
        for term in terms(query.as_bytes()) {
            if !wanted.contains(&term) {
                wanted.push(term);
            }
        }
        let score = |scored: &Scored| {
            let hits = scored.top.iter().filter(|weighted| wanted.contains(&weighted.term));
            (scored.document, hits.map(|weighted| weighted.weight).sum())
        };
        let mut documents: Vec<(usize, u32)> = self.documents.iter().map(score).filter(|&(_, score)| score > 0).collect();
        documents.sort_by_key(|&(document, score)| (Reverse(score), document));
        documents.truncate(ANSWERS);
        Answer { terms: wanted, documents }
    }
}

/// How often each term occurs in a text.
pub fn count(text: &[u8]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for term in terms(text) {
        *counts.entry(term).or_default() += 1;
    }
    counts
}

/// The results that the plan's last two stages must have, by the index of their task: the index and the answers.
pub fn outputs(documents: &[Document], queries: &[String], plan: &Plan) -> BTreeMap<usize, Vec<u8>> {
    let index = Index::of(documents);
    let mut outputs: BTreeMap<usize, Vec<u8>> = plan.scores().map(|(task, range)| (task, write_scores(&index.documents[range]))).collect();
    let answers: Vec<Answer> = queries.iter().map(|query| index.answer(query)).collect();
    outputs.insert(plan.query(), write_answers(&answers));
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(texts: &[&str]) -> Index {
        let document = |text: &&str| Document { name: String::new(), text: text.as_bytes().to_vec().into(), cut: false };
        Index::of(&texts.iter().map(document).collect::<Vec<_>>())
    }

    #[test]
    fn weights_by_hand() {
        // Four documents: "the" is in all of them, "cat" in two, "dog" in one.
        let index = index(&["the cat, the cat", "The cat", "the DOG", "the"]);
        let one = 1 << 16;
        let weighted = |term: &str, weight: u32| Weighted { term: term.into(), weight };
        assert_eq!(index.documents()[0].top, [weighted("cat", 2 * one), weighted("the", 0)]);
        assert_eq!(index.documents()[1].top, [weighted("cat", one), weighted("the", 0)]);
        assert_eq!(index.documents()[2].top, [weighted("dog", 2 * one), weighted("the", 0)]);

        let answer = index.answer("Dog or cat, or the dog?");
        assert_eq!(answer.terms, ["dog", "or", "cat", "the"]);
        // The first and the third are equal, and come in their order.
        assert_eq!(answer.documents, [(0, 2 * one), (2, 2 * one), (1, one)]);
        assert!(index.answer("the").documents.is_empty());
    }

    #[test]
    fn only_the_heaviest_terms_are_kept_and_equals_go_by_term() {
        let words: String = (0..TOP_TERMS + 10).map(|number| format!("w{number:03} ")).collect();
        let index = index(&[&words, "other text"]);
        let top = &index.documents()[0].top;
        assert_eq!(top.len(), TOP_TERMS);
        assert!(top.iter().enumerate().all(|(number, weighted)| weighted.term == format!("w{number:03}")));
    }
}
