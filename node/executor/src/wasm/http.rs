//! Requests over HTTP/1.1, to granted origins only.
//!
//! What a guest asks for is parsed once, and everything afterwards works on the parts: the origin is looked up among the grants, the name is
//! resolved, and the connection goes to an address that was looked at. So a name that later stands for something else, a redirect,
//! or a second way to read the same URL lead nowhere else. Each request has a connection of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::address::choose;
use super::contract::http;
use super::guest::Guest;
use crate::{HttpOrigin, HttpScheme};

mod address;

/// The largest bodies, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The most headers of a request, and how many bytes their names and values may have together.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 32 << 10;

/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 8 << 10;

/// How much of a response is buffered at once, which bounds its head.
const RESPONSE_BUFFER_BYTES: usize = 64 << 10;

/// How long a request may take at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Headers that frame a message or concern the connection: they are the client's business.
const RESERVED: [HeaderName; 10] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
];

/// The way out.
pub(super) struct HttpClient {
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl HttpClient {
    /// Trusts the authorities whose certificates are in a PEM file; without one only plain HTTP works.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, String> {
        let Some(path) = authorities else {
            return Ok(Self { tls: None });
        };
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| error.to_string())?;
        let mut roots = rustls::RootCertStore::empty();
        // Systems' collections have some that no library takes.
        let (taken, _) = roots.add_parsable_certificates(certificates);
        if taken == 0 {
            return Err("there is no certificate in it".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Some(Arc::new(config)) })
    }

    async fn send(&self, origin: &HttpOrigin, request: Request<Full<Bytes>>) -> Result<http::Response, http::Error> {
        let stream = TcpStream::connect(resolve(origin).await?).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        match (origin.scheme(), &self.tls) {
            (HttpScheme::Http, _) => exchange(stream, request).await,
            (HttpScheme::Https, Some(tls)) => {
                let bare = origin.host().trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(bare).map_err(invalid)?;
                let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                exchange(connecting.await.map_err(unreachable)?, request).await
            }
            (HttpScheme::Https, None) => Err(unreachable("this node knows no authorities for https")),
        }
    }
}

impl http::Host for Guest {
    async fn send(&mut self, request: http::Request) -> wasmtime::Result<Result<http::Response, http::Error>> {
        const CALL: &str = "tarn:guest/http.send";
        if self.reach().grants.http.is_empty() {
            return Err(self.refuse("http", CALL, "add the origin to `http` in the task's grants"));
        }
        let (origin, uri) = match parse_url(&request.url) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Err(error)),
        };
        if !self.reach().grants.http.contains(&origin) {
            let advice = format!("add {origin} to `http` in the task's grants");
            return Err(self.refuse("http", format!("{CALL} to {origin}"), advice));
        }
        let timeout = request.timeout_ms.map_or(TIMEOUT_MAX, |ms| Duration::from_millis(ms.into()));
        let request = match build(&origin, &uri, request) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        let client = Arc::clone(&self.reach().http);
        let sending = tokio::time::timeout(timeout.min(TIMEOUT_MAX), client.send(&origin, request));
        Ok(sending.await.unwrap_or(Err(http::Error::TimedOut)))
    }
}

/// Takes a URL apart. There is one reading of it, and the request is made of the parts.
fn parse_url(url: &str) -> Result<(HttpOrigin, Uri), http::Error> {
    if url.len() > URL_BYTES_MAX {
        return Err(invalid(format!("the URL has more than {URL_BYTES_MAX} bytes")));
    }
    let uri: Uri = url.parse().map_err(invalid)?;
    let scheme = match uri.scheme_str() {
        Some("http") => HttpScheme::Http,
        Some("https") => HttpScheme::Https,
        _ => return Err(invalid("the URL starts with neither http:// nor https://")),
    };
    let authority = uri.authority().ok_or_else(|| invalid("the URL names no host"))?;
    // By the one strict reading that the grants have too: the library takes a port that is none for no port.
    let origin = format!("{}://{authority}", scheme.as_str()).parse().map_err(invalid)?;
    Ok((origin, uri))
}

