//! What another cluster of the federation sends.

#[path = "../../../crdt/tests/support/exchange.rs"]
mod exchange;

use std::sync::LazyLock;

use exchange::Exchange;

use crate::target;

static EXCHANGE: LazyLock<Exchange> = LazyLock::new(Exchange::record);

target!(any_frame, |bytes: &[u8]| EXCHANGE.any_frame(bytes));
target!(any_message, |bytes: &[u8]| EXCHANGE.any_message(bytes));
target!(any_change_of_a_real_frame, |bytes: &[u8]| EXCHANGE.any_change_of_a_real_frame(bytes));

#[test]
fn an_exchange_that_nobody_changed() {
    EXCHANGE.unchanged();
}
