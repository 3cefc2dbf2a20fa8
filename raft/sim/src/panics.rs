//! A panic in the code under test is a finding, wherever it happens: tokio would only end the task.

use std::sync::Mutex;

static FIRST: Mutex<Option<String>> = Mutex::new(None);

/// From now on the first panic of the process is remembered.
pub fn remember() {
    std::panic::set_hook(Box::new(|panic| {
        let mut first = FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert_with(|| panic.to_string().replace('\n', " "));
    }));
}

/// The first panic, if there was one.
pub fn first() -> Option<String> {
    FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}
