//! What the guest says to input that is not its own: an exit code by kind, a sentence, and no result at all.

mod common;

use common::{Guest, Run, pieces};

const USAGE: i32 = 2;
const INPUT: i32 = 3;
const LIMIT: i32 = 4;

fn refused(run: &Run, code: i32, message: &str) {
    assert_eq!((run.code, run.stderr.trim_end()), (code, message));
    assert!(run.stdout.is_empty(), "a run that fails has no result");
}

#[test]
fn arguments() {
    let Some(guest) = Guest::get() else { return };
    for (args, message) in [
        (&[][..], "usage: map | count | merge | score | query, and its arguments"),
        (&["reduce"], "unknown verb \"reduce\": map, count, merge, score or query"),
        (&["map", "1"], "usage: map"),
        (&["count", "1"], "usage: count SHARD SHARDS"),
        (&["count", "2", "2"], "SHARD must be a number from 0 to 1"),
        (&["count", "0", "9"], "SHARDS must be a number from 1 to 8"),
        (&["count", "-1", "2"], "SHARD must be a number from 0 to 1"),
        (&["count", "01", "2"], "SHARD must be a number from 0 to 1"),
        (&["count", "", "2"], "SHARD must be a number from 0 to 1"),
        (&["score", "4097", "0", "1", "64"], "DOCUMENTS must be a number from 1 to 4096"),
        (&["score", "10", "10", "1", "64"], "FIRST must be a number from 0 to 9"),
        (&["score", "10", "8", "3", "64"], "GROUP must be a number from 1 to 2"),
        (&["score", "10", "8", "2", "65"], "TOP must be a number from 1 to 64"),
        (&["query", "99999999999999999999"], "TOP must be a number from 1 to 100"),
    ] {
        refused(&guest.run(args, Vec::new()), USAGE, message);
    }
}

#[test]
fn framing() {
    let Some(guest) = Guest::get() else { return };
    for (stdin, code, message) in [
        ("", INPUT, "stdin is empty: not even a payload"),
        ("0\n", INPUT, "merge needs at least one dependency"),
        ("3\nabc0\n", INPUT, "merge takes no payload"),
        ("0\n5\nab 1", INPUT, "piece 1 has 4 bytes instead of 5"),
        ("0\n5", INPUT, "stdin ends within the length of piece 1"),
        ("0\n\n", INPUT, "the length of piece 1 is not a number"),
        ("0\n05\nab 1\n", INPUT, "the length of piece 1 is not a number"),
        ("0\n-5\nab 1\n", INPUT, "the length of piece 1 is not a number"),
        ("0\n99999999999999999999", INPUT, "the length of piece 1 is not a number"),
        ("0\n1048577\n", LIMIT, "piece 1 is longer than 1048576 bytes"),
        ("0\n4294967295\n", LIMIT, "piece 1 is longer than 1048576 bytes"),
        ("0\n4294967296\n", INPUT, "the length of piece 1 is not a number"),
    ] {
        refused(&guest.run(&["merge"], stdin.into()), code, message);
    }
    let many = "0\n".repeat(258);
    refused(&guest.run(&["merge"], many.into()), LIMIT, "more than 257 pieces");
    let long = vec![b' '; (1 << 20) + 1];
    refused(&guest.run(&["map"], long), LIMIT, "the payload is longer than 1048576 bytes");
}

#[test]
fn lists_that_are_malformed() {
    let Some(guest) = Guest::get() else { return };
    for (list, message) in [
        ("ab 1\ncd 2", "piece 1, line 2: no newline at its end"),
        ("ab\n", "piece 1, line 1: not a term, a space and a number"),
        ("\n", "piece 1, line 1: not a term, a space and a number"),
        ("a 1\n", "piece 1, line 1: does not begin with a term"),
        ("1a 1\n", "piece 1, line 1: does not begin with a term"),
        ("Ab 1\n", "piece 1, line 1: does not begin with a term"),
        ("a\0b 1\n", "piece 1, line 1: does not begin with a term"),
        ("abcdefghijabcdefghijabcdefghijabcdefghijk 1\n", "piece 1, line 1: does not begin with a term"),
        ("ab  1\n", "piece 1, line 1: does not end with a number"),
        ("ab 1 \n", "piece 1, line 1: does not end with a number"),
        ("ab -1\n", "piece 1, line 1: does not end with a number"),
        ("ab 4294967296\n", "piece 1, line 1: does not end with a number"),
        ("ab 0\n", "piece 1, line 1: a count of zero"),
        ("ab 1\nab 1\n", "piece 1, line 2: terms are not in ascending order"),
        ("ab 1\naa 1\n", "piece 1, line 2: terms are not in ascending order"),
        ("abc 1\nab 1\n", "piece 1, line 2: terms are not in ascending order"),
    ] {
        for verb in [&["merge"][..], &["count", "0", "1"]] {
            refused(&guest.run(verb, pieces(b"", &[list.as_bytes()])), INPUT, message);
        }
    }
}

