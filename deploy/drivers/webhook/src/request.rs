//! What is sent, and what the answer means.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::settings::{Rejected, Settings};

/// What an answer means for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    Again,
    Skip,
}

/// The request's headers. The driver's own come last: they say what the request is, whatever the configuration says.
pub fn headers(settings: &Settings, key: &str, time_s: u64, body: &[u8]) -> Vec<(String, String)> {
    let own = ["content-type", "idempotency-key", "tarn-signature"];
    let given = settings.headers.iter().filter(|(name, _)| !own.contains(&name.to_ascii_lowercase().as_str()));
    let mut headers: Vec<_> = given.map(|(name, value)| (name.clone(), value.clone())).collect();
    headers.push(("content-type".to_owned(), "application/json".to_owned()));
    headers.push(("idempotency-key".to_owned(), key.to_owned()));
    if let Some(secret) = &settings.secret {
        headers.push(("tarn-signature".to_owned(), sign(secret.as_bytes(), time_s, body)));
    }
    headers
}

/// The signature's header.
pub fn sign(secret: &[u8], time_s: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key may have any length");
    mac.update(format!("{time_s}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time_s},v1={hex}")
}

/// What an answer means.
pub fn verdict(settings: &Settings, status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Taken,
        // It took too long, or there was too much: another time.
        408 | 429 => Verdict::Again,
        400..=499 if settings.rejected == Rejected::Skip => Verdict::Skip,
        _ => Verdict::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        Settings::parse(&format!(r#"{{"url":"https://a.b"{more}}}"#)).unwrap()
    }

    #[test]
    fn the_signature_is_an_hmac_over_time_and_body() {
        let header = sign(b"0123456789abcdef", 1_700_000_000, b"{\"id\":\"1-0\"}");
        assert_eq!(header, SIGNED);
    }

    /// `printf '1700000000.{"id":"1-0"}' | openssl dgst -sha256 -hmac 0123456789abcdef`
    const SIGNED: &str = "t=1700000000,v1=6910fab97d8c78b52da5d2bdd04af8da5819cddd0aa59eb2f9fbc63833fc6531";

    #[test]
    fn own_headers_are_not_replaced_by_those_of_the_configuration() {
        let settings = settings(r#","headers":{"Idempotency-Key":"mine","x-team":"ops"},"secret":"0123456789abcdef""#);
        let headers = headers(&settings, "hook/1-0", 1, b"{}");
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-team", "content-type", "idempotency-key", "tarn-signature"]);
        assert_eq!(headers[2].1, "hook/1-0");
    }

    #[test]
    fn only_a_2xx_takes_an_event_and_only_on_request_is_one_left_out() {
        for (status, retry, skip) in [
            (200, Verdict::Taken, Verdict::Taken),
            (204, Verdict::Taken, Verdict::Taken),
            (302, Verdict::Again, Verdict::Again),
            (400, Verdict::Again, Verdict::Skip),
            (408, Verdict::Again, Verdict::Again),
            (429, Verdict::Again, Verdict::Again),
            (410, Verdict::Again, Verdict::Skip),
            (503, Verdict::Again, Verdict::Again),
        ] {
            assert_eq!(verdict(&settings(""), status), retry, "{status}");
            assert_eq!(verdict(&settings(r#","rejected":"skip""#), status), skip, "{status}");
        }
    }
}
