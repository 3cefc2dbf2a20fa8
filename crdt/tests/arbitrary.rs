//! Whatever a peer sends: refused, or what was signed. The same judges as the fuzz targets in `fuzz/`, with inputs that are made up here.
//! `TARN_CASES` asks for more of them; a failure prints its input.

#![allow(clippy::disallowed_methods, reason = "a test asks how many cases it is to run")]

#[path = "support/exchange.rs"]
mod exchange;

use std::sync::LazyLock;

use exchange::Exchange;
use proptest::prelude::*;

static EXCHANGE: LazyLock<Exchange> = LazyLock::new(Exchange::record);

fn cases() -> ProptestConfig {
    let cases = std::env::var("TARN_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        EXCHANGE.any_frame(&bytes);
    }

    #[test]
    fn any_message(bytes in (1u8..7, prop::collection::vec(any::<u8>(), 0..300))) {
        EXCHANGE.any_message(&[vec![bytes.0], bytes.1].concat());
    }

    #[test]
    fn any_change_of_a_real_frame(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
        EXCHANGE.any_change_of_a_real_frame(&bytes);
    }
}

#[test]
fn the_exchange_itself_is_taken_whole() {
    // Otherwise the changed ones would show nothing.
    EXCHANGE.unchanged();
}
