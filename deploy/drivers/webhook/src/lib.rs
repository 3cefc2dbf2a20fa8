//! A driver that posts events to a URL, one request each, in order, until each was taken.
//!
//! Configuration:
//!
//! ```json
//! {
//!   "url": "https://hooks.example.com/tarn",
//!   "secret": "at least 16 characters",
//!   "headers": { "authorization": "Bearer …" },
//!   "timeout_ms": 10000,
//!   "rejected": "retry"
//! }
//! ```
//!
//! Only `url` is needed; its origin must be granted (`--http https://hooks.example.com`). The body is the event as JSON. With a secret the
//! request carries `tarn-signature: t=<seconds since the Unix epoch>,v1=<hexadecimal>`, an HMAC-SHA256 (RFC 2104) over the time in decimal, a
//! dot and the body. `idempotency-key` names the event for ever: each is sent at least once, and a repeat has the same key.
//!
//! What is not answered with 2xx within the time is sent again, later and later, and what follows waits. With `"rejected": "skip"` an answer
//! 4xx other than 408 and 429 means that the receiver will never take the event: it is logged and left out.

pub mod request;
pub mod settings;

// The bindings are for WebAssembly; everything that decides lies in the modules, which are tested on any machine.
#[cfg(target_family = "wasm")]
mod guest {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::request::{self, Verdict};
    use super::settings::Settings;

    wit_bindgen::generate!({ path: "../../../client/proto/wit", world: "driver-guest" });

    use exports::tarn::guest::driver::{Event, Guest};
    use tarn::guest::{clock, http, log};

    struct Webhook;

    /// What lasts as long as the instance.
    struct Hook {
        name: String,
        settings: Settings,
        /// Taken by the receiver, of events that will come again because one among them was not.
        taken: BTreeSet<String>,
        sent: u64,
        skipped: u64,
    }

    static HOOK: Mutex<Option<Hook>> = Mutex::new(None);

    fn with<T>(work: impl FnOnce(&mut Hook) -> Result<T, String>) -> Result<T, String> {
        let mut hook = HOOK.lock().map_err(|_| "the driver broke")?;
        work(hook.as_mut().ok_or("init comes first")?)
    }

    impl Guest for Webhook {
        fn init(name: String, config: String, _: Option<Vec<u8>>) -> Result<(), String> {
            let settings = Settings::parse(&config)?;
            let hook = Hook { name, settings, taken: BTreeSet::new(), sent: 0, skipped: 0 };
            *HOOK.lock().map_err(|_| "the driver broke")? = Some(hook);
            Ok(())
        }

        fn on_events(events: Vec<Event>) -> Result<(), String> {
            with(|hook| {
                for event in &events {
                    if !hook.taken.contains(&event.id) {
                        hook.deliver(&event.id, &body(&hook.name, event))?;
                        hook.taken.insert(event.id.clone());
                    }
                }
                hook.taken.clear();
                Ok(())
            })
        }

        fn on_tick(_: u64) -> Result<Option<u64>, String> {
            Ok(None)
        }

        fn call(method: String, _: Vec<u8>) -> Result<Vec<u8>, String> {
            with(|hook| match method.as_str() {
                "test" => {
                    let event = serde_json::json!({ "id": "test", "kind": "TEST", "driver": hook.name });
                    hook.deliver("test", &event.to_string())?;
                    Ok(b"the receiver took it".to_vec())
                }
                "stats" => Ok(serde_json::json!({ "sent": hook.sent, "skipped": hook.skipped }).to_string().into_bytes()),
                _ => Err("this driver knows the methods \"test\" and \"stats\"".to_owned()),
            })
        }
    }

    impl Hook {
        fn deliver(&mut self, id: &str, body: &str) -> Result<(), String> {
            let time_s = clock::now_ms() / 1_000;
            let headers = request::headers(&self.settings, &format!("{}/{id}", self.name), time_s, body.as_bytes());
            let headers = headers.into_iter().map(|(name, value)| http::Header { name, value: value.into_bytes() });
            let answer = http::send(&http::Request {
                method: "POST".to_owned(),
                url: self.settings.url.clone(),
                headers: headers.collect(),
                body: body.as_bytes().to_vec(),
                timeout_ms: Some(self.settings.timeout_ms),
            });
            let answer = answer.map_err(|error| format!("{}: {error:?}", self.settings.url))?;
            match request::verdict(&self.settings, answer.status) {
                Verdict::Taken => self.sent += 1,
                Verdict::Skip => {
                    self.skipped += 1;
                    let line = format!("event {id} was rejected with {} and is left out", answer.status);
                    log::write(log::Level::Error, &line);
                }
                Verdict::Again => return Err(format!("{} answered {id} with {}", self.settings.url, answer.status)),
            }
            Ok(())
        }
    }

    fn body(driver: &str, event: &Event) -> String {
        serde_json::json!({
            "id": event.id,
            "driver": driver,
            "revision": event.revision,
            "ordinal": event.ordinal,
            "at_ms": event.at_ms,
            "kind": event.kind,
            "namespace": event.namespace,
            "queue": event.queue,
            "subject": event.subject,
            "worker": event.worker,
            "attempt": event.attempt,
            "detail": event.detail,
        })
        .to_string()
    }

    export!(Webhook);
}
