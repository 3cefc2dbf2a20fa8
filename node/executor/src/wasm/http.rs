//! Requests over HTTP.

use super::contract::http;
use super::guest::Guest;

impl http::Host for Guest {
    async fn send(&mut self, _request: http::Request) -> wasmtime::Result<Result<http::Response, http::Error>> {
        let advice = "add the origin to `http` in the task's grants";
        Err(self.refuse("http", "tarn:guest/http.send", advice))
    }
}
