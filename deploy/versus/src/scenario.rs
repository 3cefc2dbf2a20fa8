//! What is compared: the scenarios, the loads of each, and who takes part.

use std::time::Duration;

use clap::ValueEnum;

use crate::args::Args;
use crate::measure::Load;
use crate::system::System;
use crate::usage::Meter;

/// Keys that are put before any is got.
pub const GET_KEYS: u64 = 10_000;
/// Clients that submit at once to a work queue.
const SUBMITTERS: usize = 64;
/// Tasks a second where latency is measured: far from what any of the systems can do.
const LATENCY_RATE: u32 = 500;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// Put a new key: etcd, tarn's contexts
    Put,
    /// Get a key, linearizably, of 10,000: etcd, tarn's contexts
    Get,
    /// Submit, work and acknowledge tasks, as many as possible: NATS JetStream, RabbitMQ's quorum queues, tarn
    Queue,
    /// The same at 500 tasks a second, for latency
    Latency,
    /// Submit a trivial task and wait for its result: Restate, tarn
    Call,
    /// How tarn's figures change with backlog, nodes, payload and namespaces
    Growth,
    /// From the start of the processes to the first accepted operation; memory of idle nodes and of queued tasks
    Start,
}

/// One load of a scenario.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is different about it, such as `16 clients`.
    pub name: String,
    /// The load.
    pub load: Load,
}

impl Scenario {
    /// Its name in commands and results.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Put => "put",
            Scenario::Get => "get",
            Scenario::Queue => "queue",
            Scenario::Latency => "latency",
            Scenario::Call => "call",
            Scenario::Growth => "growth",
            Scenario::Start => "start",
        }
    }

    /// What is measured, for a heading.
    pub fn title(self) -> &'static str {
        match self {
            Scenario::Put => "Puts of a new key, each acknowledged by a majority after fsync",
            Scenario::Get => "Linearizable gets of one of 10,000 keys",
            Scenario::Queue => "Work queue: submit, work, acknowledge; from submission to acknowledged completion",
            Scenario::Latency => "Work queue at 500 tasks a second; from when a task was due to its acknowledged completion",
            Scenario::Call => "Durable call: submit a trivial task and wait for its result",
            Scenario::Growth => "How tarn's work queue changes with its surroundings",
            Scenario::Start => "Start and memory",
        }
    }

    /// Who can do it. The first is what the others are compared with.
    pub fn systems(self) -> &'static [System] {
        match self {
            Scenario::Put => &[System::Tarn, System::TarnContexts, System::Etcd],
            Scenario::Get => &[System::Tarn, System::Etcd],
            Scenario::Latency => &[
                System::Tarn,
                System::TarnHandlers,
                System::TarnWrites,
                System::NatsSynced,
                System::Nats,
                System::NatsPlainAcks,
                System::RabbitMq,
            ],
            Scenario::Queue => {
                &[System::Tarn, System::TarnHandlers, System::NatsSynced, System::Nats, System::NatsPlainAcks, System::RabbitMq]
            }
            Scenario::Call => &[System::Tarn, System::Restate, System::RestateWithKeys],
            Scenario::Growth => &[System::Tarn],
            Scenario::Start => &[System::Tarn, System::Etcd, System::Nats, System::RabbitMq, System::Restate],
        }
    }

    /// Its loads, for those that go over the same loads with every system.
    pub fn cases(self, args: &Args) -> Vec<Case> {
        let base = base(args);
        let by_clients = |counts: &[usize]| {
            let cases = counts.iter().map(|clients| Case {
                name: format!("{clients} client{}", if *clients == 1 { "" } else { "s" }),
                load: Load { clients: *clients, ..base.clone() },
            });
            cases.collect()
        };
        match self {
            Scenario::Put | Scenario::Get if args.quick => by_clients(&[1, 64]),
            Scenario::Put | Scenario::Get => by_clients(&[1, 16, 64, 256]),
            Scenario::Call if args.quick => by_clients(&[1, 64]),
            Scenario::Call => by_clients(&[1, 16, 64]),
            Scenario::Queue => {
                let counts: &[(usize, usize)] = match args.quick {
                    true => &[(64, 1_024)],
                    false => &[(1, 64), (16, 64), (64, 64), (1, 1_024), (16, 1_024), (64, 1_024)],
                };
                let case = |(workers, outstanding): &(usize, usize)| Case {
                    name: format!("{workers} worker{}, {outstanding} outstanding", if *workers == 1 { "" } else { "s" }),
                    load: Load { workers: *workers, outstanding: *outstanding, ..base.clone() },
                };
                counts.iter().map(case).collect()
            }
            Scenario::Latency => {
                let load = Load { workers: 16, outstanding: 1_024, rate: Some(LATENCY_RATE), ..base };
                vec![Case { name: format!("{LATENCY_RATE}/s, 16 workers"), load }]
            }
            Scenario::Growth | Scenario::Start => Vec::new(),
        }
    }
}

/// A load of which the scenarios change what they are about.
pub fn base(args: &Args) -> Load {
    Load {
        time: Duration::from_secs_f64(args.seconds()),
        warm_up: Duration::from_secs_f64(args.warm_up()),
        clients: SUBMITTERS,
        connections: args.connections,
        workers: args.connections,
        outstanding: 1_024,
        rate: None,
        payload: args.payload,
        meter: Meter::default(),
    }
}
