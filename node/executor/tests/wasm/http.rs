//! Requests over HTTP, to a server in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tarn_executor::{Attempt, Grants, WasmConfig, WasmExecutor};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::components::{ask, assert_refused, nothing};
use crate::{executors, fail, succeed};

/// A server that answers by the path, and counts who connects.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                match &tls {
                    None => drop(tokio::spawn(serve(stream))),
                    Some(tls) => {
                        let accepting = tls.accept(stream);
                        tokio::spawn(async move {
                            if let Ok(stream) = accepting.await {
                                serve(stream).await;
                            }
                        });
                    }
                }
            }
        });
        Self { port, connections }
    }

    fn grants(&self, host: &str, scheme: &str) -> Grants {
        let origin = format!("{scheme}://{host}:{}", self.port);
        Grants { http: [origin.parse().unwrap()].into(), ..nothing() }
    }

    fn asks(&self, method: &str, path: &str) -> Attempt {
        ask(format!("http {method} http://127.0.0.1:{}{path}", self.port), self.grants("127.0.0.1", "http"))
    }
}

/// Reads one request and answers it.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => request.extend_from_slice(&piece[..count]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default();
    let answer = match path {
        "/echo" => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-server: yes\r\n\r\n{text}", text.len()),
        "/moved" => "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "/large" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n";
            head.to_owned() + &"x".repeat(5_000_000)
        }
        "/garbage" => "this is no HTTP\r\n\r\n".to_owned(),
        "/heads" => "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(100_000) + "\r\n",
        "/torn" => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned(),
        _ => std::future::pending().await,
    };
    // Who asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn answer(executor: &WasmExecutor, attempt: Attempt) -> String {
    String::from_utf8(succeed(executor, attempt).await.output.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_go_to_granted_origins_and_nowhere_else() {
    for executor in executors() {
        let server = Server::start(None).await;
        let told = answer(&executor, server.asks("POST", "/echo")).await;
        assert!(told.starts_with("200\n"), "{told}");
        assert!(told.contains("x-server: yes\n"), "{told}");
        assert!(told.contains("POST /echo HTTP/1.1\r\n"), "{told}");
        assert!(told.contains("x-guest: yes\r\n"), "{told}");
        assert!(told.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{told}");
        assert!(told.contains("content-length: 8\r\n"), "{told}");
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);

        let other = Server::start(None).await;
        for (url, grants) in [
            (format!("http://127.0.0.1:{}/echo", server.port), nothing()),
            (format!("http://127.0.0.1:{}/echo", server.port), other.grants("127.0.0.1", "http")),
            (format!("http://localhost:{}/echo", server.port), server.grants("127.0.0.1", "http")),
            (format!("http://127.0.0.1:{}/echo", server.port), server.grants("127.0.0.1", "https")),
            (format!("http://[::ffff:127.0.0.1]:{}/echo", server.port), server.grants("127.0.0.1", "http")),
        ] {
            assert_refused(&fail(&executor, ask(format!("http GET {url}"), grants)).await, "http");
        }
        // A name is as good as an address where it is the one that stands for this machine.
        let local = ask(format!("http GET http://localhost:{}/echo", server.port), server.grants("localhost", "http"));
        assert!(answer(&executor, local).await.starts_with("200\n"));
        assert_eq!(server.connections.load(Ordering::Relaxed), 2);
        assert_eq!(other.connections.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn what_a_server_answers_is_bounded_and_believed_in_nothing() {
    for executor in executors() {
        let server = Server::start(None).await;
        for (path, expected) in [
            ("/moved", "302\nlocation: http://127.0.0.1:1/\n"),
            ("/large", "too-large"),
            ("/garbage", "unreachable"),
            ("/heads", "unreachable"),
            ("/torn", "unreachable"),
            ("/never", "timed-out"),
        ] {
            let told = answer(&executor, server.asks("GET", path)).await;
            assert!(told.starts_with(expected), "{path}: {told}");
        }
        // The attempt's own time counts as well.
        let mut short = server.asks("GET", "/never");
        short.limits.time_ms = 50;
        let failure = fail(&executor, short).await;
        crate::assert_reason(&failure.error, "TIME_LIMIT", true);
    }
}

#[tokio::test]
async fn a_malformed_request_is_not_sent() {
    for executor in executors() {
        let server = Server::start(None).await;
        for method in ["CONNECT", "TRACE", "G\tT", ""] {
            let told = answer(&executor, server.asks(method, "/echo")).await;
            assert!(told.starts_with("invalid"), "{method}: {told}");
        }
        for url in ["nonsense", "http://user@127.0.0.1/", "gopher://127.0.0.1/"] {
            let attempt = ask(format!("http GET {url}"), server.grants("127.0.0.1", "http"));
            let told = answer(&executor, attempt).await;
            assert!(told.starts_with("invalid"), "{url}: {told}");
        }
        for name in ["Host", "content-length", "Transfer-Encoding", "connection", "a:b", "a\r\nb", ""] {
            let input = format!("header {name} http://127.0.0.1:{}/echo", server.port);
            let told = answer(&executor, ask(input, server.grants("127.0.0.1", "http"))).await;
            assert!(told.starts_with("invalid"), "{name}: {told}");
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn https_trusts_the_authorities_of_the_configuration() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("authorities.pem");
    std::fs::write(&pem, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let server = Server::start(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let with = |authorities| WasmExecutor::new(WasmConfig { http_authorities: authorities, ..WasmConfig::default() });
    let asks = |host: &str| {
        let url = format!("http GET https://{host}:{}/echo", server.port);
        ask(url, server.grants(host, "https"))
    };
    let trusting = with(Some(pem)).unwrap();
    let told = answer(&trusting, asks("localhost")).await;
    assert!(told.starts_with("200\n"), "{told}");
    // The certificate is not for this name.
    let told = answer(&trusting, asks("127.0.0.1")).await;
    assert!(told.starts_with("unreachable"), "{told}");
    let told = answer(&with(None).unwrap(), asks("localhost")).await;
    assert!(told.starts_with("unreachable this node knows no authorities"), "{told}");

    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for path in [empty, dir.path().join("absent")] {
        assert!(with(Some(path)).is_err());
    }
}
