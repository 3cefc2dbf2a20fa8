//! The network, which is not there unless it was granted.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use tarn_executor::Attempt;

use crate::{Bench, c};

/// Connects to 127.0.0.1 on the port in its first argument and prints what it reads.
const CLIENT: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) { perror("socket"); return 2; }
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) { perror("connect"); return 3; }
    char buffer[64];
    ssize_t got = read(fd, buffer, sizeof buffer);
    return got > 0 && write(1, buffer, got) == got ? 0 : 4;
}
"#;

fn client(port: u16, network: bool) -> Attempt {
    let mut attempt = c(CLIENT);
    if let tarn_executor::Kind::Command(command) = &mut attempt.kind {
        command.args = vec![port.to_string()];
    }
    attempt.grants.network = network;
    attempt
}

#[tokio::test]
async fn without_a_grant_there_is_none() {
    let Some(bench) = Bench::new().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let failure = bench.run(client(port, false)).await.unwrap_err();
    // Its 127.0.0.1 is its own, where nobody listens.
    assert_eq!(failure.error, tarn_executor::ExecutionError::ExitNonzero { status: 3 });
    assert_eq!(failure.logs, "connect: Connection refused\n");
    let seen = bench.prints("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '; ls /etc").await;
    assert!(!seen.contains("eth") && !seen.contains("resolv.conf"), "{seen}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody came");
}

#[tokio::test]
async fn with_a_grant_it_is_the_machine_s() {
    let Some(bench) = Bench::new().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"welcome").unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = socket.read(&mut [0; 1]);
    });
    let report = bench.run(client(port, true)).await.unwrap();
    assert_eq!(report.output, "welcome");
    serving.join().unwrap();
}