#[test]
fn sums_and_results_over_the_limit() {
    let Some(guest) = Guest::get() else { return };
    let most: &[u8] = b"ab 4294967295\n";
    assert_eq!(guest.result(&["merge"], pieces(b"", &[most])), most);
    let run = guest.run(&["merge"], pieces(b"", &[most, b"ab 1\n"]));
    refused(&run, LIMIT, "the count of \"ab\" is over 4294967295");

    let lists: Vec<Vec<u8>> =
        (0..2).map(|list| (0..60_000).map(|word| format!("list{list}x{word:05} 1\n")).collect::<String>().into_bytes()).collect();
    let run = guest.run(&["merge"], pieces(b"", &[&lists[0], &lists[1]]));
    refused(&run, LIMIT, "the result is longer than 1048576 bytes");
}

#[test]
fn scores_of_inputs_that_do_not_fit_together() {
    let Some(guest) = Guest::get() else { return };
    let score = ["score", "2", "0", "2", "64"];
    let run = |inputs: &[&[u8]]| guest.run(&score, pieces(b"", inputs));
    let good = run(&[b"ab 1\n", b"", b"ab 1\n"]);
    assert_eq!((good.code, &good.stdout[..]), (0, &b"# 0\nab 65536\n# 1\n"[..]));

    let count = |count| format!("score needs 2 documents and 1 to 8 shards, but has {count} dependencies");
    refused(&run(&[b"ab 1\n", b""]), INPUT, &count(2));
    refused(&run(&[b"" as &[u8]; 11]), INPUT, &count(11));
    let missing = "piece 1, line 1: the term is in a document but in no shard";
    refused(&run(&[b"ab 1\n", b"", b"cd 1\n"]), INPUT, missing);
    refused(&run(&[b"ab 1\n", b"", b"ab 3\n"]), INPUT, "piece 3, line 1: more documents than there are");
    // With two shards, one of them does not own the term.
    let misplaced = run(&[b"ab 1\n", b"", b"ab 1\n", b"ab 1\n"]);
    assert_eq!(misplaced.code, INPUT);
    assert!(misplaced.stderr.ends_with("the term belongs to another shard\n"), "{}", misplaced.stderr);
}

#[test]
fn queries_and_scores_that_are_malformed() {
    let Some(guest) = Guest::get() else { return };
    let run = |payload: &str, scores: &[&[u8]]| guest.run(&["query", "10"], pieces(payload.as_bytes(), scores));
    let good = run("ab cd\n", &[b"# 0\nab 7\ncd 2\n", b"", b"# 1\nab 9\n# 2\n"]);
    assert_eq!((good.code, &good.stdout[..]), (0, &b"? ab cd\n0 9\n1 9\n"[..]));

    refused(&run("ab\n", &[]), INPUT, "query needs at least one dependency");
    refused(&run("", &[b""]), INPUT, "the payload has no query");
    refused(&run("ab", &[b""]), INPUT, "piece 0, line 1: no newline at its end");
    refused(&run("ab\n1 2\n", &[b""]), INPUT, "query 2 has no term");
    refused(&run(&"ab\n".repeat(17), &[b""]), LIMIT, "more than 16 queries");
    let long: String = (0..17).map(|word| format!("w{word} ")).collect();
    refused(&run(&(long + "\n"), &[b""]), LIMIT, "query 1 has more than 16 different terms");

    for (scores, message) in [
        (&b"ab 7\n"[..], "piece 1, line 1: a term before any document"),
        (b"#0\n", "piece 1, line 1: not a document number"),
        (b"# \n", "piece 1, line 1: not a document number"),
        (b"# 4096\n", "piece 1, line 1: not a document number"),
        (b"# 1\n", "piece 1, line 1: documents are not in order"),
        (b"# 0\n# 0\n", "piece 1, line 2: documents are not in order"),
        (b"# 0\nab\n", "piece 1, line 2: not a term, a space and a number"),
        (b"# 0\nab 4294967295\nab 1\n", "piece 1, line 3: the score of the document is over 32 bits"),
    ] {
        refused(&run("ab\n", &[scores]), INPUT, message);
    }
}
