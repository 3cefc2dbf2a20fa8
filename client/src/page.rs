//! Lists that come in pages, read as one stream.

use std::collections::VecDeque;

use futures::{Stream, stream};

use crate::error::Error;

/// A stream over all items of a paged list. The next page is fetched when the last one is used up; an error ends the stream.
pub(crate) fn items<T, F, Fut>(fetch: F) -> impl Stream<Item = Result<T, Error>> + Send
where
    T: Send,
    F: Fn(String) -> Fut + Send,
    Fut: Future<Output = Result<(Vec<T>, String), Error>> + Send,
{
    // The items at hand, and the token of the page after them; `None` once that was the last.
    let start = (VecDeque::new(), Some(String::new()), fetch);
    stream::try_unfold(start, |(mut at_hand, mut next, fetch)| async move {
        loop {
            if let Some(item) = at_hand.pop_front() {
                return Ok(Some((item, (at_hand, next, fetch))));
            }
            let Some(token) = next.take() else { return Ok(None) };
            let (page, after) = fetch(token).await?;
            at_hand = page.into();
            next = Some(after).filter(|token| !token.is_empty());
        }
    })
}
