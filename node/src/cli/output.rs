//! What a command prints: data on standard output in the format that the user chose, everything else on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::exit::Failure;
use crate::printable;

/// The formats of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document: a list where the command lists.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// Nothing; only the exit code.
    None,
}

static DESCRIPTORS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(tarn_proto::DESCRIPTORS).expect("the contract was compiled with this binary"));

/// A message of the contract in protobuf's JSON form, with the fields named as in the `.proto` files and none left out. 64-bit numbers are
/// strings and bytes are base64, as that form demands.
pub fn to_json<M: Message + Name>(message: &M) -> serde_json::Value {
    let descriptor = DESCRIPTORS.get_message_by_name(&M::full_name()).expect("every message is in the contract's descriptors");
    let dynamic =
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).expect("a message decodes with its own descriptor");
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).expect("a decoded message has a JSON form")
}

/// Prints in the chosen format.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    format: Format,
}

impl Printer {
    /// A printer for this format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format.
    pub fn format(self) -> Format {
        self.format
    }

    /// Prints one message: its JSON form, or the text.
    pub fn message<M: Message + Name>(self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.text(&text(message)),
            Format::Json => self.line(&format!("{:#}", to_json(message))),
            Format::Jsonl => self.line(&to_json(message).to_string()),
            Format::None => Ok(()),
        }
    }

    /// Prints one JSON value of the command's own, or the text.
    pub fn value(self, value: &serde_json::Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.text(&text()),
            Format::Json => self.line(&format!("{value:#}")),
            Format::Jsonl => self.line(&value.to_string()),
            Format::None => Ok(()),
        }
    }

    /// Prints a list of messages: a table, a JSON list, or a JSON line for each.
    pub fn list<M: Message + Name>(self, messages: &[M], head: &[&str], row: impl Fn(&M) -> Vec<String>) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.text(&table(head, messages.iter().map(row))),
            Format::Json => self.line(&format!("{:#}", serde_json::Value::from(messages.iter().map(to_json).collect::<Vec<_>>()))),
            Format::Jsonl => messages.iter().try_for_each(|message| self.line(&to_json(message).to_string())),
            Format::None => Ok(()),
        }
    }

    /// Prints one of a stream of messages as soon as it comes: a line of text or of JSON.
    pub fn item<M: Message + Name>(self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.text(&text(message)),
            Format::Json | Format::Jsonl => self.line(&to_json(message).to_string()),
            Format::None => Ok(()),
        }
    }

    /// Writes raw bytes, such as a result, to standard output.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        write_out(bytes)
    }

    /// Writes a result as it is; on a terminal a line end follows, so that the prompt does not stick to it.
    pub fn result(self, bytes: &[u8]) -> Result<(), Failure> {
        write_out(bytes)?;
        match io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
            true => write_out(b"\n"),
            false => Ok(()),
        }
    }

    /// Says something to a person, on standard error; silent unless the format is text.
    pub fn note(self, text: &str) {
        if self.format == Format::Text {
            eprintln!("{}", printable::lines(text));
        }
    }

    /// Text for people: whoever wrote what is in it has no say over their terminal.
    fn text(self, text: &str) -> Result<(), Failure> {
        self.line(&printable::lines(text))
    }

    fn line(self, text: &str) -> Result<(), Failure> {
        write_out(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
    }
}

/// Writes to standard output. A reader that went away, such as `head`, ends the program quietly, as is the habit of commands in a pipe.
fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Failure::from),
    }
}

/// Longest cell but a line's last: one long name must not push all other columns out of sight. JSON has it whole.
const CELL_CHARS_MAX: usize = 80;

/// What a cell of a table shows of a text.
fn cell(text: &str, is_last: bool) -> String {
    let text = printable::line(text);
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some(_) if !is_last => text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect(),
        _ => text.into_owned(),
    }
}

/// A table with aligned columns.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|title| title.to_uppercase()).collect()];
    let last = head.len().saturating_sub(1);
    lines.extend(rows.map(|row| {
        let cells = row.iter().enumerate();
        cells.map(|(column, text)| cell(text, column == last)).collect()
    }));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A point in time, given as milliseconds of the Unix epoch, as people read it; `-` for zero.
pub fn time(at_ms: u64) -> String {
    let Some(time) = i64::try_from(at_ms).ok().filter(|ms| *ms > 0) else {
        return "-".into();
    };
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time) * 1_000_000)
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| at_ms.to_string())
}

/// A length of time in milliseconds, as people read it.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..172_800_000 => format!("{}h{:02}m", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{}d{:02}h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tarn_proto::v1::{QueueStats, Task};

    #[test]
    fn json_names_every_field_as_the_contract_does() {
        let json = to_json(&Task { task_id: "x".into(), token: u64::MAX, result: vec![1, 2].into(), ..Default::default() });
        assert_eq!(json["task_id"], "x");
        assert_eq!(json["token"], "18446744073709551615");
        assert_eq!(json["result"], "AQI=");
        assert_eq!(json["state"], "TASK_STATE_UNSPECIFIED");
        assert_eq!(to_json(&QueueStats::default())["ready"], "0");
    }

    #[test]
    fn tables_align_and_times_read_well() {
        let text = table(&["name", "n"], [vec!["long name".into(), "1".into()], vec!["x".into(), "22".into()]].into_iter());
        assert_eq!(text, "NAME       N\nlong name  1\nx          22\n");
        let hostile = vec!["x\u{1b}[31m\n".into(), "long ".repeat(40)];
        let text = table(&["name", "n"], [hostile].into_iter());
        assert!(text.ends_with(&format!("x\\u{{1b}}[31m\\n  {}\n", "long ".repeat(40).trim_end())), "{text}");
        let text = table(&["name", "n"], [vec!["é".repeat(81), "1".into()]].into_iter());
        assert!(text.ends_with(&format!("{}…  1\n", "é".repeat(79))), "{text}");
        assert_eq!(time(0), "-");
        assert_eq!(time(1_763_700_000_123), "2025-11-21T04:40:00.123Z");
        assert_eq!(time(u64::MAX), "-");
        assert_eq!(duration(1_500), "1.5s");
        assert_eq!(duration(90_000), "1m30s");
        assert_eq!(duration(90_000_000), "25h00m");
        assert_eq!(duration(180_000_000), "2d02h");
    }
}
