//! One attempt in a machine: hands the job in, serves the guest's host calls, and says how it ended.
//!
//! Every number that comes from the guest is treated as an attacker's: it is copied out of the guest's memory before it is
//! looked at, and checked against a constant of the [`abi`](super::abi) before it is used as a length.

use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};

use super::abi::{
    CODE_BASE, INPUT_BASE, INPUT_BYTES, JOB_BASE, OUTPUT_BASE, OUTPUT_BYTES, RECORD_HEADER_BYTES, call, exit, kind, mailbox, stream,
};
use super::job::{Job, Start};
use super::leash::{Leash, Stop};
use super::machine::Machine;
use super::vcpu::Exit;
use crate::executor::Ended;
use crate::output::Bounded;
use crate::value::format_results;
use crate::{ExecutionError, Limits, Usage, Value};

/// How much of the guest's explanation of a failure is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 400;

/// The most elements that each of a guest's tables may have, as for the `wasm` runtime.
const TABLE_ELEMENTS_MAX: u64 = crate::TABLE_ELEMENTS_MAX as u64;

/// Runs `job` in a machine that is initialised. Says how it ended, and whether the guest left by its own call, so that the machine can be
/// reset. Otherwise it should be thrown away.
pub(super) fn run(machine: &mut Machine, job: &Job, leash: &Leash) -> (Ended, bool) {
    let began = Instant::now();
    let mut session = Session {
        streams: Streams::new(&job.limits, matches!(job.start, Start::Export { .. })),
        machine,
        job,
        leash,
        input: job.input(),
        began,
    };
    let (result, orderly) = match session.drive() {
        Ok(()) => (session.conclude(), true),
        Err(error) => {
            // What was not yet handed over when the guest was stopped is there nevertheless.
            let _ = session.take_output();
            (Err(error), false)
        }
    };
    let limits = &job.limits;
    let usage = Usage {
        waited: Duration::ZERO,
        ran: began.elapsed(),
        memory_bytes_peak: session.machine.get(mailbox::MEMORY_PEAK).min(limits.memory_bytes),
        fuel: limits.fuel.map(|fuel| session.machine.get(mailbox::FUEL_USED).min(fuel)),
    };
    (Ended { result, logs: session.streams.logs.logs(), usage }, orderly)
}

fn not_granted(capability: &'static str, call: &str) -> ExecutionError {
    ExecutionError::CapabilityNotGranted { capability, call: call.to_owned(), advice: format!("add `{capability}` to the task's grants") }
}

struct Session<'a> {
    machine: &'a mut Machine,
    job: &'a Job,
    leash: &'a Leash,
    streams: Streams,
    /// What of standard input was not yet handed in.
    input: Bytes,
    began: Instant,
}

