//! The language of the golden scripts. `tests/golden/README.md` explains it.

use std::collections::BTreeMap;

use tarn_scheduler::{
    Decision, Device, DeviceNeed, Explanation, Finished, Isolation, Miss, Outcome, Parts, Placement, Priority, Runtimes, Scheduler, Task,
    Waiting, Weighed, Worker, compare,
};

use super::ledger::Ledger;

/// Runs the lines of one script.
#[derive(Default)]
pub struct Runner {
    scheduler: Scheduler,
    ledger: Ledger,
    now_ms: u64,
    /// In the order in which they came, with the time.
    waiting: Vec<(u64, Task)>,
    running: BTreeMap<String, (Task, Placement)>,
}

type Outputs = Result<Vec<String>, String>;

impl Runner {
    /// Runs one line and gives what it printed.
    pub fn run(&mut self, line: &str) -> Outputs {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        match (verb, words.as_slice()) {
            ("at", [ms]) => self.now_ms = number(ms)?,
            ("worker", [id, fields @ ..]) => self.worker(id, fields)?,
            ("gone", [id]) => drop(self.ledger.workers.remove(*id).ok_or("no such worker")?),
            ("drain", [id]) => self.ledger.workers.get_mut(*id).ok_or("no such worker")?.draining = true,
            ("lose", [device]) => self.device(device)?.lost = true,
            ("mend", [device]) => self.device(device)?.lost = false,
            ("data", [name, "on", nodes]) => {
                self.ledger.data.insert(name.to_string(), list(nodes).into_iter().collect());
            }
            ("task", [id, fields @ ..]) => self.task(id, fields)?,
            ("done", [id]) => {
                let (task, placement) = self.running.remove(*id).ok_or("it does not run")?;
                self.ledger.give_back(&task.requires, &placement);
            }
            ("cancel", [id]) => self.waiting.retain(|(_, task)| task.id != *id),
            ("finished", [artifact, on, rest @ ..]) => self.finished(artifact, on, rest, true)?,
            ("failed", [artifact, on, rest @ ..]) => self.finished(artifact, on, rest, false)?,
            ("tune", fields) => return self.tune(fields),
            ("place", []) => return self.place(),
            ("compare", [id]) => return self.compare(id),
            _ => return Err(format!("what is {line:?}?")),
        }
        Ok(Vec::new())
    }

    fn worker(&mut self, id: &str, fields: &[&str]) -> Result<(), String> {
        let mut worker = Worker { id: id.into(), node: id.into(), slots: 1, quality: 1000, ..Worker::default() };
        for field in fields {
            let (name, value) = pair(field, '=')?;
            match name {
                "node" => worker.node = value.into(),
                "runtime" => worker.runtime = value.into(),
                "handlers" => worker.handlers = list(value),
                "namespaces" => worker.namespaces = list(value),
                "queues" => worker.queues = list(value),
                "labels" => worker.labels = list(value),
                "isolation" => worker.isolation = isolation(value)?,
                "slots" => worker.slots = number(value)? as u32,
                "memory" => worker.memory_bytes = number(value)?,
                "devices" => worker.devices = value.split(',').map(device).collect::<Result<_, _>>()?,
                "cost" => worker.cost_per_second = number(value)?,
                "quality" => worker.quality = number(value)? as u16,
                _ => return Err(format!("a worker has no {name}")),
            }
        }
        worker.slots_free = worker.slots;
        worker.memory_free_bytes = worker.memory_bytes;
        self.ledger.workers.insert(id.into(), worker);
        Ok(())
    }

    fn device(&mut self, path: &str) -> Result<&mut Device, String> {
        let (worker, at) = pair(path, '/')?;
        let worker = self.ledger.workers.get_mut(worker).ok_or("no such worker")?;
        let at = number(at)? as usize;
        worker.devices.get_mut(at).ok_or_else(|| "no such device".into())
    }

