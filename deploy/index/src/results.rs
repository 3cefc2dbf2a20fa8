//! The bytes of results: how they are written and read.
//!
//! A score result has for each document a line `# number`, then a line `term weight` for each of its top terms. A query
//! result has for each query a line `? term term ...`, then a line `number score` for each document. Both are what the
//! guest prints; the writers here serve the reference, the readers serve whoever shows a cluster's results.

use std::fmt::Write;

/// A term of a document and its weight, in the fixed point of [`crate::weight`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// The term.
    pub term: String,
    /// Its weight in the document.
    pub weight: u32,
}

/// What the index has of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The document's number: its position in the corpus.
    pub document: usize,
    /// Its heaviest terms first; equal weights by term.
    pub top: Vec<Weighted>,
}

/// The answer to one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The query's different terms, in their order.
    pub terms: Vec<String>,
    /// The numbers of the best documents and their scores, best first; equal scores by number.
    pub documents: Vec<(usize, u32)>,
}

/// Bytes that are no result of this kind: the job that made them is not this one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} result: line {line} is malformed")]
pub struct ResultError {
    kind: &'static str,
    line: usize,
}

/// Writes a score result.
pub fn write_scores(scored: &[Scored]) -> Vec<u8> {
    let mut text = String::new();
    for Scored { document, top } in scored {
        writeln!(text, "# {document}").expect("writing to a string cannot fail");
        for Weighted { term, weight } in top {
            writeln!(text, "{term} {weight}").expect("writing to a string cannot fail");
        }
    }
    text.into_bytes()
}

/// Writes a query result.
pub fn write_answers(answers: &[Answer]) -> Vec<u8> {
    let mut text = String::new();
    for Answer { terms, documents } in answers {
        writeln!(text, "? {}", terms.join(" ")).expect("writing to a string cannot fail");
        for (document, score) in documents {
            writeln!(text, "{document} {score}").expect("writing to a string cannot fail");
        }
    }
    text.into_bytes()
}

/// Reads a score result.
///
/// # Errors
/// If the bytes are not of that form.
pub fn read_scores(bytes: &[u8]) -> Result<Vec<Scored>, ResultError> {
    let mut scored: Vec<Scored> = Vec::new();
    for (number, line) in lines(bytes, "score")? {
        let malformed = ResultError { kind: "score", line: number };
        if let Some(document) = line.strip_prefix("# ") {
            let document = document.parse().map_err(|_| malformed)?;
            scored.push(Scored { document, top: Vec::new() });
        } else {
            let (Some(last), Some((term, weight))) = (scored.last_mut(), line.split_once(' ')) else {
                return Err(malformed);
            };
            let weight = weight.parse().map_err(|_| malformed)?;
            last.top.push(Weighted { term: term.to_owned(), weight });
        }
    }
    Ok(scored)
}

/// Reads a query result.
///
/// # Errors
/// If the bytes are not of that form.
pub fn read_answers(bytes: &[u8]) -> Result<Vec<Answer>, ResultError> {
    let mut answers: Vec<Answer> = Vec::new();
    for (number, line) in lines(bytes, "query")? {
        let malformed = || ResultError { kind: "query", line: number };
        if let Some(terms) = line.strip_prefix("? ") {
            answers.push(Answer { terms: terms.split(' ').map(str::to_owned).collect(), documents: Vec::new() });
        } else {
            let (Some(last), Some((document, score))) = (answers.last_mut(), line.split_once(' ')) else {
                return Err(malformed());
            };
            let document = document.parse().map_err(|_| malformed())?;
            last.documents.push((document, score.parse().map_err(|_| malformed())?));
        }
    }
    Ok(answers)
}

/// The lines of a result with their numbers, from 1.
fn lines<'a>(bytes: &'a [u8], kind: &'static str) -> Result<impl Iterator<Item = (usize, &'a str)>, ResultError> {
    let text = str::from_utf8(bytes).map_err(|_| ResultError { kind, line: 1 })?;
    Ok(text.lines().enumerate().map(|(index, line)| (index + 1, line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(term: &str, weight: u32) -> Weighted {
        Weighted { term: term.to_owned(), weight }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let scored = [Scored { document: 7, top: vec![weighted("gnu", 9), weighted("ab", 0)] }, Scored { document: 8, top: vec![] }];
        let bytes = write_scores(&scored);
        assert_eq!(bytes, b"# 7\ngnu 9\nab 0\n# 8\n");
        assert_eq!(read_scores(&bytes).unwrap(), scored);

        let answers = [
            Answer { terms: vec!["free".into(), "software".into()], documents: vec![(3, 70), (0, 7)] },
            Answer { terms: vec!["nothing".into()], documents: vec![] },
        ];
        let bytes = write_answers(&answers);
        assert_eq!(bytes, b"? free software\n3 70\n0 7\n? nothing\n");
        assert_eq!(read_answers(&bytes).unwrap(), answers);
    }

    #[test]
    fn other_bytes_are_refused_with_the_line() {
        for (bytes, line) in [(&b"gnu 1\n"[..], 1), (b"# 1\ngnu\n", 2), (b"# x\n", 1), (b"# 1\ngnu -1\n", 2), (b"\xff", 1)] {
            assert_eq!(read_scores(bytes), Err(ResultError { kind: "score", line }), "{bytes:?}");
        }
        for (bytes, line) in [(&b"1 1\n"[..], 1), (b"? a\n1\n", 2), (b"? a\nx 1\n", 2), (b"? a\n1 4294967296\n", 2)] {
            assert_eq!(read_answers(bytes), Err(ResultError { kind: "query", line }), "{bytes:?}");
        }
    }
}