impl Session<'_> {
    /// Runs the guest until it says that it is done.
    fn drive(&mut self) -> Result<(), ExecutionError> {
        self.hand_in()?;
        loop {
            match self.machine.run(self.leash).map_err(ExecutionError::broken)? {
                Exit::Called(call::EXIT) => return self.take_output(),
                Exit::Called(number) => self.serve(number)?,
                Exit::Fault(detail) => return Err(ExecutionError::MicroVmFault { detail }),
                Exit::Stopped(Stop::Cancelled) => return Err(ExecutionError::Cancelled),
                Exit::Stopped(Stop::TimeOver) => {
                    return Err(ExecutionError::TimeLimit { limit_ms: self.job.limits.time_ms });
                }
            }
        }
    }

    fn hand_in(&mut self) -> Result<(), ExecutionError> {
        let (job, machine) = (self.job, &mut *self.machine);
        machine.limit_memory(job.limits.memory_bytes).map_err(ExecutionError::broken)?;
        machine.lend(CODE_BASE, &job.module.code);
        machine.set(mailbox::CODE_LENGTH, job.module.code.len() as u64);
        machine.set(mailbox::MEMORY_LIMIT, job.limits.memory_bytes);
        machine.set(mailbox::TABLE_LIMIT, TABLE_ELEMENTS_MAX);
        machine.set(mailbox::FUEL, job.limits.fuel.unwrap_or(0));
        let encoded = job.encode();
        machine.lend(JOB_BASE, &encoded.bytes);
        machine.set(mailbox::KIND, if job.is_command() { kind::COMMAND } else { kind::EXPORT });
        machine.set(mailbox::ARGS_COUNT, encoded.args_count);
        machine.set(mailbox::ARGS_LENGTH, encoded.args_length);
        machine.set(mailbox::ENV_COUNT, encoded.env_count);
        machine.set(mailbox::ENV_LENGTH, encoded.env_length);
        machine.set(mailbox::NAME_LENGTH, encoded.name_length);
        self.hand_in_input();
        Ok(())
    }

    fn serve(&mut self, number: u32) -> Result<(), ExecutionError> {
        match number {
            call::FLUSH => self.take_output()?,
            call::INPUT => self.hand_in_input(),
            call::CLOCK if !self.job.clock => return Err(not_granted("clock", "clock_time_get")),
            call::SLEEP if !self.job.clock => return Err(not_granted("clock", "poll_oneoff")),
            call::RANDOM if !self.job.random => return Err(not_granted("random", "random_get")),
            call::CLOCK => self.hand_in_time(),
            call::RANDOM => self.hand_in_random()?,
            call::SLEEP => self.leash.sleep(Duration::from_nanos(self.machine.get(mailbox::ARGUMENT))),
            other => return Err(fault(format!("it made the unknown host call {other}"))),
        }
        Ok(())
    }

    /// Takes the records that the guest has collected.
    fn take_output(&mut self) -> Result<(), ExecutionError> {
        let used = self.machine.get(mailbox::OUTPUT_USED);
        if used > OUTPUT_BYTES {
            return Err(fault(format!("it claims {used} bytes of output in a region of {OUTPUT_BYTES}")));
        }
        self.machine.set(mailbox::OUTPUT_USED, 0);
        let bytes = self.machine.copy(OUTPUT_BASE, used);
        self.streams.take(&bytes, &self.job.limits)
    }

    fn hand_in_input(&mut self) {
        let most = usize::try_from(INPUT_BYTES).expect("a small constant");
        let piece = self.input.split_to(self.input.len().min(most));
        self.machine.lend(INPUT_BASE, &piece);
        self.machine.set(mailbox::INPUT_LENGTH, piece.len() as u64);
    }

    fn hand_in_time(&mut self) {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.machine.set(mailbox::WALL_NS, nanoseconds(wall));
        self.machine.set(mailbox::MONOTONIC_NS, nanoseconds(self.began.elapsed()));
    }

    fn hand_in_random(&mut self) -> Result<(), ExecutionError> {
        let mut bytes = [0; mailbox::RANDOM_BYTES as usize];
        getrandom::fill(&mut bytes).map_err(ExecutionError::broken)?;
        self.machine.set_bytes(mailbox::RANDOM, &bytes);
        Ok(())
    }

    /// Says how the guest ended, from what it left behind.
    fn conclude(&mut self) -> Result<(Bytes, Vec<Value>), ExecutionError> {
        let limits = &self.job.limits;
        let value = self.machine.get(mailbox::EXIT_VALUE);
        let detail = || one_line(&self.streams.detail);
        match self.machine.get(mailbox::EXIT_KIND) {
            exit::RETURNED => self.collect(),
            // The status is 32 bits wide; what else the guest left there does not matter.
            exit::STATUS => match value as u32 as i32 {
                0 if self.job.is_command() => self.collect(),
                status => Err(ExecutionError::ExitNonzero { status }),
            },
            exit::TRAP => Err(ExecutionError::Trap { trap: detail() }),
            exit::MEMORY => Err(ExecutionError::MemoryLimit { wanted_bytes: Some(value), limit_bytes: limits.memory_bytes }),
            exit::TABLE => Err(ExecutionError::TableLimit { wanted: value, limit: TABLE_ELEMENTS_MAX }),
            exit::FUEL => Err(ExecutionError::FuelLimit { limit: limits.fuel.unwrap_or_default() }),
            exit::START => Err(ExecutionError::ResourceExhausted { detail: detail() }),
            exit::PANIC => Err(fault(format!("the guest runtime failed: {}", detail()))),
            other => Err(fault(format!("it ended in the unknown way {other}"))),
        }
    }

    fn collect(&mut self) -> Result<(Bytes, Vec<Value>), ExecutionError> {
        let Start::Export { results, .. } = &self.job.start else {
            let output = std::mem::replace(&mut self.streams.output, Bounded::new(0));
            return Ok((output.output(), Vec::new()));
        };
        let bits = &self.streams.results;
        if bits.len() != results.len() * 8 {
            return Err(fault("it returned another number of results than the function has".into()));
        }
        let pairs = results.iter().zip(bits.chunks_exact(8));
        let values: Vec<Value> =
            pairs.map(|(number, bits)| number.value(u64::from_le_bytes(bits.try_into().expect("eight bytes")))).collect();
        let text = format_results(&values);
        if text.len() as u64 > self.job.limits.output_bytes {
            return Err(ExecutionError::OutputLimit { limit_bytes: self.job.limits.output_bytes });
        }
        Ok((text.into(), values))
    }
}