    fn task(&mut self, id: &str, fields: &[&str]) -> Result<(), String> {
        let mut task = Task { id: id.into(), ..Task::default() };
        task.requires.namespace = "default".into();
        task.requires.queue = "q".into();
        let mut count = 1;
        for field in fields {
            let (name, value) = pair(field, '=')?;
            let requires = &mut task.requires;
            match name {
                "count" => count = number(value)?,
                "namespace" => requires.namespace = value.into(),
                "queue" => requires.queue = value.into(),
                "handler" => requires.handler = value.into(),
                "runtimes" => requires.runtimes = Runtimes::Chain(list(value)),
                "auto" => requires.runtimes = Runtimes::Auto(list(value)),
                "labels" => requires.labels = list(value),
                "isolation" => requires.isolation = isolation(value)?,
                "memory" => requires.memory_bytes = number(value)?,
                "devices" => requires.devices = value.split(',').map(need).collect::<Result<_, _>>()?,
                "data" => requires.data = list(value),
                "artifact" => task.artifact = value.into(),
                "prefers" => task.prefers = list(value),
                "near" => task.near = weighed(value)?,
                "results" => task.results = weighed(value)?,
                "failed_on" => task.failed_on = list(value),
                "priority" => task.priority = priority(value)?,
                "patience" => task.patience_ms = Some(number(value)?),
                _ => return Err(format!("a task has no {name}")),
            }
        }
        for copy in 1..=count {
            let mut task = task.clone();
            if count > 1 {
                task.id = format!("{id}.{copy}");
            }
            self.waiting.push((self.now_ms, task));
        }
        Ok(())
    }

    fn finished(&mut self, artifact: &str, on: &str, rest: &[&str], succeeded: bool) -> Result<(), String> {
        let (runtime, node) = pair(on, '@')?;
        let mut run_ms = 0;
        let mut times = 1;
        for word in rest {
            match word.strip_prefix('x') {
                Some(count) => times = number(count)?,
                None => run_ms = number(word.strip_suffix("ms").ok_or("a run time ends with ms")?)?,
            }
        }
        for _ in 0..times {
            self.scheduler.record(Finished { artifact, runtime, node, run_ms, succeeded });
        }
        Ok(())
    }

    fn tune(&mut self, fields: &[&str]) -> Outputs {
        let mut tuning = serde_json::to_value(self.scheduler.tuning()).expect("a tuning can be written");
        for field in fields {
            let (name, value) = pair(field, '=')?;
            let part = match tuning["weights"].get(name) {
                Some(_) => &mut tuning["weights"][name],
                None => tuning.get_mut(name).ok_or(format!("there is no {name}"))?,
            };
            *part = number(value)?.into();
        }
        let tuning = serde_json::from_value(tuning).map_err(|error| error.to_string())?;
        Ok(match self.scheduler.tune(tuning) {
            Ok(()) => Vec::new(),
            Err(error) => vec![error.to_string()],
        })
    }

    fn place(&mut self) -> Outputs {
        let waiting = std::mem::take(&mut self.waiting);
        let aged = |(since, task): &(u64, Task)| Task { waited_ms: self.now_ms - since, ..task.clone() };
        let tasks: Vec<Task> = waiting.iter().map(aged).collect();
        let decisions = self.scheduler.place(&tasks, &self.ledger.cluster(), self.now_ms);
        let mut outputs = Vec::new();
        let mut still_waiting = Vec::new();
        for Decision { task, outcome } in decisions {
            let id = &tasks[task].id;
            match outcome {
                Outcome::Placed(placement) => {
                    self.ledger.take(&tasks[task].requires, &placement)?;
                    outputs.extend(placed(id, &placement));
                    self.running.insert(id.clone(), (tasks[task].clone(), placement));
                }
                Outcome::Waits(waiting) => {
                    outputs.extend(waits(id, &waiting));
                    still_waiting.push(task);
                }
            }
        }
        still_waiting.sort_unstable();
        self.waiting = still_waiting.into_iter().map(|task| waiting[task].clone()).collect();
        Ok(outputs)
    }

