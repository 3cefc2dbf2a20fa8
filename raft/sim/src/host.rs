//! One node's machine: its clock, its disk, and the process that runs the shipped code, with a runtime of its own.
//!
//! A runtime of its own is what makes a crash a crash: dropping it drops every task of the process in the middle of what it did. A paused
//! process is one whose runtime nobody steps; when it goes on, its timers find that the time has passed.

use std::sync::Arc;
use std::time::Duration;

use tarn_raft::{Consensus, Limits, NodeId, Options, StartError, Timings, Versions};
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, oneshot};

use crate::clock::{SimClock, TRUE_RATE};
use crate::disk::{self, Handle, NodeDisk};
use crate::net::link::Link;
use crate::net::{Delivery, Door, Net};
use crate::trace::Trace;

/// A runtime whose time moves only when it is stepped.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output needs nothing that could be missing")
}

/// Lets a runtime do everything that is due within the next milliseconds.
pub fn step(runtime: &Runtime, ms: u64) {
    // The timer belongs to the runtime in which it is made.
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
}

/// What the nodes of one cluster have in common.
#[derive(Clone)]
pub struct Common {
    /// Heartbeats and elections.
    pub timings: Timings,
    /// Sizes of log and snapshots.
    pub limits: Limits,
    /// The network.
    pub net: Net,
    /// The trace.
    pub trace: Trace,
}

/// A machine that runs a node, or could.
pub struct Host {
    /// The node's id.
    pub id: NodeId,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// Its disk.
    pub disk: Arc<NodeDisk>,
    common: Common,
    process: Option<Process>,
    paused: bool,
    /// Milliseconds that passed while it was paused.
    missed_ms: u64,
    /// What arrived meanwhile.
    backlog: Vec<Delivery>,
    /// The speed of its timers, in millionths, and what is left over from earlier steps.
    rate: u64,
    carry: u64,
}

struct Process {
    // Dropped first: the door holds what the runtime's tasks use.
    door: Option<Door>,
    events: Option<broadcast::Receiver<tarn_raft::EventBatch>>,
    starting: Option<oneshot::Receiver<Result<Consensus, StartError>>>,
    stopping: Option<oneshot::Receiver<()>>,
    runtime: Runtime,
}

/// What a step of a host brought about.
pub enum Stepped {
    /// Nothing that the world must know.
    Quiet,
    /// The process is up.
    Started,
    /// The process could not start.
    NotStarted(StartError),
    /// The process stopped by itself, for this reason.
    Stopped(Arc<str>),
    /// The process was told to stop, and did.
    ShutDown,
    /// The power went.
    PowerCut,
}

impl Host {
    /// A machine without a process.
    pub fn new(id: NodeId, clock: SimClock, disk: Arc<NodeDisk>, common: Common) -> Self {
        Self {
            id,
            clock: Arc::new(clock),
            disk,
            common,
            process: None,
            paused: false,
            missed_ms: 0,
            backlog: Vec::new(),
            rate: TRUE_RATE,
            carry: 0,
        }
    }