/// Where the guest's records go.
struct Streams {
    output: Bounded,
    logs: Bounded,
    results: BytesMut,
    detail: BytesMut,
    /// The output of a function are its results, so what it prints goes to the logs.
    output_is_log: bool,
}

impl Streams {
    fn new(limits: &Limits, output_is_log: bool) -> Self {
        Self {
            output: Bounded::new(limits.output_bytes),
            logs: Bounded::new(limits.log_bytes),
            results: BytesMut::new(),
            detail: BytesMut::new(),
            output_is_log,
        }
    }

    /// Sorts records, which are a copy that the guest cannot change any more.
    fn take(&mut self, mut bytes: &[u8], limits: &Limits) -> Result<(), ExecutionError> {
        while let Some((stream, content, rest)) = record(bytes)? {
            bytes = rest;
            match stream {
                stream::STDOUT if !self.output_is_log => {
                    if !self.output.append(content) {
                        return Err(ExecutionError::OutputLimit { limit_bytes: limits.output_bytes });
                    }
                }
                // What is not kept is counted, and stops nobody.
                stream::STDOUT | stream::STDERR => drop(self.logs.append(content)),
                stream::RESULTS => append_up_to(&mut self.results, content, OUTPUT_BYTES as usize)?,
                stream::DETAIL => append_up_to(&mut self.detail, content, OUTPUT_BYTES as usize)?,
                other => return Err(fault(format!("it wrote to the unknown stream {other}"))),
            }
        }
        Ok(())
    }
}

type Record<'a> = (u32, &'a [u8], &'a [u8]);

/// Splits off the first record: its stream, its content, and what follows.
fn record(bytes: &[u8]) -> Result<Option<Record<'_>>, ExecutionError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let header = RECORD_HEADER_BYTES as usize;
    let cut_off = || fault("its output ends within a record".into());
    let (head, rest) = bytes.split_at_checked(header).ok_or_else(cut_off)?;
    let stream = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
    let length = u32::from_le_bytes(head[4..].try_into().expect("four bytes"));
    let (content, rest) = rest.split_at_checked(length as usize).ok_or_else(cut_off)?;
    Ok(Some((stream, content, rest)))
}

fn append_up_to(buffer: &mut BytesMut, bytes: &[u8], most: usize) -> Result<(), ExecutionError> {
    if buffer.len() + bytes.len() > most {
        return Err(fault("it wrote more to a stream than anything needs".into()));
    }
    buffer.extend_from_slice(bytes);
    Ok(())
}

fn fault(detail: String) -> ExecutionError {
    ExecutionError::MicroVmFault { detail }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Text from the guest, made fit for a message: one short line without control characters.
fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(DETAIL_BYTES_MAX)]);
    let printable: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(stream: u32, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&stream.to_le_bytes()[..], &length.to_le_bytes()[..], content].concat()
    }

    fn streams() -> Streams {
        Streams::new(&Limits::default(), false)
    }

    #[test]
    fn records_go_where_they_belong() {
        let mut streams = streams();
        let bytes = [
            encoded(stream::STDOUT, b"out"),
            encoded(stream::STDERR, b"err"),
            encoded(stream::DETAIL, b"why"),
            encoded(stream::STDOUT, b"put"),
        ]
        .concat();
        streams.take(&bytes, &Limits::default()).unwrap();
        assert_eq!((streams.output.output(), &streams.detail[..]), ("output".into(), &b"why"[..]));
        assert_eq!(streams.logs.logs(), "err");
    }

    #[test]
    fn hostile_records_are_refused() {
        let good = encoded(stream::STDOUT, b"12345678");
        let mut too_long = good.clone();
        too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        for bad in [&good[..7], &good[..15], &too_long[..], &encoded(9, b"")[..], &encoded(0, b"x")[..]] {
            let error = streams().take(bad, &Limits::default()).unwrap_err();
            assert_eq!(error.reason(), "MICROVM_FAULT");
        }
    }

    #[test]
    fn text_of_the_guest_is_one_short_line() {
        assert_eq!(one_line(b"two\nlines\x1b[31m \xff"), "two lines [31m \u{fffd}");
        assert_eq!(one_line(&[b'x'; 1000]).len(), DETAIL_BYTES_MAX);
    }
}