    fn compare(&self, id: &str) -> Outputs {
        let (_, task) = self.waiting.iter().find(|(_, task)| task.id == id).ok_or("it does not wait")?;
        let line = |(worker, misses): (&str, Vec<Miss>)| {
            let sentences: Vec<String> = misses.iter().map(Miss::to_string).collect();
            match sentences.is_empty() {
                true => format!("{worker}: could run it now"),
                false => format!("{worker}: {}", sentences.join(", and ")),
            }
        };
        Ok(compare(&task.requires, &self.ledger.cluster()).map(line).collect())
    }
}

fn placed(id: &str, placement: &Placement) -> Vec<String> {
    let Explanation { level, score_max, candidates, eligible, registered, passed_over, prices, moved_from } = &placement.explanation;
    let mut head = format!("{id} -> {} runtime={}", placement.worker, placement.runtime);
    if !placement.devices.is_empty() {
        head += &format!(" devices={:?}", placement.devices);
    }
    head += &format!(" level={level} eligible={eligible}/{registered}");
    let mut lines = vec![head];
    if let Some(worker) = moved_from {
        lines.push(format!("  moved from {worker}"));
    }
    for passed in passed_over {
        lines.push(format!("  passed over {} {}", passed.runtime, passed.why.code()));
    }
    for price in prices {
        lines.push(format!("  price {} {} for {} ms", price.runtime, price.price, price.run_ms));
    }
    for candidate in candidates {
        let (worker, node, score) = (&candidate.worker, &candidate.node, candidate.score);
        lines.push(format!("  {worker}@{node} {score}/{score_max}{}", parts(&candidate.parts)));
    }
    lines
}

fn parts(parts: &Parts) -> String {
    let all = parts.all().into_iter();
    all.map(|(name, part)| format!(" {name}={part}")).collect()
}

fn waits(id: &str, waiting: &Waiting) -> Vec<String> {
    let mut lines = vec![format!("{id} waits {}: {waiting}", waiting.prospect.code())];
    for missing in &waiting.shortage.missing {
        let (reason, detail) = (missing.miss.reason.code(), &missing.miss.detail);
        let of = waiting.shortage.registered;
        lines.push(format!("  {reason} {detail:?} {}/{of}", missing.workers));
    }
    lines
}

fn pair(text: &str, by: char) -> Result<(&str, &str), String> {
    text.split_once(by).ok_or(format!("{text} has no {by}"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn weighed(text: &str) -> Result<Vec<Weighed>, String> {
    let one = |text| {
        let (name, bytes) = pair(text, ':')?;
        let (name, bytes) = (name.into(), number(bytes)?);
        Ok(Weighed { name, bytes })
    };
    text.split(',').map(one).collect()
}

fn isolation(text: &str) -> Result<Isolation, String> {
    let all = [Isolation::Process, Isolation::Sandbox, Isolation::Machine];
    let found = all.into_iter().find(|isolation| isolation.name() == text);
    found.ok_or(format!("{text} is no isolation"))
}

fn priority(text: &str) -> Result<Priority, String> {
    Ok(match text {
        "critical" => Priority::Critical,
        "high" => Priority::High,
        "normal" => Priority::Normal,
        "low" => Priority::Low,
        "background" => Priority::Background,
        _ => return Err(format!("{text} is no priority")),
    })
}

/// `kind:memory:capability`.
fn device(text: &str) -> Result<Device, String> {
    let (kind, rest) = pair(text, ':')?;
    let (memory, capability) = pair(rest, ':')?;
    let memory_bytes = number(memory)?;
    Ok(Device { kind: kind.into(), memory_bytes, memory_free_bytes: memory_bytes, capability: number(capability)? as u32, lost: false })
}

/// `kind:memory:capability`, or the same followed by `@runtime`.
fn need(text: &str) -> Result<DeviceNeed, String> {
    let (text, runtimes) = match text.split_once('@') {
        Some((text, runtime)) => (text, vec![runtime.to_owned()]),
        None => (text, Vec::new()),
    };
    let device = device(text)?;
    Ok(DeviceNeed { kind: device.kind, memory_bytes: device.memory_bytes, capability: device.capability, runtimes })
}
