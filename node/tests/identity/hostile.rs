//! Peers that do not even try to be members.

use std::time::Duration;

use tarn_client::tls::{Expect, RefusalKind, client_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::*;

#[tokio::test]
async fn noise_is_refused() {
    let mut server = TestServer::start(Setup::default()).await;
    let mut huge_record = vec![0x16, 0x03, 0x01, 0xff, 0xff];
    huge_record.resize(1 << 20, b'x');
    let noises = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0; 1 << 20],
        vec![0xff; 1 << 20],
        huge_record,
        // A handshake message that announces 16 MB.
        [&[0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0xff, 0xff, 0xff][..], &[0; 0x4000]].concat(),
    ];
    for noise in noises {
        let mut tcp = server.tcp().await;
        // The server may hang up while this is still talking.
        tcp.write_all(&noise).await.ok();
        server.expect_refusal(RefusalKind::NotTls).await;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.ok();
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn old_tls_is_refused() {
    let mut server = TestServer::start(Setup::default()).await;
    let mut tcp = server.tcp().await;
    tcp.write_all(&tls_1_2_hello()).await.unwrap();
    server.expect_refusal(RefusalKind::OldTls).await;
    server.assert_alive().await;
}

/// A well-formed hello of a client that stopped at TLS 1.2.
fn tls_1_2_hello() -> Vec<u8> {
    let extensions = [
        // supported_groups: x25519
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x1d][..],
        // signature_algorithms: ecdsa_secp256r1_sha256
        &[0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03],
        // ec_point_formats: uncompressed
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],
    ]
    .concat();
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    // No session id; one cipher suite; no compression.
    body.extend([0x00, 0x00, 0x02, 0xc0, 0x2f, 0x01, 0x00]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![0x16, 0x03, 0x01];
    hello.extend((body.len() as u16 + 4).to_be_bytes());
    hello.extend([0x01, 0x00]);
    hello.extend((body.len() as u16).to_be_bytes());
    hello.extend(body);
    hello
}

#[tokio::test]
async fn the_silent_and_the_slow_are_dropped() {
    let mut server = TestServer::start(Setup { handshake_timeout: Duration::from_millis(200), ..Setup::default() }).await;
    let mut silent = server.tcp().await;
    server.expect_refusal(RefusalKind::TimedOut).await;
    let mut buffer = [0; 1];
    assert_eq!(silent.read(&mut buffer).await.unwrap(), 0, "the server hangs up");

    // One that begins well and stops in the middle.
    let mut slow = server.tcp().await;
    slow.write_all(&tls_1_2_hello()[..20]).await.unwrap();
    server.expect_refusal(RefusalKind::TimedOut).await;
}

#[tokio::test]
async fn port_checks_are_counted_but_not_warned_about() {
    let mut server = TestServer::start(Setup::default()).await;
    drop(server.tcp().await);
    server.expect_refusal(RefusalKind::Closed).await;
    assert!(!server.logs.text().contains("WARN"), "{}", server.logs.text());
    server.assert_alive().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let server = TestServer::start(Setup { connections_max: 1, ..Setup::default() }).await;
    let config = client_config(&server.issue(&user("ada")), Expect::AnyNode);
    let first = server.channel(config.clone()).await.unwrap();
    check(&first).await.unwrap();
    server.logs.assert_line(&["WARN", "all connections are taken"]);

    let address = server.dial_address();
    let second = tokio::spawn(async move {
        let channel = tarn_client::tls::connect(&address, config, &Default::default()).await.unwrap();
        check(&channel).await.unwrap();
    });
    for _ in 0..3 {
        check(&first).await.unwrap();
    }
    assert!(!second.is_finished());
    drop(first);
    tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_closes_the_port_and_gives_up_handshakes() {
    let server = TestServer::start(Setup::default()).await;
    let mut unfinished = server.tcp().await;
    server.assert_alive().await;
    let address = server.shut_down().await;

    let mut buffer = [0; 1];
    let end = tokio::time::timeout(PATIENCE, unfinished.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    // The port is free again.
    let rebound = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(_) => break,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, rebound).await.unwrap();
}
