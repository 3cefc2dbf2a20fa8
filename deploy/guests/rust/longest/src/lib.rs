//! A task: keeps the longest line that it was ever given in its context, under the key "longest", and returns it. Needs the grants
//! `context` (for writing) and `log`.

wit_bindgen::generate!({ path: "../../../../client/proto/wit", world: "guest" });

use exports::tarn::guest::task::{Failure, Guest};
use tarn::guest::{context, log};

const KEY: &str = "longest";

struct Longest;

impl Guest for Longest {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let text = String::from_utf8(input).map_err(|_| Failure::Never("the input is no text".to_owned()))?;
        let given = text.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        let kept = context::get(KEY).map_err(again)?;
        if let Some(entry) = &kept
            && chars(&entry.value) >= given.chars().count()
        {
            return Ok(entry.value.clone());
        }
        // Nobody else may have kept a longer one in the meantime; then the next attempt looks again.
        let version = kept.map_or(0, |entry| entry.version);
        context::set(KEY, given.as_bytes(), Some(version)).map_err(again)?;
        log::write(log::Level::Info, "a longer line than before");
        Ok(given.as_bytes().to_vec())
    }
}

fn chars(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).chars().count()
}

fn again(error: context::Error) -> Failure {
    Failure::Again(match error {
        context::Error::Conflict(version) => format!("somebody else was faster: the key has version {version}"),
        context::Error::Refused(why) | context::Error::Unavailable(why) => why,
    })
}

export!(Longest);
