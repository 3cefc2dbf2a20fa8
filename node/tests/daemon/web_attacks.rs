//! Callers of the second listener that break HTTP/2's rules, or keep them only to hold on to something.

use std::time::Duration;

use rustls::crypto::SupportedKxGroup;
use tarn_client::tls::PrincipalKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::common::{Node, PATIENCE, eventually, node, node_with};
use crate::web_client::{CLASSICAL, HYBRID};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame, or only its head if the length is a lie.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field, spelled out.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // A length of seven bits, and what is beyond in groups of seven (RFC 7541, 5.1).
        if text.len() < 127 {
            bytes.push(text.len() as u8);
        } else {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn request_fields() -> Vec<u8> {
    [
        field(":method", "POST"),
        field(":scheme", "https"),
        field(":path", "/tarn.v1.TaskService/Enqueue"),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat()
}

/// A connection that has said what opens HTTP/2.
async fn open(node: &Node) -> TlsStream<TcpStream> {
    let mut tls = node.web_tls(HYBRID).await.unwrap();
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    tls.write_all(&preface).await.unwrap();
    tls
}

/// The frames that the server sends until one is of this kind, or it hangs up.
async fn until_frame(tls: &mut TlsStream<TcpStream>, wanted: impl Fn(u8, u32) -> bool) -> bool {
    let reading = async {
        loop {
            let mut head = [0; 9];
            if tls.read_exact(&mut head).await.is_err() {
                return false;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if tls.read_exact(&mut payload).await.is_err() {
                return false;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if wanted(head[3], stream) {
                return true;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server neither answers nor hangs up")
}

/// That the server ends the connection: it says so, or it just does.
async fn assert_ended(mut tls: TlsStream<TcpStream>) {
    until_frame(&mut tls, |kind, _| kind == GOAWAY).await;
    let closing = async {
        let mut rest = Vec::new();
        tls.read_to_end(&mut rest).await.ok();
    };
    tokio::time::timeout(PATIENCE, closing).await.expect("the server does not hang up");
}

/// That both listeners still serve.
async fn assert_alive(node: &Node) {
    let mut tls = open(node).await;
    tls.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_fields())).await.unwrap();
    assert!(until_frame(&mut tls, |kind, stream| (kind, stream) == (HEADERS, 1)).await, "no answer");
    node.submit(crate::common::task("q", b"alive")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_token_is_answered_before_its_body() {
    let node = node().await;
    let mut tls = open(&node).await;
    // The body never comes.
    tls.write_all(&frame(HEADERS, END_HEADERS, 1, &request_fields())).await.unwrap();
    assert!(until_frame(&mut tls, |kind, stream| (kind, stream) == (HEADERS, 1)).await);
    assert_alive(&node).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers_are_refused() {
    let node = node().await;
    // One huge field, and thousands of small ones, in as many frames as they need.
    let huge = field("x-large", &"x".repeat(100_000));
    let many: Vec<u8> = (0..20_000).flat_map(|number| field(&format!("x-{number}"), "y")).collect();
    for flood in [huge, many] {
        let mut tls = open(&node).await;
        let fields = [request_fields(), flood].concat();
        let chunks: Vec<&[u8]> = fields.chunks(16_000).collect();
        for (place, chunk) in chunks.iter().enumerate() {
            let kind = if place == 0 { HEADERS } else { CONTINUATION };
            let flags = if place + 1 == chunks.len() { END_HEADERS } else { 0 };
            // The server may hang up in the middle.
            if tls.write_all(&frame(kind, flags, 1, chunk)).await.is_err() {
                break;
            }
        }
        // An answer (431), a reset of the stream, or the end of the connection.
        until_frame(&mut tls, |kind, _| [HEADERS, RST_STREAM, GOAWAY].contains(&kind)).await;
    }
    // Headers that never end.
    let mut tls = open(&node).await;
    tls.write_all(&frame(HEADERS, 0, 1, &request_fields())).await.unwrap();
    let drip = frame(CONTINUATION, 0, 1, &[]);
    for _ in 0..100_000 {
        if tls.write_all(&drip).await.is_err() {
            break;
        }
    }
    assert_ended(tls).await;
    assert_alive(&node).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_end_the_connection() {
    let node = node().await;
    let oversized = frame(0, 0, 1, &vec![0; 1 << 20]);
    let announced = vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let odd_settings = frame(SETTINGS, 0, 0, &[0; 5]);
    let bad_compression = frame(HEADERS, END_HEADERS, 1, &[0xff; 64]);
    let data_on_nothing = frame(0, 0, 7, b"data");
    let even_stream = frame(HEADERS, END_HEADERS, 2, &request_fields());
    for bytes in [oversized, announced, odd_settings, bad_compression, data_on_nothing, even_stream] {
        let mut tls = open(&node).await;
        tls.write_all(&bytes).await.ok();
        assert_ended(tls).await;
    }
    assert_alive(&node).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_cancelled_at_once_end_the_connection() {
    let node = node().await;
    let mut tls = open(&node).await;
    let cancel = 8_u32.to_be_bytes();
    let mut burst = Vec::new();
    for stream in (1..20_001).step_by(2) {
        burst.extend(frame(HEADERS, END_HEADERS, stream, &request_fields()));
        burst.extend(frame(RST_STREAM, 0, stream, &cancel));
    }
    // As much as one can say before anything is looked at.
    let saying = tokio::time::timeout(PATIENCE, tls.write_all(&burst)).await;
    drop(saying);
    assert_ended(tls).await;
    assert_alive(&node).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_refused_and_counted() {
    let node = node().await;
    node.web_ca().await;
    let noises: [&[u8]; 3] = [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 4_096]];
    for noise in noises {
        let mut tcp = TcpStream::connect(node.https()).await.unwrap();
        tcp.write_all(noise).await.ok();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.unwrap().ok();
        assert!(!answer.starts_with(b"HTTP"));
    }
    let counted = r#"tarn_handshakes_refused_total{reason="not_tls"}"#;
    eventually(|| async { node.metric(counted).await >= 3.0 }).await;
    assert!(node.web_tls(CLASSICAL).await.is_err());

    // HTTP/1.1 within TLS.
    let mut tls = node.web_tls(HYBRID).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nand some more for good measure").await.unwrap();
    assert_ended(tls).await;
    assert_alive(&node).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_does_not_take_every_place() {
    let node = node_with(|config| {
        config.executors.wasm = false;
        config.limits.https_connections = 64;
        config.limits.https_connections_per_address = 2;
    })
    .await;
    node.web_ca().await;
    let groups: &[&'static dyn SupportedKxGroup] = HYBRID;
    let (first, _second) = (open(&node).await, open(&node).await);
    let third = node.web_tls(groups).await.unwrap();
    assert_ended(third).await;
    let counted = r#"tarn_handshakes_refused_total{reason="too_many_connections"}"#;
    eventually(|| async { node.metric(counted).await >= 1.0 }).await;
    drop(first);
    eventually(|| async {
        let mut tls = node.web_tls(groups).await.unwrap();
        let asking = async {
            let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
            tls.write_all(&preface).await.ok()?;
            until_frame(&mut tls, |kind, _| kind == SETTINGS).await.then_some(())
        };
        asking.await.is_some()
    })
    .await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_one_listener_do_not_stop_the_other() {
    let node = node_with(|config| {
        config.executors.wasm = false;
        config.limits.https_connections = 4;
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(node.https()).await.unwrap());
    }
    let submitted = node.submit(crate::common::task("q", b"x"));
    tokio::time::timeout(Duration::from_secs(10), submitted).await.unwrap();
    drop(silent);
    assert_alive(&node).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_connect_and_say_nothing_keep_nobody_out() {
    let node = node().await;
    for address in [node.running.addresses().api, node.running.addresses().https.unwrap()] {
        // More than there are slots for handshakes, and more coming all the time.
        let mut silent = Vec::new();
        for _ in 0..600 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let renewing = tokio::spawn(async move {
            loop {
                for place in &mut silent {
                    *place = TcpStream::connect(address).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        let asked = std::time::Instant::now();
        for _ in 0..5 {
            drop(node.dial_as(PrincipalKind::User { name: "ada".into() }).await);
            assert_alive(&node).await;
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
        assert!(!renewing.is_finished(), "the attack went on all the time");
        renewing.abort();
    }
    node.running.shutdown().await;
}
