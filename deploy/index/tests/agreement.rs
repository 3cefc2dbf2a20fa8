//! The guest, run as a cluster would run it, agrees with the reference byte for byte.

mod common;

use std::fmt::Write;
use std::path::PathBuf;

use common::{Guest, pieces};
use proptest::prelude::*;
use tarn_index::corpus::{DEBIAN_FOLDERS, Document, collect};
use tarn_index::limits::{
    DEPENDENCIES, DEPENDENCY_BYTES, DOCUMENT_BYTES, DOCUMENTS, PAYLOAD_BYTES, RESULT_BYTES, SHARD_BYTES, map_result_bytes,
};
use tarn_index::plan::{Plan, Shape, Stage};
use tarn_index::reference;
use tarn_index::render;
use tarn_index::results::{read_answers, read_scores};

fn document(text: impl Into<Vec<u8>>) -> Document {
    Document { name: String::new(), text: text.into().into(), cut: false }
}

/// What a map task must print for a text.
fn expected_map(text: &[u8]) -> String {
    let mut lines = String::new();
    for (term, count) in reference::count(text) {
        writeln!(lines, "{term} {count}").expect("writing to a string cannot fail");
    }
    lines
}

/// Runs all tasks of a plan in order, as executors would, and gives their results. Checks tarn's limits.
fn run(guest: &Guest, plan: &Plan) -> Vec<Vec<u8>> {
    let mut results: Vec<Vec<u8>> = Vec::new();
    for task in plan.tasks() {
        let label = &task.label;
        assert!(task.payload.len() <= PAYLOAD_BYTES && task.after.len() <= DEPENDENCIES, "{label}");
        let stdin = if task.after.is_empty() {
            task.payload.to_vec()
        } else {
            let inputs: Vec<&[u8]> = task.after.iter().map(|&index| &results[index][..]).collect();
            let framed = pieces(&task.payload, &inputs);
            assert!(framed.len() - task.payload.len() <= DEPENDENCY_BYTES, "{label}");
            framed
        };
        let result = guest.result(&task.args, stdin);
        assert!(result.len() <= RESULT_BYTES, "{label}");
        results.push(result);
    }
    results
}

/// Runs the plan with the guest and compares all outputs with the reference's.
fn check(guest: &Guest, documents: &[Document], queries: &[String], plan: &Plan) -> Vec<Vec<u8>> {
    let results = run(guest, plan);
    let expected = reference::outputs(documents, queries, plan);
    for (index, bytes) in &expected {
        let label = &plan.tasks()[*index].label;
        assert_eq!(String::from_utf8_lossy(&results[*index]), String::from_utf8_lossy(bytes), "{label}");
    }
    assert_eq!(expected.len(), plan.scores().count() + 1);
    results
}

fn queries() -> Vec<String> {
    ["GNU General Public License", "the author's warranty", "qqqqq", "b, a1 b!"].map(str::to_owned).to_vec()
}

#[test]
fn edges_of_the_tokeniser() {
    let Some(guest) = Guest::get() else { return };
    let longest = "x".repeat(40);
    let texts: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"a".to_vec(),
        b"ab".to_vec(),
        b"1a a1 11".to_vec(),
        b"@AZ[`az{/09:".to_vec(),
        b"\xffab\x80CD\0ef".to_vec(),
        format!("{longest} {longest}y y{longest} 1{longest}").into_bytes(),
        longest.clone().into_bytes(),
        "x".repeat(DOCUMENT_BYTES).into_bytes(),
        "ab ".repeat(DOCUMENT_BYTES / 3).into_bytes(),
        (0..=255).collect(),
        (0..=255).flat_map(|byte| [b'a', byte]).collect(),
    ];
    for text in texts {
        let printed = guest.result(&["map"], text.clone());
        assert_eq!(String::from_utf8_lossy(&printed), expected_map(&text));
    }
}

#[test]
fn the_largest_map_result_is_within_its_bound() {
    let Some(guest) = Guest::get() else { return };
    // All terms of two and three bytes, then of four, each once: nothing makes longer results of a text.
    let letters: Vec<u8> = (b'a'..=b'z').collect();
    let all: Vec<u8> = [&letters[..], b"0123456789"].concat();
    let longer = |terms: &[Vec<u8>]| -> Vec<Vec<u8>> {
        terms.iter().flat_map(|term| all.iter().map(|&byte| [&term[..], &[byte]].concat())).collect()
    };
    let two = longer(&letters.iter().map(|&byte| vec![byte]).collect::<Vec<_>>());
    let three = longer(&two);
    let four = longer(&three);
    let mut text = [two, three, four].concat().join(&b' ');
    text.truncate(DOCUMENT_BYTES);
    let printed = guest.result(&["map"], text.clone());
    assert_eq!(printed, expected_map(&text).into_bytes());
    assert!(printed.len() <= map_result_bytes(text.len()));
    assert!(printed.len() > text.len());
}

#[test]
fn a_folder_of_files() {
    let Some(guest) = Guest::get() else { return };
    // Sources and licences of this repository, without this file: real text, which a clean clone has.
    let repository = common::package().join("../..");
    let roots = ["deploy/index/guest", "deploy/index/src", "LICENSE-APACHE", "LICENSE-MIT"];
    let roots = roots.map(|name| repository.join(name));
    let documents = collect(&roots, DOCUMENTS).unwrap().documents;
    assert!(documents.len() > 15);
    let plan = Plan::new(&documents, &queries()).unwrap();
    let results = check(guest, &documents, &queries(), &plan);
    let best = &read_answers(&results[plan.query()]).unwrap()[1];
    assert_eq!(best.terms, ["the", "author", "warranty"]);
    assert!(documents[best.documents[0].0].name.contains("LICENSE"), "{best:?}");
}

