//! Noise, damaged entries, and fields that this build does not know.

use prost::Message;
use tarn_proto::v1::*;

use crate::dice::Dice;
use crate::valid::{commands, entry, every_body, populated};

#[test]
fn noise_is_refused_and_changes_nothing() {
    let (mut target, ..) = populated();
    let mut dice = Dice::new(1);
    let mut applied = 0;
    for _ in 0..30_000 {
        let length = dice.below(80);
        let mut bytes: Vec<u8> = (0..length).map(|_| dice.next() as u8).collect();
        if dice.chance(50) {
            // The beginning of an entry of version 1, so that not all is lost at the first byte.
            bytes.splice(0..0, [0x08, 0x01]);
        }
        applied += u32::from(target.throw(&bytes).is_some());
    }
    println!("{applied} of 30,000 were entries after all");
    target.check();
}

#[test]
fn damaged_entries_never_do_more_than_entries_may() {
    let (mut target, worker, task) = populated();
    let bodies = every_body(&worker, &task);
    let mut dice = Dice::new(2);
    let (mut applied, mut refused) = (0, 0);
    for round in 0..20_000 {
        let count = dice.between(1, 3);
        let some: Vec<command::Body> = (0..count).map(|_| dice.pick(&bodies)).collect();
        let mut bytes = entry(&some);
        for _ in 0..dice.between(1, 3) {
            damage(&mut dice, &mut bytes);
        }
        match target.throw(&bytes) {
            Some(_) => applied += 1,
            None => refused += 1,
        }
        if round % 5_000 == 0 {
            target.check();
        }
    }
    assert!(applied > 1_000 && refused > 1_000, "both happen: {applied} applied, {refused} refused");
    target.check();
}

fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let place = dice.below(bytes.len() as u64 + 1) as usize;
    match dice.below(6) {
        0 if place < bytes.len() => bytes[place] ^= 1 << dice.below(8),
        1 if place < bytes.len() => bytes[place] = dice.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        2 => bytes.insert(place, dice.next() as u8),
        3 if place < bytes.len() => drop(bytes.remove(place)),
        4 => bytes.truncate(place),
        _ => {
            // A piece said twice.
            let end = (place + dice.between(1, 12) as usize).min(bytes.len());
            let piece = bytes[place.min(end)..end].to_vec();
            bytes.splice(place..place, piece);
        }
    }
}

#[test]
fn a_field_from_the_future_stops_the_machine_wherever_it_stands() {
    let (mut target, worker, task) = populated();
    // Field 99, the number 1; and field 98, a text.
    for unknown in [&[0x98, 0x06, 0x01][..], &[0x92, 0x06, 0x02, b'h', b'i'][..]] {
        let plain = entry(&[]);
        assert!(target.throw(&[&plain[..], unknown].concat()).is_none(), "in the entry");
        for body in every_body(&worker, &task) {
            let bytes = Command { principal: "p".to_owned(), gate: None, body: Some(body.clone()) }.encode_to_vec();
            let in_command = [&plain[..], &field(3, &[&bytes[..], unknown].concat())].concat();
            assert!(target.throw(&in_command).is_none(), "in the command around {}", body.name());
            let number = commands().into_iter().find(|field| field.name() == snake(body.name())).expect("it is one").number();
            let mut alone = Vec::new();
            body.encode(&mut alone);
            // What is encoded is the field in the command; its content begins after key and length.
            let content = strip(&alone);
            let in_body = [&plain[..], &field(3, &field(number, &[content, unknown].concat()))].concat();
            assert!(target.throw(&in_body).is_none(), "in {}", body.name());
            let twice = [&plain[..], &field(3, &[field(number, content), field(number, content)].concat())].concat();
            assert!(target.throw(&twice).is_none() || content.is_empty(), "{} said twice in one command", body.name());
        }
        let spec = TaskSpec { queue: "q".to_owned(), ..TaskSpec::default() }.encode_to_vec();
        let in_spec = field(3, &field(10, &[field(2, b"default"), field(3, &[&spec[..], unknown].concat())].concat()));
        assert!(target.throw(&[&plain[..], &in_spec].concat()).is_none(), "in a task");
    }
    // The same built by hand without anything unknown is fine: it is the field that stops it.
    let spec = TaskSpec { queue: "q".to_owned(), ..TaskSpec::default() }.encode_to_vec();
    let fine = field(3, &field(10, &[field(2, b"default"), field(3, &spec)].concat()));
    let applied = target.throw(&[entry(&[]), fine].concat()).expect("nothing in it is unknown");
    assert!(matches!(applied.outcomes[0].body, Some(outcome::Body::Enqueue(_))), "{applied:?}");
    target.check();
}

/// A field with a length, as protobuf writes it.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// The content of a field with a length.
fn strip(mut bytes: &[u8]) -> &[u8] {
    prost::encoding::decode_varint(&mut bytes).expect("a key");
    prost::encoding::decode_varint(&mut bytes).expect("a length");
    bytes
}

fn snake(camel: &str) -> String {
    let mut out = String::new();
    for c in camel.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
