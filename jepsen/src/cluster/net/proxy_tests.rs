use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{Harm, Slowness};
use super::*;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Long enough for loopback to deliver what nothing holds up, on a machine that is not stopped altogether.
const SHORT: Duration = Duration::from_millis(150);

/// Node 1 dials from 127.0.0.11, node 2 is behind the front.
struct Scene {
    proxy: Proxy,
    node: tokio::net::TcpListener,
    front: SocketAddr,
}

impl Scene {
    async fn new() -> Self {
        let proxy = Proxy::start(None, 1).unwrap();
        let node = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = node.local_addr().unwrap();
        let meant: IpAddr = "127.0.0.22".parse().unwrap();
        proxy.name("127.0.0.11".parse().unwrap(), 1);
        proxy.name(meant, 2);
        let front = proxy.listen("127.0.0.1:0".parse().unwrap(), Arc::new(move |_: &_| Some(Way { meant, target }))).unwrap();
        Self { proxy, node, front }
    }

    fn harm(&self, links: &[(u64, u64)], harm: Harm) {
        self.proxy.set(&links.iter().map(|link| (*link, harm)).collect());
    }

    async fn dial(&self, from: &str) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        socket.connect(self.front).await.unwrap()
    }

    /// A connection from node 1 to node 2: both its ends.
    async fn connected(&self) -> (TcpStream, TcpStream) {
        let one = self.dial("127.0.0.11").await;
        let two = tokio::time::timeout(LONG, self.node.accept()).await.unwrap().unwrap().0;
        (one, two)
    }
}

const CUT: Harm = Harm { cut: true, slow: None };

fn slow(slowness: Slowness) -> Harm {
    Harm { cut: false, slow: Some(slowness) }
}

async fn says(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
    from.write_all(text.as_bytes()).await.unwrap();
    hears(to, text).await;
}

async fn hears(to: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    tokio::time::timeout(LONG, to.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, text.as_bytes());
}

async fn is_silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let heard = tokio::time::timeout(SHORT, stream.read(&mut byte)).await;
    assert!(heard.is_err(), "something crossed a link that is cut: {heard:?}");
}

#[tokio::test]
async fn a_whole_link_carries_both_ways_to_the_end() {
    let scene = Scene::new().await;
    let (mut one, mut two) = scene.connected().await;
    says(&mut one, &mut two, "hello").await;
    says(&mut two, &mut one, "good day").await;
    drop(one);
    assert_eq!(two.read(&mut [0]).await.unwrap(), 0, "the end is carried too");
}

#[tokio::test]
async fn a_link_that_is_cut_one_way_holds_what_goes_that_way_until_it_is_whole() {
    let scene = Scene::new().await;
    let (mut one, mut two) = scene.connected().await;
    scene.harm(&[(1, 2)], CUT);
    one.write_all(b"held").await.unwrap();
    says(&mut two, &mut one, "still here").await;
    is_silent(&mut two).await;
    scene.harm(&[], CUT);
    hears(&mut two, "held").await;
}

#[tokio::test]
async fn nobody_connects_over_a_cut_link_and_clients_still_do() {
    let scene = Scene::new().await;
    scene.harm(&[(2, 1)], CUT);
    let mut one = scene.dial("127.0.0.11").await;
    one.write_all(b"late").await.unwrap();
    assert!(tokio::time::timeout(SHORT, scene.node.accept()).await.is_err());
    let _client = scene.dial("127.0.0.1").await;
    tokio::time::timeout(LONG, scene.node.accept()).await.unwrap().unwrap();
    scene.harm(&[], CUT);
    let mut two = tokio::time::timeout(LONG, scene.node.accept()).await.unwrap().unwrap().0;
    hears(&mut two, "late").await;
}

#[tokio::test]
async fn answers_to_clients_are_held_alone_while_nodes_hear_each_other() {
    let scene = Scene::new().await;
    let mut client = scene.dial("127.0.0.1").await;
    let mut node = tokio::time::timeout(LONG, scene.node.accept()).await.unwrap().unwrap().0;
    says(&mut client, &mut node, "hello").await;
    scene.harm(&[(2, OUTSIDE)], CUT);
    says(&mut client, &mut node, "still heard").await;
    node.write_all(b"held").await.unwrap();
    is_silent(&mut client).await;
    let (mut one, mut two) = scene.connected().await;
    says(&mut two, &mut one, "among nodes").await;
    scene.harm(&[], CUT);
    hears(&mut client, "held").await;
}

#[tokio::test]
async fn the_end_of_a_process_does_not_cross_a_cut_link() {
    let scene = Scene::new().await;
    let (one, mut two) = scene.connected().await;
    scene.harm(&[(1, 2), (2, 1)], CUT);
    drop(one);
    is_silent(&mut two).await;
    scene.harm(&[], CUT);
    assert_eq!(tokio::time::timeout(LONG, two.read(&mut [0])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_slow_link_is_late_in_its_direction_alone() {
    let scene = Scene::new().await;
    let (mut one, mut two) = scene.connected().await;
    let delay = Duration::from_millis(300);
    scene.harm(&[(1, 2)], slow(Slowness::late(delay, Duration::ZERO)));
    let sent = Instant::now();
    says(&mut one, &mut two, "late").await;
    assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
    // Two pieces behind each other share the delay.
    let sent = Instant::now();
    one.write_all(b"a").await.unwrap();
    one.write_all(b"b").await.unwrap();
    hears(&mut two, "ab").await;
    assert!(sent.elapsed() < 2 * delay, "{:?}", sent.elapsed());
    let sent = Instant::now();
    says(&mut two, &mut one, "soon").await;
    assert!(sent.elapsed() < delay, "{:?}", sent.elapsed());
}

#[tokio::test]
async fn a_link_that_resets_breaks_the_connection_at_both_ends() {
    let scene = Scene::new().await;
    let (mut one, mut two) = scene.connected().await;
    let breaking = Slowness { reset: 1.0, ..Slowness::late(Duration::ZERO, Duration::ZERO) };
    scene.harm(&[(1, 2)], slow(breaking));
    one.write_all(b"never").await.unwrap();
    for stream in [&mut one, &mut two] {
        let error = tokio::time::timeout(LONG, stream.read(&mut [0])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_node_that_does_not_listen_refuses_through_the_proxy() {
    let proxy = Proxy::start(None, 1).unwrap();
    // Bound, so that nobody else listens there, and not listening.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = silent.local_addr().unwrap();
    let way = Way { meant: target.ip(), target };
    let front = proxy.listen("127.0.0.1:0".parse().unwrap(), Arc::new(move |_: &_| Some(way))).unwrap();
    // The kernel accepts for the proxy; the reset comes at once after, perhaps before the connect has returned.
    let refused = async { TcpStream::connect(front).await?.read(&mut [0]).await };
    let error = tokio::time::timeout(LONG, refused).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
