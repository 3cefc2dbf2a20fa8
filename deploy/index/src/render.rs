//! Plans and results as text for a person.

use std::fmt::Write;

use crate::corpus::{Corpus, Document};
use crate::plan::{Plan, Stage};
use crate::results::{Answer, Scored};
use crate::weight::FRACTION_BITS;

/// The corpus in one line: how many documents, how much text, and what was left out.
pub fn corpus(corpus: &Corpus) -> String {
    let bytes: usize = corpus.documents.iter().map(|document| document.text.len()).sum();
    let cut = corpus.documents.iter().filter(|document| document.cut).count();
    let mut line = format!("{} documents, {}", corpus.documents.len(), mebibytes(bytes));
    let skipped = corpus.skipped;
    let notes = [
        (cut, "cut"),
        (skipped.empty, "empty files skipped"),
        (skipped.binary, "binary files skipped"),
        (skipped.damaged, "damaged files skipped"),
        (skipped.unreadable, "unreadable files skipped"),
    ];
    for (count, note) in notes.into_iter().filter(|&(count, _)| count > 0) {
        write!(line, ", {count} {note}").expect("writing to a string cannot fail");
    }
    if corpus.more {
        line.push_str(", more left out by the limit");
    }
    line
}

/// The levels of a plan, one a line: what runs, how many tasks, and what each of them waits for.
pub fn levels(plan: &Plan) -> String {
    let mut text = String::new();
    for (level, (stage, count)) in plan.levels().into_iter().enumerate() {
        let fan_in = plan.tasks().iter().filter(|task| task.level == level).map(|task| task.after.len()).max();
        let waits = match (stage, fan_in.unwrap_or(0)) {
            (Stage::Map, _) => "one per document".to_owned(),
            (_, fan_in) => format!("each after up to {fan_in}"),
        };
        writeln!(text, "level {level}  {:<5}  {count:>6} {:<5}  {waits}", stage.verb(), tasks(count))
            .expect("writing to a string cannot fail");
    }
    text
}

/// The first `terms` top terms of some documents.
pub fn top_terms<'a>(documents: &[Document], scored: impl IntoIterator<Item = &'a Scored>, terms: usize) -> String {
    let mut text = String::new();
    for Scored { document, top } in scored {
        let list: Vec<String> = top.iter().take(terms).map(|weighted| format!("{} {}", weighted.term, fixed(weighted.weight))).collect();
        writeln!(text, "{}\n    {}", name(documents, *document), list.join(", ")).expect("writing to a string cannot fail");
    }
    text
}

/// The first `count` documents that answer each query, with their scores.
pub fn answers(documents: &[Document], answers: &[Answer], count: usize) -> String {
    let mut text = String::new();
    for answer in answers {
        writeln!(text, "{}", answer.terms.join(" ")).expect("writing to a string cannot fail");
        if answer.documents.is_empty() {
            text.push_str("    no document\n");
        }
        for &(document, score) in answer.documents.iter().take(count) {
            writeln!(text, "    {:>7}  {}", fixed(score), name(documents, document)).expect("writing to a string cannot fail");
        }
    }
    text
}

/// The name of a document, or its number if the corpus has no such document.
fn name(documents: &[Document], number: usize) -> String {
    documents.get(number).map_or_else(|| format!("document {number}"), |document| document.name.clone())
}

/// A fixed-point number with two digits after the point, rounded down.
fn fixed(number: u32) -> String {
    let hundredths = (u64::from(number) * 100) >> FRACTION_BITS;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn mebibytes(bytes: usize) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn tasks(count: usize) -> &'static str {
    if count == 1 { "task" } else { "tasks" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Skipped;
    use crate::results::Weighted;

    fn documents() -> Vec<Document> {
        vec![Document { name: "/doc/a".into(), text: vec![b'x'; 3 << 19].into(), cut: true }]
    }

    #[test]
    fn a_corpus_in_one_line() {
        let skipped = Skipped { binary: 2, ..Skipped::default() };
        let line = corpus(&Corpus { documents: documents(), skipped, more: true });
        assert_eq!(line, "1 documents, 1.5 MiB, 1 cut, 2 binary files skipped, more left out by the limit");
    }

    #[test]
    fn levels_of_a_small_plan() {
        let small = vec![Document { name: "a".into(), text: "some text".into(), cut: false }; 3];
        let plan = Plan::new(&small, &["text".to_owned()]).unwrap();
        let expected = "level 0  map         3 tasks  one per document\n\
                        level 1  count       1 task   each after up to 3\n\
                        level 2  score       1 task   each after up to 4\n\
                        level 3  query       1 task   each after up to 1\n";
        assert_eq!(levels(&plan), expected);
    }

    #[test]
    fn terms_and_answers_name_their_documents() {
        let scored = Scored {
            document: 0,
            top: vec![
                Weighted { term: "gnu".into(), weight: 98_304 },
                Weighted { term: "free".into(), weight: 655 },
                Weighted { term: "rest".into(), weight: 0 },
            ],
        };
        assert_eq!(top_terms(&documents(), [&scored], 2), "/doc/a\n    gnu 1.50, free 0.00\n");
        let given = [
            Answer { terms: vec!["gnu".into(), "free".into()], documents: vec![(0, 1 << 20), (9, 1)] },
            Answer { terms: vec!["none".into()], documents: vec![] },
        ];
        let expected = "gnu free\n      16.00  /doc/a\n       0.00  document 9\nnone\n    no document\n";
        assert_eq!(answers(&documents(), &given, 5), expected);
    }
}
