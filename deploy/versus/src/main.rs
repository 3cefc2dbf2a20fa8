//! The same machine, the same run: durable work on tarn, and on systems that people know.
//!
//! ```text
//!   args       the command line                         measure    a load, its samples, its summary
//!   scenario   what is compared, and with which loads   drive      clients that do one thing after another
//!   system     the systems, and a running cluster       usage      who used the processors
//!   rounds     every system in turn, every load         machine    what the figures were measured on
//!   peers      etcd and others: clusters and loads      record     one measurement, as a line of JSON
//!   tarn       tarn's cluster and loads                 sink       where measurements go
//!   growth     tarn as it fills                         report     the tables
//!   start      start and memory                         picture    throughput against latency
//!   guard      is this build slower than earlier ones?
//! ```
//!
//! A round starts a fresh three-node cluster of each system on loopback, in turn, runs the loads, and ends it. tarn runs with mutual
//! post-quantum TLS, the peers without any TLS: what that costs is in tarn's figures. All clients and workers are in this one process.

mod args;
mod drive;
mod growth;
mod guard;
mod machine;
mod measure;
mod peers;
mod picture;
mod record;
mod report;
mod rounds;
mod scenario;
mod sink;
mod start;
mod system;
mod tarn;
mod usage;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{Args, Output};
use scenario::Scenario;
use sink::Sink;
use system::System;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.needs {
        args.all_peers().into_iter().for_each(|peer| println!("{}", peer.package()));
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Where it is interrupted, what runs is dropped, and with it every server.
    let done = runtime.block_on(async {
        tokio::select! {
            done = run(&args) => done,
            () = interrupted() => {
                let folder = args.out.display();
                Err(anyhow::anyhow!("interrupted; all servers were ended, and results until now are in {folder}"))
            }
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals can be listened for");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

/// Measures what was asked for; returns whether nothing failed.
async fn run(args: &Args) -> Result<bool> {
    if args.guard() {
        return guard::run(args).await;
    }
    let machine = machine::Machine::look(args.data_dir()?.path())?;
    let mut sink = Sink::create(&args.out, &machine, args.output == Output::Jsonl)?;
    sink.note(&format!(
        "{} cores of {}, {} with an fsync of {:.0} µs, Linux {}",
        machine.cores, machine.processor, machine.file_system, machine.fsync_micros, machine.kernel
    ));
    if let Some(warning) = machine.warning() {
        sink.note(&format!("warning: {warning}"));
    }
    let scenarios = args.scenarios();
    for scenario in &scenarios {
        match scenario {
            Scenario::Growth => growth::run(args, &mut sink).await?,
            Scenario::Start => start::run(args, &mut sink).await?,
            Scenario::Put | Scenario::Get | Scenario::Queue | Scenario::Latency | Scenario::Call => {
                rounds::run(*scenario, args, &mut sink).await?;
            }
        }
    }
    let mut text = report::text(&sink.records, &scenarios, System::Tarn.name());
    sink.missing.iter().for_each(|(system, why)| text += &format!("\n{system} took no part: {why}\n"));
    if args.output == Output::Text {
        println!("{}", text.trim_start());
    }
    sink.file("report.txt", text.trim_start())?;
    if let Some(svg) = picture::svg(&sink.records)? {
        sink.file("picture.svg", &svg)?;
    }
    sink.note(&format!("results, report and picture are in {}", args.out.display()));
    Ok(sink.records.iter().all(|record| record.failed.is_none()))
}