fn build(origin: &HttpOrigin, uri: &Uri, request: http::Request) -> Result<Request<Full<Bytes>>, http::Error> {
    let method = Method::from_bytes(request.method.as_bytes()).map_err(invalid)?;
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(invalid(format!("the method {method} is not offered")));
    }
    if request.body.len() > BODY_BYTES_MAX {
        return Err(invalid(format!("the body has more than {BODY_BYTES_MAX} bytes")));
    }
    let mut headers = headers(request.headers)?;
    let host = match origin.port() == origin.scheme().default_port() {
        true => origin.host().to_owned(),
        false => format!("{}:{}", origin.host(), origin.port()),
    };
    headers.insert(header::HOST, HeaderValue::try_from(host).map_err(invalid)?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut built = Request::new(Full::new(Bytes::from(request.body)));
    *built.method_mut() = method;
    *built.uri_mut() = path.parse().map_err(invalid)?;
    *built.headers_mut() = headers;
    Ok(built)
}

fn headers(given: Vec<http::Header>) -> Result<HeaderMap, http::Error> {
    let bytes: usize = given.iter().map(|header| header.name.len() + header.value.len()).sum();
    if given.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return Err(invalid(format!("there are more than {HEADERS_MAX} headers, or they have more than {HEADER_BYTES_MAX} bytes")));
    }
    let mut headers = HeaderMap::new();
    for header in given {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(invalid)?;
        if RESERVED.contains(&name) {
            return Err(invalid(format!("the header {name} is set by the executor")));
        }
        headers.append(name, HeaderValue::from_maybe_shared(Bytes::from(header.value)).map_err(invalid)?);
    }
    Ok(headers)
}

/// An address that may be connected to.
async fn resolve(origin: &HttpOrigin) -> Result<SocketAddr, http::Error> {
    if let Some(address) = origin.address() {
        return Ok(SocketAddr::new(address, origin.port()));
    }
    let found = tokio::net::lookup_host((origin.host(), origin.port())).await;
    let found: Vec<SocketAddr> = found.map_err(unreachable)?.collect();
    choose(origin.host(), &found).map_err(http::Error::ForbiddenAddress)
}

/// One request and its response, on a connection that is closed afterwards.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<http::Response, http::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::Builder::new().max_buf_size(RESPONSE_BUFFER_BYTES).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(unreachable)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        whole(response).await
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        response = &mut exchange => response,
        // What has arrived by then can still be read.
        _ = &mut connection => exchange.await,
    }
}

/// The response with its body, if that is not too large.
async fn whole(response: Response<Incoming>) -> Result<http::Response, http::Error> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(unreachable)?.into_data() {
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Err(http::Error::TooLarge(BODY_BYTES_MAX as u64));
            }
            bytes.extend_from_slice(&data);
        }
    }
    let headers =
        head.headers.iter().map(|(name, value)| http::Header { name: name.as_str().to_owned(), value: value.as_bytes().to_vec() });
    Ok(http::Response { status: head.status.as_u16(), headers: headers.collect(), body: bytes.into() })
}

fn invalid(why: impl ToString) -> http::Error {
    http::Error::Invalid(why.to_string())
}

fn unreachable(why: impl ToString) -> http::Error {
    http::Error::Unreachable(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_reading() {
        for (url, origin, path) in [
            ("http://a.b/c?d=e#f", "http://a.b", "/c?d=e"),
            ("HTTPS://A.b:443", "https://a.b", "/"),
            ("http://[::1]:8080/x", "http://[::1]:8080", "/x"),
        ] {
            let (parsed, uri) = parse_url(url).unwrap_or_else(|error| panic!("{url}: {error:?}"));
            assert_eq!(parsed.to_string(), origin);
            assert_eq!(uri.path_and_query().map_or("/", |path| path.as_str()), path);
        }
        for url in [
            "",
            "/path",
            "a.b",
            "ftp://a.b/",
            "http://",
            "http:///path",
            "http://granted.com@evil.com/",
            "http://granted.com:80@evil.com/",
            "http://granted.com\\@evil.com/",
            "http://granted.com\r\nHost: evil.com/",
            "http://a.b:99999/",
            "http://a.b:/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://a b/",
            "file:///etc/passwd",
        ] {
            assert!(parse_url(url).is_err(), "{url:?}");
        }
    }
}
