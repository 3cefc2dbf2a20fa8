use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Stream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::super::{Net, OUTSIDE, Slowness};
use super::*;
use crate::cluster::Network;

const LONG: Duration = Duration::from_secs(20);
/// Long enough for a veth to deliver what nothing holds up.
const SHORT: Duration = Duration::from_millis(300);

/// Runs this in a namespace, on a thread that ends there.
fn inside<T: Send>(place: &Place, work: impl FnOnce() -> T + Send) -> T {
    let path = Path::new(NAMESPACES).join(place.namespace.as_ref().expect("a namespace"));
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A network of two places that are nodes 1 and 2, and a connection from 1 to 2. `None`: not on this machine.
fn two_nodes() -> Option<(Net, [Place; 2])> {
    if let Err(reason) = available() {
        println!("skipped: {reason}");
        return None;
    }
    let net = Net::create(Network::Namespaces, 1).unwrap();
    let places = [1, 2].map(|id| {
        let place = net.place().unwrap();
        net.name(&place, id);
        place
    });
    Some((net, places))
}

fn connection(places: &[Place; 2]) -> (Stream, Stream) {
    let [one, two] = places;
    let listener = inside(two, || TcpListener::bind(two.bind).unwrap());
    let dialled = inside(one, || Stream::connect_timeout(&two.advertise, LONG).unwrap());
    let accepted = listener.accept().unwrap().0;
    for stream in [&dialled, &accepted] {
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (dialled, accepted)
}

fn says(from: &mut Stream, to: &mut Stream) {
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).unwrap();
}

/// Why nothing is heard. A signal for another test of this process is no reason.
fn failure(stream: &mut Stream) -> std::io::ErrorKind {
    loop {
        match stream.read(&mut [0]).unwrap_err().kind() {
            std::io::ErrorKind::Interrupted => {}
            kind => return kind,
        }
    }
}

fn is_silent(stream: &mut Stream) {
    stream.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(failure(stream), std::io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(LONG)).unwrap();
}

#[test]
fn packets_are_dropped_each_way_alone() {
    let Some((net, places)) = two_nodes() else { return };
    let (mut one, mut two) = connection(&places);
    says(&mut one, &mut two);
    net.cut(&[(1, 2)]).unwrap();
    one.write_all(b"x").unwrap();
    is_silent(&mut two);
    net.heal().unwrap();
    two.read_exact(&mut [0]).unwrap();
    net.cut(&[(2, 1)]).unwrap();
    two.write_all(b"x").unwrap();
    is_silent(&mut one);
    net.heal().unwrap();
    one.read_exact(&mut [0]).unwrap();
    says(&mut two, &mut one);
}

#[test]
fn the_harness_reaches_a_node_that_no_node_reaches() {
    let Some((net, places)) = two_nodes() else { return };
    net.part(&[1], &[2]).unwrap();
    let [one, two] = &places;
    let listener = inside(two, || TcpListener::bind(two.bind).unwrap());
    assert!(inside(one, || Stream::connect_timeout(&two.advertise, SHORT)).is_err());
    let mut harness = Stream::connect_timeout(&two.advertise, LONG).unwrap();
    let (mut node, _) = listener.accept().unwrap();
    says(&mut harness, &mut node);
    says(&mut node, &mut harness);
}

#[test]
fn clients_are_cut_off_each_way_alone_and_slowed_while_nodes_reach_each_other() {
    let Some((net, places)) = two_nodes() else { return };
    let [one, two] = &places;
    let listener = inside(two, || TcpListener::bind(two.bind).unwrap());
    let meet = |mut harness: Stream| {
        let mut node = listener.accept().unwrap().0;
        for stream in [&harness, &node] {
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        says(&mut harness, &mut node);
        says(&mut node, &mut harness);
        (harness, node)
    };
    let dial = || Stream::connect_timeout(&two.advertise, LONG).unwrap();
    let (mut harness, mut node) = meet(dial());
    net.cut(&[(OUTSIDE, 2)]).unwrap();
    harness.write_all(b"x").unwrap();
    is_silent(&mut node);
    meet(inside(one, dial));
    net.heal().unwrap();
    node.read_exact(&mut [0]).unwrap();
    net.cut(&[(2, OUTSIDE)]).unwrap();
    node.write_all(b"x").unwrap();
    is_silent(&mut harness);
    net.heal().unwrap();
    harness.read_exact(&mut [0]).unwrap();

    let delay = Duration::from_millis(300);
    net.slow(&[(2, OUTSIDE)], Slowness::late(delay, Duration::ZERO)).unwrap();
    drop((harness, node));
    let start = Instant::now();
    meet(dial());
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
}

#[test]
fn a_slow_link_breaks_what_was_fast_and_delays_what_comes() {
    let Some((net, places)) = two_nodes() else { return };
    let (mut one, two) = connection(&places);
    let delay = Duration::from_millis(300);
    net.slow(&[(2, 1)], Slowness::late(delay, Duration::ZERO)).unwrap();
    one.write_all(b"x").unwrap();
    assert_eq!(failure(&mut one), std::io::ErrorKind::ConnectionReset);
    drop(two);

    let (mut one, mut two) = connection(&places);
    let start = Instant::now();
    says(&mut one, &mut two);
    assert!(start.elapsed() < delay, "{:?}", start.elapsed());
    let start = Instant::now();
    says(&mut two, &mut one);
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
    // A cut holds for what goes through the proxy too.
    net.cut(&[(1, 2)]).unwrap();
    one.write_all(b"x").unwrap();
    is_silent(&mut two);
    net.heal().unwrap();
    two.read_exact(&mut [0]).unwrap();
}

#[test]
fn nothing_is_left_behind_not_even_by_a_harness_that_was_killed() {
    let Some((net, places)) = two_nodes() else { return };
    let name = places[0].namespace.clone().unwrap();
    let prefix = name.rsplit_once('-').unwrap().0.to_owned();
    assert!(existing().contains(&name));
    drop(net);
    assert!(existing().iter().all(|name| !name.starts_with(&format!("{prefix}-"))));

    // No process has the highest id that the kernel can give, plus one.
    let stale = "tarn-4194305-0-hub";
    run(&format!("ip netns add {stale}")).unwrap();
    sweep();
    assert!(!existing().contains(&stale.to_owned()));
}

#[test]
fn a_network_that_the_machine_knows_is_not_taken() {
    let word = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
    let taken = [(word("10.201.0.0"), word("255.255.0.0")), (word("10.200.7.128"), word("255.255.255.128"))];
    assert!(overlaps([10, 201, 9], &taken));
    assert!(overlaps([10, 200, 7], &taken));
    assert!(!overlaps([10, 200, 8], &taken));
}
