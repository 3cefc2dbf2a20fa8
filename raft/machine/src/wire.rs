//! Parts of a command as they lie in the log, so that what was encoded once is not encoded again to be hashed or stored.
//!
//! Every node encodes commands in one way, fields in the order of their tags and defaults left out: these bytes are what encoding the
//! decoded command again would give.

use prost::encoding::{WireType, decode_key, decode_varint};

/// The fields of a message that has been decoded already.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    /// A field's tag, and what it holds, if it can hold a message.
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let (tag, kind) = decode_key(&mut self.0).ok()?;
        let len = match kind {
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut self.0).ok()?).ok()?,
            WireType::Varint => decode_varint(&mut self.0).map(|_| 0).ok()?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let (content, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }
}

fn repeated(message: &[u8], tag: u32) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter(move |(found, _)| *found == tag).map(|(_, content)| content)
}

/// The commands of an entry.
pub fn commands_of_entry(entry: &[u8]) -> impl Iterator<Item = &[u8]> {
    repeated(entry, 3)
}

/// The body of a command, as the field that it is: it comes after the principal and what the gate says.
pub fn body(command: &[u8]) -> &[u8] {
    let mut fields = Fields(command);
    let mut start = command;
    while let Some((1 | 2, _)) = fields.next() {
        start = fields.0;
    }
    start
}

/// The commands of a batch, which is a command's body.
pub fn commands_of_batch(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    repeated(content(body), 2)
}

/// The specifications of an enqueue, which is a command's body.
pub fn specifications(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    repeated(content(body), 3)
}

fn content(field: &[u8]) -> &[u8] {
    Fields(field).next().map_or(&[], |(_, content)| content)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tarn_proto::v1::{Command, CommandBatch, EnqueueRequest, Entry, GateFacts, TaskSpec, command};

    use super::*;

    #[test]
    fn parts_lie_in_an_entry_as_encoding_them_gives_them() {
        let specs = ["a", "b"].map(|queue| TaskSpec { queue: queue.repeat(99), payload: vec![7; 300].into(), ..TaskSpec::default() });
        let enqueue = EnqueueRequest { request_id: "r".into(), namespace: "n".into(), tasks: specs.to_vec() };
        let alone = command::Body::Enqueue(enqueue.clone());
        let member =
            Command { body: Some(command::Body::Enqueue(EnqueueRequest { request_id: String::new(), ..enqueue })), ..Command::default() };
        let batch = command::Body::Batch(CommandBatch { request_id: "b".into(), commands: vec![member.clone(); 3] });
        let gate = Some(Box::new(GateFacts { facts: "{}".into(), ..GateFacts::default() }));
        let commands = vec![
            Command { principal: "user/ada".into(), gate, body: Some(alone.clone()) },
            Command { body: Some(batch.clone()), ..Command::default() },
        ];
        let entry = Entry { version: 6, now_ms: 1 << 40, commands: commands.clone() }.encode_to_vec();

        let raw: Vec<&[u8]> = commands_of_entry(&entry).collect();
        assert_eq!(raw, commands.iter().map(Message::encode_to_vec).collect::<Vec<_>>());
        for (raw, expected) in raw.iter().zip([&alone, &batch]) {
            let mut bytes = Vec::new();
            expected.encode(&mut bytes);
            assert_eq!(body(raw), bytes);
        }
        assert!(specifications(body(raw[0])).eq(specs.iter().map(Message::encode_to_vec)));
        let members: Vec<&[u8]> = commands_of_batch(body(raw[1])).collect();
        assert_eq!(members, vec![member.encode_to_vec(); 3]);
        assert!(specifications(body(members[2])).eq(specs.iter().map(Message::encode_to_vec)));
    }

    #[test]
    fn what_is_no_message_has_no_parts() {
        for bytes in [&[][..], &[0x1a], &[0x1a, 0x7f, 1], &[0xff; 12], &[0x1b], &[0x08]] {
            assert_eq!((commands_of_entry(bytes).count(), specifications(bytes).count()), (0, 0), "{bytes:?}");
            assert!(body(bytes).len() <= bytes.len());
        }
    }
}