#[test]
#[ignore = "half a minute: all documents of this machine (cargo test -p tarn-index -- --ignored --nocapture)"]
fn the_documents_of_a_debian_machine() {
    let Some(guest) = Guest::get() else { return };
    let corpus = collect(&DEBIAN_FOLDERS.map(PathBuf::from), DOCUMENTS).unwrap();
    println!("{}", render::corpus(&corpus));
    let plan = Plan::new(&corpus.documents, &queries()).unwrap();
    print!("{}", render::levels(&plan));
    let results = check(guest, &corpus.documents, &queries(), &plan);
    for (level, (stage, _)) in plan.levels().into_iter().enumerate() {
        let of_level = || plan.tasks().iter().zip(&results).filter(|(task, _)| task.level == level);
        let input = |after: &[usize]| after.iter().map(|&index| results[index].len()).sum::<usize>();
        println!(
            "level {level}  {:<5}  results: {} bytes, the largest {}; inputs: {} bytes, the largest {}",
            stage.verb(),
            of_level().map(|(_, result)| result.len()).sum::<usize>(),
            of_level().map(|(_, result)| result.len()).max().unwrap_or(0),
            of_level().map(|(task, _)| input(&task.after)).sum::<usize>(),
            of_level().map(|(task, _)| input(&task.after)).max().unwrap_or(0),
        );
    }
    let scored = read_scores(&results[plan.scores().next().unwrap().0]).unwrap();
    print!("{}", render::top_terms(&corpus.documents, scored.iter().take(8), 8));
    print!("{}", render::answers(&corpus.documents, &read_answers(&results[plan.query()]).unwrap(), 3));
}

#[test]
fn many_levels_of_merges() {
    let Some(guest) = Guest::get() else { return };
    let text = |number: usize| {
        let words = (1..=number + 1).map(|word| format!("w{} {}", number / word, "common ".repeat(word % 3)));
        document(words.collect::<Vec<_>>().join(" "))
    };
    let documents: Vec<Document> = (0..40).map(text).collect();
    let asked = ["w1 w17", "common", "w39"].map(str::to_owned);
    let shape = Shape { group_documents: 3, merge_fan_in: 2, shard_bytes: 120 };
    let plan = Plan::with_shape(&documents, &asked, shape).unwrap();
    assert!(plan.shards() >= 3);
    assert_eq!(plan.levels().iter().filter(|(stage, _)| *stage == Stage::Merge).count(), 4);
    let results = check(guest, &documents, &asked, &plan);

    let scored: Vec<usize> =
        plan.scores().flat_map(|(task, _)| read_scores(&results[task]).unwrap()).map(|scored| scored.document).collect();
    assert_eq!(scored, (0..40).collect::<Vec<_>>());
}

#[test]
fn the_fullest_shards_and_groups_stay_within_the_limits() {
    let Some(guest) = Guest::get() else { return };
    // Documents of different words only, as long as they may be, until the shards are nearly full; run() checks
    // every payload, input and result.
    let per_document = DOCUMENT_BYTES / 41;
    let enough = 2 * SHARD_BYTES / (46 * per_document);
    let words = |number: usize| {
        let word = |word: usize| format!("w{:039}", (number * per_document + word).wrapping_mul(2_654_435_761));
        (0..per_document).map(word).collect::<Vec<_>>().join(" ")
    };
    let documents: Vec<Document> = (0..enough).map(|number| document(words(number))).collect();
    let asked = ["nothing".to_owned()];
    let plan = Plan::new(&documents, &asked).unwrap();
    assert!(plan.shards() >= 2);
    check(guest, &documents, &asked, &plan);
}

/// Words from a small alphabet, so that documents share some, with separators and a few other bytes between.
fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let word = prop_oneof![
        8 => "[a-cA-C][a-c0-1]{1,2}",
        1 => "[a-z0-9]{0,45}",
        1 => Just("common".to_owned()),
    ];
    let separator = prop_oneof![4 => Just(b" ".to_vec()), 1 => proptest::collection::vec(any::<u8>(), 1..4)];
    let text = proptest::collection::vec((word, separator), 0..40)
        .prop_map(|parts| parts.into_iter().flat_map(|(word, separator)| [word.into_bytes(), separator]).collect::<Vec<_>>().concat());
    proptest::collection::vec(text, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn map_agrees_on_any_bytes(text in proptest::collection::vec(any::<u8>(), 0..2000)) {
        if let Some(guest) = Guest::get() {
            let printed = guest.result(&["map"], text.clone());
            prop_assert_eq!(String::from_utf8_lossy(&printed), expected_map(&text));
        }
    }

    #[test]
    fn map_agrees_on_bytes_that_are_mostly_words(text in "[a-zA-Z0-9 ./\u{e9}-]{0,600}") {
        if let Some(guest) = Guest::get() {
            let printed = guest.result(&["map"], text.clone().into_bytes());
            prop_assert_eq!(String::from_utf8_lossy(&printed), expected_map(text.as_bytes()));
        }
    }

    #[test]
    fn whole_jobs_agree(
        texts in texts(),
        group_documents in 1..5usize,
        merge_fan_in in 2..4usize,
        shard_bytes in prop_oneof![Just(SHARD_BYTES), 300..2000usize],
    ) {
        if let Some(guest) = Guest::get() {
            let documents: Vec<Document> = texts.into_iter().map(document).collect();
            let asked = ["aa ab ba", "common a0", "cc b1c"].map(str::to_owned);
            let shape = Shape { group_documents, merge_fan_in, shard_bytes };
            // A vocabulary that does not fit eight such small shards has no plan, which is not what is tested here.
            if let Ok(plan) = Plan::with_shape(&documents, &asked, shape) {
                check(guest, &documents, &asked, &plan);
            }
        }
    }
}
