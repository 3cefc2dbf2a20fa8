//! How a receiver knows that a message is from this cluster, and not an old one sent again: an HMAC over its time and its bytes.
//!
//! The header reads `t=<seconds since the Unix epoch>,v1=<HMAC-SHA256 in hexadecimal>`; the HMAC (RFC 2104) is over the time in decimal, a
//! dot, and the body, under the key that both sides have. A receiver computes it again, compares in constant time, and refuses what is older
//! than a few minutes.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;

/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "tarn-signature";

/// Why a signature is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is not of the form that [`sign`] makes.
    #[error("the signature is malformed")]
    Malformed,
    /// It is older, or newer, than allowed.
    #[error("the signature is not of this time")]
    Stale,
    /// The body, the time or the key is another.
    #[error("the signature does not fit")]
    Wrong,
}

/// The header's value for a body that is sent at this time, in seconds since the Unix epoch.
#[must_use]
pub fn sign(key: &[u8], time_s: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, &message(time_s, body));
    format!("t={time_s},v1={}", HEXLOWER.encode(tag.as_ref()))
}

/// What a receiver does: whether the header fits the body, and was made less than `tolerance_s` seconds from now.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(key: &[u8], header: &str, body: &[u8], now_s: u64, tolerance_s: u64) -> Result<(), SignatureError> {
    let (time, tag) = header.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).ok_or(SignatureError::Malformed)?;
    let time_s: u64 = time.parse().map_err(|_| SignatureError::Malformed)?;
    let tag = HEXLOWER.decode(tag.as_bytes()).map_err(|_| SignatureError::Malformed)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::verify(&key, &message(time_s, body), &tag).map_err(|_| SignatureError::Wrong)?;
    match now_s.abs_diff(time_s) <= tolerance_s {
        true => Ok(()),
        false => Err(SignatureError::Stale),
    }
}

fn message(time_s: u64, body: &[u8]) -> Vec<u8> {
    [time_s.to_string().as_bytes(), b".", body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_body_one_time_and_one_key() {
        let header = sign(b"0123456789abcdef", 1_000, b"{}");
        assert_eq!(verify(b"0123456789abcdef", &header, b"{}", 1_100, 300), Ok(()));
        assert_eq!(verify(b"0123456789abcdef", &header, b"{ }", 1_100, 300), Err(SignatureError::Wrong));
        assert_eq!(verify(b"another key.....", &header, b"{}", 1_100, 300), Err(SignatureError::Wrong));
        assert_eq!(verify(b"0123456789abcdef", &header, b"{}", 1_301, 300), Err(SignatureError::Stale));
        let later = header.replace("t=1000", "t=1300");
        assert_eq!(verify(b"0123456789abcdef", &later, b"{}", 1_301, 300), Err(SignatureError::Wrong));
        for broken in ["", "t=", "t=1,v1=", "t=x,v1=00", "t=1,v1=zz", "v1=00,t=1"] {
            assert!(verify(b"0123456789abcdef", broken, b"{}", 1, 300).is_err(), "{broken:?}");
        }
    }

    /// The second test case of RFC 4231, with a body that makes the message what it has there.
    #[test]
    fn it_is_the_known_hmac() {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"Jefe"), b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(HEXLOWER.encode(tag.as_ref()), expected);
    }
}