    /// Starts the process, unless it runs.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn start(&mut self) -> std::io::Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        self.disk.restart()?;
        self.common.net.set_mute(self.id, false);
        let runtime = runtime();
        let options = Options {
            timings: self.common.timings,
            limits: self.common.limits,
            clock: self.clock.clone(),
            disk: Arc::new(Handle(self.disk.clone())),
            ..Options::new(self.id, self.disk.data_dir(), Versions::CURRENT, Arc::new(Link { net: self.common.net.clone(), from: self.id }))
        };
        let (sender, starting) = oneshot::channel();
        runtime.spawn(async move {
            // Nobody listens any more if the process was killed meanwhile.
            let _ = sender.send(Consensus::start(options).await);
        });
        self.common.trace.note(format!("node {} starts", self.id));
        self.process = Some(Process { door: None, events: None, starting: Some(starting), stopping: None, runtime });
        Ok(())
    }

    /// The process is gone at once; what it had written stays. False: there was none.
    pub fn kill(&mut self) -> bool {
        let was_up = self.process.is_some();
        if was_up {
            self.common.trace.note(format!("node {} is killed", self.id));
        }
        self.drop_process();
        was_up
    }

    /// The process is gone, and with it what was not flushed, also by processes before. False: the power had gone already.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn cut_power(&mut self) -> std::io::Result<bool> {
        let had_power = !self.disk.is_dead();
        self.common.trace.note(format!("node {} loses its power", self.id));
        self.drop_process();
        self.disk.cut_power()?;
        Ok(had_power)
    }

    fn drop_process(&mut self) {
        self.paused = false;
        self.missed_ms = 0;
        // Whoever sent these learns that nobody is there.
        for delivery in std::mem::take(&mut self.backlog) {
            delivery(None);
        }
        disk::set_current(Some(self.disk.clone()));
        self.process = None;
        disk::set_current(None);
    }

    /// Asks the process to stop in good order. False: there is none that could.
    pub fn shut_down(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(door) = &process.door else { return false };
        let (sender, stopping) = oneshot::channel();
        let consensus = door.consensus.clone();
        process.runtime.spawn(async move {
            consensus.shutdown().await;
            let _ = sender.send(());
        });
        process.stopping = Some(stopping);
        self.common.trace.note(format!("node {} shuts down", self.id));
        true
    }

    /// The process stands still, as after SIGSTOP. False: there is none, or it does already.
    pub fn pause(&mut self) -> bool {
        let moved = self.process.is_some() && !self.paused;
        if moved {
            self.common.trace.note(format!("node {} is paused", self.id));
            self.paused = true;
        }
        moved
    }

    /// The process goes on.
    pub fn resume(&mut self) {
        if !self.paused {
            return;
        }
        self.common.trace.note(format!("node {} goes on", self.id));
        self.paused = false;
        let missed = std::mem::take(&mut self.missed_ms);
        if let Some(process) = &self.process {
            disk::set_current(Some(self.disk.clone()));
            process.runtime.block_on(tokio::time::advance(Duration::from_millis(missed)));
            disk::set_current(None);
        }
        for delivery in std::mem::take(&mut self.backlog) {
            self.deliver(delivery);
        }
    }

    /// The speed of its timers and of its clock, in millionths of the true time's.
    pub fn set_rate(&mut self, rate: u64) {
        if rate != self.rate {
            self.common.trace.note(format!("node {} clock runs at {rate} millionths", self.id));
        }
        self.rate = rate;
        self.clock.set_rate(rate);
    }

    /// Whether a process is there, paused or not.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The way in, once the process has started.
    pub fn door(&self) -> Option<&Door> {
        self.process.as_ref()?.door.as_ref()
    }

    /// Looks at the process from outside, on its own clock.
    pub fn look<T>(&self, look: impl FnOnce(&Consensus) -> T) -> Option<T> {
        let process = self.process.as_ref()?;
        let _entered = process.runtime.enter();
        process.door.as_ref().map(|door| look(&door.consensus))
    }

    /// Events since the last call. False: some were missed, as after a snapshot.
    pub fn events(&mut self) -> (Vec<tarn_raft::EventBatch>, bool) {
        let (mut batches, mut complete) = (Vec::new(), true);
        if let Some(events) = self.process.as_mut().and_then(|process| process.events.as_mut()) {
            loop {
                match events.try_recv() {
                    Ok(batch) => batches.push(batch),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => complete = false,
                    Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => break,
                }
            }
        }
        (batches, complete)
    }

    /// Something arrives from the network.
    pub fn deliver(&mut self, delivery: Delivery) {
        match self.paused {
            true => self.backlog.push(delivery),
            false => delivery(self.door()),
        }
    }

    /// A millisecond of true time passes.
    pub fn step(&mut self) -> Stepped {
        self.clock.tick();
        if self.paused {
            self.missed_ms += 1;
            return Stepped::Quiet;
        }
        let Some(process) = &mut self.process else {
            return Stepped::Quiet;
        };
        self.carry += self.rate;
        let ms = self.carry / TRUE_RATE;
        self.carry %= TRUE_RATE;
        if ms > 0 {
            disk::set_current(Some(self.disk.clone()));
            step(&process.runtime, ms);
            disk::set_current(None);
        }
        if self.disk.is_dead() {
            self.drop_process();
            return Stepped::PowerCut;
        }
        let stepped = process.look();
        if matches!(stepped, Stepped::NotStarted(_) | Stepped::Stopped(_) | Stepped::ShutDown) {
            self.drop_process();
        }
        stepped
    }
}

impl Process {
    fn look(&mut self) -> Stepped {
        if let Some(starting) = &mut self.starting {
            let started = match starting.try_recv() {
                Err(_) => return Stepped::Quiet,
                Ok(Err(error)) => return Stepped::NotStarted(error),
                Ok(Ok(consensus)) => consensus,
            };
            self.starting = None;
            self.events = Some(started.events());
            self.door = Some(Door { handle: self.runtime.handle().clone(), consensus: started });
            return Stepped::Started;
        }
        if self.stopping.as_mut().is_some_and(|stopping| stopping.try_recv().is_ok()) {
            return Stepped::ShutDown;
        }
        let fatal = self.door.as_ref().and_then(|door| door.consensus.fatal().borrow().clone());
        match fatal {
            Some(reason) => Stepped::Stopped(reason),
            None => Stepped::Quiet,
        }
    }
}
