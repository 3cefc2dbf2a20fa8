//! What an attempt writes, up to a limit.

use bytes::{Bytes, BytesMut};

/// What was written and fits, and how much did not.
#[derive(Debug)]
pub(crate) struct Bounded {
    bytes: BytesMut,
    limit: usize,
    dropped: u64,
}

impl Bounded {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { bytes: BytesMut::new(), limit: usize::try_from(limit_bytes).unwrap_or(usize::MAX), dropped: 0 }
    }

    /// Takes what fits. False if something did not.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let room = self.limit - self.bytes.len();
        let (fits, rest) = bytes.split_at(bytes.len().min(room));
        self.bytes.extend_from_slice(fits);
        self.dropped += rest.len() as u64;
        rest.is_empty()
    }

    /// Whether something did not fit.
    pub(crate) fn overflowed(&self) -> bool {
        self.dropped > 0
    }

    /// What was written.
    pub(crate) fn output(self) -> Bytes {
        self.bytes.freeze()
    }

    /// What was written, ending with a marker if anything was dropped. The marker itself does not count towards the limit.
    pub(crate) fn logs(mut self) -> Bytes {
        if self.dropped > 0 {
            let (limit, dropped) = (self.limit, self.dropped);
            let marker = format!("\n[tarn: {dropped} more bytes dropped, the limit log_bytes is {limit}]\n");
            self.bytes.extend_from_slice(marker.as_bytes());
        }
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let mut written = Bounded::new(5);
        assert!(written.append(b"1234"));
        assert!(!written.append(b"5678"));
        assert!(!written.append(b"9"));
        assert!(written.overflowed());
        assert_eq!(written.logs(), "12345\n[tarn: 4 more bytes dropped, the limit log_bytes is 5]\n");
    }

    #[test]
    fn up_to_the_limit_it_is_whole() {
        let mut written = Bounded::new(5);
        assert!(written.append(b"12345") && written.append(b""));
        assert!(!written.overflowed());
        assert_eq!(written.output(), "12345");
    }
}
