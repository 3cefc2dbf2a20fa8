//! Bounds: large queues, wide fan-out, much due at once, and every limit of the state that can be reached in a test.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use support::{Rig, command, spec};
use tarn_machine::{Machine, Refusal, Versions, limits};
use tarn_proto::v1::*;
use tarn_storage::{Batch, Durability, Engine, Keyspace, MemoryEngine, Range, Scan, StorageError};

fn enqueue(tasks: Vec<TaskSpec>) -> EnqueueRequest {
    EnqueueRequest { request_id: String::new(), namespace: "default".into(), tasks }
}

fn register(rig: &mut Rig) -> String {
    rig.ok(RegisterWorkerRequest { ttl_ms: 3_600_000, ..Default::default() }).worker_id
}

fn lease(worker_id: &str, max_tasks: u32) -> LeaseTasksRequest {
    LeaseTasksRequest { worker_id: worker_id.to_owned(), max_tasks, lease_ms: 3_600_000, ..Default::default() }
}

fn stats(rig: &Rig, queue: &str) -> QueueStats {
    let request = GetQueueRequest { namespace: "default".into(), queue: queue.into() };
    rig.machine.get_queue(&request).expect("the queue is there").stats.expect("it has figures")
}

/// Counts what the machine reads: the measure of a command's cost that does not depend on the machine that runs the test.
struct Counting {
    inner: MemoryEngine,
    reads: AtomicU64,
}

impl Engine for Counting {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(keyspace, key)
    }

    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_> {
        // A scan costs as much as it reads.
        let scan = self.inner.scan(keyspace, range);
        Scan::new(scan.inspect(|_| {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.inner.write(batch, durability)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.inner.checkpoint(dir)
    }
}

#[test]
fn a_lease_costs_the_same_with_a_hundred_thousand_tasks_in_the_queue_as_with_a_hundred() {
    let engine = Arc::new(Counting { inner: MemoryEngine::new(), reads: AtomicU64::new(0) });
    let mut machine = Machine::open(engine.clone(), Versions::CURRENT).expect("it opens");
    let mut apply = |commands: Vec<Command>| {
        let entry = Entry { version: 1, now_ms: 1_000, commands }.encode_to_vec();
        // A node that has just started remembers no task: each is read.
        machine = Machine::open(engine.clone(), Versions::CURRENT).expect("it opens");
        let before = engine.reads.load(Ordering::Relaxed);
        let index = machine.applied_index() + 1;
        let applied = machine.apply(index, &entry, &Batch::new()).expect("it applies");
        (applied, engine.reads.load(Ordering::Relaxed) - before)
    };
    let (applied, _) = apply(vec![command(RegisterWorkerRequest { ttl_ms: 3_600_000, ..Default::default() })]);
    let Some(outcome::Body::RegisterWorker(worker)) = &applied.outcomes[0].body else { panic!("{applied:?}") };
    let leases = || vec![command(lease(&worker.worker_id, 50))];
    apply(vec![command(enqueue(vec![spec("q"); 100]))]);
    let (applied, few) = apply(leases());
    assert_eq!(applied.events.len(), 50);
    for _ in 0..100 {
        apply(vec![command(enqueue(vec![spec("q"); 1_000]))]);
    }
    let (applied, many) = apply(leases());
    assert_eq!(applied.events.len(), 50);
    assert!(few == many && few >= 50, "{few} and {many} reads");
}

#[test]
fn keys_of_a_large_context_cost_what_those_of_a_small_one_cost() {
    let engine = Arc::new(Counting { inner: MemoryEngine::new(), reads: AtomicU64::new(0) });
    let mut machine = Machine::open(engine.clone(), Versions::CURRENT).expect("it opens");
    let reads = || engine.reads.load(Ordering::Relaxed);
    let put = |key: u32| PutKeyRequest {
        namespace: "default".into(),
        context: "m".into(),
        key: key.to_string(),
        value: vec![7; 256].into(),
        ..Default::default()
    };
    let snapshot =
        |name: String| SnapshotContextRequest { namespace: "default".into(), context: "m".into(), snapshot: name, ..Default::default() };
    let apply = |machine: &mut Machine, commands: Vec<Command>| {
        let entry = Entry { version: 1, now_ms: 1_000, commands }.encode_to_vec();
        let before = reads();
        let index = machine.applied_index() + 1;
        let applied = machine.apply(index, &entry, &Batch::new()).expect("it applies");
        let refused = |outcome: &Outcome| matches!(outcome.body, Some(outcome::Body::Rejected(_)));
        assert!(!applied.outcomes.iter().any(refused), "{:?}", applied.outcomes);
        reads() - before
    };
    let get = |machine: &Machine| {
        let before = reads();
        let request = GetKeyRequest { namespace: "default".into(), context: "m".into(), key: "1".into(), ..Default::default() };
        assert_eq!(machine.get_key(&request).expect("it is there").value.len(), 256);
        reads() - before
    };
    apply(&mut machine, vec![command(RaiseVersion { version: 4, ..Default::default() }), command(put(1))]);
    let small = (apply(&mut machine, vec![command(put(1))]), get(&machine));
    for key in 0..10_000 {
        apply(&mut machine, vec![command(put(key)), command(put(key)), command(put(1))]);
        if key % 1_000 == 0 {
            apply(&mut machine, vec![command(snapshot(format!("s{key}")))]);
        }
    }
    assert_eq!(small, (2, 3), "a put reads the context and the key, a get the value too");
    assert_eq!(small, (apply(&mut machine, vec![command(put(1))]), get(&machine)));
    let restore = RestoreContextRequest { namespace: "default".into(), context: "m".into(), snapshot: "s0".into(), ..Default::default() };
    assert_eq!(apply(&mut machine, vec![command(snapshot("last".into()))]), 2);
    assert_eq!(apply(&mut machine, vec![command(restore)]), 2);
}

#[test]
fn a_hundred_thousand_tasks_are_listed_page_by_page() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.apply_unchecked(vec![command(enqueue(vec![spec("q"); 1_000]))]);
    }
    assert_eq!(stats(&rig, "q").ready, 100_000);
    rig.restart();
    let mut token = String::new();
    let mut seen = 0;
    loop {
        let request = ListTasksRequest {
            namespace: "default".into(),
            queue: "q".into(),
            states: vec![TaskState::Ready.into()],
            page_size: 1_000,
            page_token: token,
        };
        let page = rig.machine.list_tasks(&request).expect("a page");
        seen += page.tasks.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 100_000);
}

#[test]
fn wide_fan_out_is_settled_over_several_entries() {
    let mut rig = Rig::new();
    let worker = register(&mut rig);
    let root = rig.ok(enqueue(vec![spec("q")])).task_ids.remove(0);
    let dependent = TaskSpec { after: vec![root.clone()], ..spec("q") };
    for _ in 0..10 {
        rig.apply_unchecked(vec![command(enqueue(vec![dependent.clone(); 1_000]))]);
    }
    let reason = rig.refused(enqueue(vec![dependent.clone()]));
    assert_eq!(reason, "TOO_MANY_DEPENDENTS");
    let leased = rig.ok(lease(&worker, 1)).tasks.remove(0);
    let request = CompleteTaskRequest { namespace: "default".into(), task_id: root.clone(), token: leased.token, ..Default::default() };
    rig.ok(request);
    let now = stats(&rig, "q");
    assert_eq!(now.ready, limits::SETTLES_PER_ENTRY_MAX as u64, "one entry does so much");
    assert_eq!(rig.machine.next_wake_ms(), Some(0), "and says that there is more");
    rig.restart();
    rig.pass_to(rig.now_ms);
    let now = stats(&rig, "q");
    assert_eq!((now.ready, now.blocked), (10_000, 0));
}

#[test]
fn the_root_of_a_failing_fan_out_cannot_be_requeued_before_all_know() {
    let mut rig = Rig::new();
    let root = rig.ok(enqueue(vec![spec("root")])).task_ids.remove(0);
    let dependent = TaskSpec { after: vec![root.clone()], ..spec("q") };
    for _ in 0..9 {
        rig.apply_unchecked(vec![command(enqueue(vec![dependent.clone(); 1_000]))]);
    }
    let worker = register(&mut rig);
    let leased = rig.ok(lease(&worker, 1)).tasks.remove(0);
    rig.ok(FailTaskRequest {
        namespace: "default".into(),
        task_id: root.clone(),
        token: leased.token,
        kind: FailureKind::Final.into(),
        ..Default::default()
    });
    let requeue = |queue: &str, task_ids: Vec<String>| RequeueDeadRequest {
        namespace: "default".into(),
        queue: queue.into(),
        task_ids,
        ..Default::default()
    };
    assert_eq!(stats(&rig, "q").dead, limits::SETTLES_PER_ENTRY_MAX as u64);
    // The next entry settles as many again, and some are still left: they must not see the root alive before they know that it died.
    let reason = rig.refused(requeue("root", vec![root.clone()]));
    assert_eq!(reason, "TASK_SETTLING");
    assert_eq!(stats(&rig, "q").dead, 2 * limits::SETTLES_PER_ENTRY_MAX as u64);
    rig.pass_to(rig.now_ms);
    assert_eq!((stats(&rig, "q").dead, stats(&rig, "q").blocked), (9_000, 0));
    assert_eq!(rig.ok(requeue("root", vec![root])).requeued, 1);
    let answer = rig.ok(requeue("q", vec![]));
    assert_eq!((answer.requeued, answer.remaining), (1_000, 8_000));
    assert_eq!(stats(&rig, "q").blocked, 1_000, "they wait for the root again");
}

#[test]
fn much_that_is_due_at_once_is_spread_over_entries() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        let delayed = TaskSpec { not_before_at_ms: 5_000, ..spec("q") };
        rig.apply_unchecked(vec![command(enqueue(vec![delayed; 1_000]))]);
    }
    rig.now_ms = 9_000;
    let first = rig.apply(vec![]);
    assert_eq!(first.events.len(), limits::WAKES_PER_ENTRY_MAX);
    assert_eq!(rig.machine.next_wake_ms(), Some(5_000));
    rig.pass_to(9_000);
    assert_eq!(stats(&rig, "q").ready, 3_000);
}

#[test]
fn expired_rows_are_removed_in_groups_and_completely() {
    let mut rig = Rig::new();
    let rows = |rig: &Rig| {
        let scan = tarn_storage::Engine::scan(&*rig.engine, tarn_machine::STATE, tarn_storage::Range::all());
        scan.count()
    };
    let before = rows(&rig);
    for round in 0..3 {
        let short = TaskSpec { retention_ms: 1, deadline_at_ms: rig.now_ms + 1, ..spec("q") };
        let mut request = enqueue(vec![short; 1_000]);
        request.request_id = format!("r{round}");
        rig.apply_unchecked(vec![command(request)]);
        rig.pass_to(rig.now_ms + 1);
        let purge = PurgeQueueRequest {
            namespace: "default".into(),
            queue: "q".into(),
            states: vec![TaskState::Dead.into()],
            ..Default::default()
        };
        rig.apply_unchecked(vec![command(purge)]);
        let cancelled = rig.ok(enqueue(vec![TaskSpec { retention_ms: 1, ..spec("q") }; 400]));
        for task_id in cancelled.task_ids {
            let request =
                CancelTaskRequest { namespace: "default".into(), task_id: task_id.clone(), request_id: task_id, ..Default::default() };
            rig.apply_unchecked(vec![command(request)]);
        }
    }
    assert!(rows(&rig) > before + 3 * 400 * 3);
    rig.pass_to(rig.now_ms + limits::REQUEST_RETENTION_MS + 5_000);
    rig.pass_to(rig.now_ms + limits::QUEUE_IDLE_MS + 5_000);
    // What is left: the events of the last revisions.
    let kept = rig.machine.events_after(0, usize::MAX).expect("none is gone yet");
    let revisions = kept.iter().map(|event| event.revision).collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(rows(&rig), before + revisions);
}

#[test]
fn a_page_of_events_ends_when_it_is_large_enough() {
    let mut rig = Rig::new();
    let before = rig.machine.applied_index();
    // Marks are the events that a user can make long.
    let entries = 3 * limits::EVENT_PAGE_BYTES / (100 * limits::MARK_BYTES_MAX);
    for _ in 0..entries {
        let mark = || ScheduleTimerRequest {
            namespace: "default".into(),
            delay_ms: 1,
            action: Some(Box::new(TimerAction { action: Some(timer_action::Action::Mark("m".repeat(limits::MARK_BYTES_MAX))) })),
            ..Default::default()
        };
        rig.apply_unchecked((0..100).map(|_| command(mark())).collect());
        rig.pass_to(rig.now_ms + 1);
    }
    let (mut pages, mut marks, mut after) = (0, 0, before);
    loop {
        let page = rig.machine.events_after(after, usize::MAX).unwrap();
        let Some(last) = page.last() else { break };
        let largest = 100 * (limits::MARK_BYTES_MAX + 200);
        let bytes: usize = page.iter().map(Message::encoded_len).sum();
        assert!(bytes <= limits::EVENT_PAGE_BYTES + largest, "{bytes}");
        assert!(last.revision > after, "whole revisions, and at least one");
        after = last.revision;
        marks += page.iter().filter(|event| event.kind() == EventKind::TimerFired).count();
        pages += 1;
    }
    assert!((3..=5).contains(&pages), "{pages}");
    assert_eq!(marks, 100 * entries, "nothing is left out");
}

#[test]
fn events_of_old_revisions_are_dropped_and_a_late_watcher_is_told() {
    let mut rig = Rig::new();
    rig.ok(enqueue(vec![spec("q"), spec("q")]));
    rig.ok(enqueue(vec![spec("q")]));
    let events = rig.machine.events_after(0, 1).unwrap();
    assert_eq!(events.iter().map(|e| (e.revision, e.ordinal)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
    assert_eq!(rig.machine.events_after(1, 10).unwrap().len(), 1);
    assert_eq!(rig.machine.events_after(u64::MAX, 10).unwrap().len(), 0);
    for index in 3..=limits::EVENT_REVISIONS_KEPT + 2 {
        rig.machine.note(index, None, &tarn_storage::Batch::new()).unwrap();
    }
    assert_eq!(rig.machine.oldest_revision(), 2);
    assert!(rig.machine.events_after(2, 10).unwrap().is_empty());
    for revision in [0, 1] {
        let Err(Refusal::Rejected(rejection)) = rig.machine.events_after(revision, 10) else { panic!("it is gone") };
        assert_eq!((rejection.reason.as_str(), rejection.limit), ("COMPACTED", 2));
    }
}

#[test]
fn one_lease_answer_fits_a_message() {
    let mut rig = Rig::new();
    let worker = register(&mut rig);
    for _ in 0..5 {
        let large = TaskSpec { payload: vec![7; limits::PAYLOAD_BYTES_MAX].into(), ..spec("q") };
        rig.ok(enqueue(vec![large]));
    }
    let answer = rig.ok(lease(&worker, 256));
    assert_eq!(answer.tasks.len(), 2);
    assert_eq!(answer.tasks[0].spec.as_ref().unwrap().payload.len(), limits::PAYLOAD_BYTES_MAX);
    assert_eq!(rig.ok(lease(&worker, 256)).tasks.len(), 2);
    assert_eq!(rig.ok(lease(&worker, 256)).tasks.len(), 1);
}

#[test]
fn a_worker_holds_only_so_many_tasks_and_loses_all_at_once() {
    let mut rig = Rig::new();
    let worker = register(&mut rig);
    for _ in 0..2 {
        rig.apply_unchecked(vec![command(enqueue(vec![spec("q"); 1_000]))]);
    }
    let mut held = 0;
    while held < limits::WORKER_TASKS_MAX {
        assert!(rig.machine.has_ready_task_for(&worker));
        held += rig.ok(lease(&worker, 200)).tasks.len();
    }
    assert_eq!(held, limits::WORKER_TASKS_MAX);
    assert!(!rig.machine.has_ready_task_for(&worker), "it has no room");
    assert_eq!(rig.refused(lease(&worker, 1)), "WORKER_FULL");
    rig.pass_to(rig.now_ms + 3_600_000);
    let now = stats(&rig, "q");
    assert_eq!((now.running, now.ready + now.delayed), (0, 2_000));
}

#[test]
fn queues_classes_and_batches_have_limits() {
    let mut rig = Rig::new();
    assert_eq!(rig.refused(enqueue(vec![spec("q"); 1_001])), "TOO_MANY_TASKS");
    let tpu = |n: usize| TaskSpec { requires: vec![format!("label-{n}")], ..spec("q") };
    rig.ok(enqueue((0..limits::CLASSES_MAX).map(tpu).collect()));
    assert_eq!(rig.refused(enqueue(vec![tpu(999)])), "TOO_MANY_CLASSES");
    rig.ok(enqueue(vec![tpu(0)]));
    let other = |n: usize| spec(&format!("q{n}"));
    rig.ok(enqueue((0..1_000).map(other).collect()));
    let refused = enqueue((1_000..1_100).map(other).collect());
    assert_eq!(rig.refused(refused), "TOO_MANY_QUEUES");
    let many = TaskSpec { requires: vec!["x".into(); 17], ..spec("q") };
    assert_eq!(rig.refused(enqueue(vec![many])), "TOO_MANY_LABELS");
    let id = tarn_machine::ids::Id(1 << 20 | 1).to_string();
    let many = TaskSpec { after: vec![id.clone(); 257], ..spec("q") };
    assert_eq!(rig.refused(enqueue(vec![many])), "TOO_MANY_DEPENDENCIES");
    let some = TaskSpec { after: vec![id; 200], ..spec("q") };
    assert_eq!(rig.refused(enqueue(vec![some; 100])), "TOO_MANY_DEPENDENCIES");
    let large = TaskSpec { payload: vec![7; limits::PAYLOAD_BYTES_MAX].into(), ..spec("q") };
    assert_eq!(rig.refused(enqueue(vec![large; 5])), "COMMAND_TOO_LARGE");
    let leases = vec![TaskLease { task_id: "0000000000zzz".into(), ..Default::default() }; 257];
    let request = HeartbeatTasksRequest { worker_id: "0000000000zzz".into(), leases, lease_ms: 0 };
    assert_eq!(rig.refused(request), "TOO_MANY_LEASES");
    let labels = WorkerCapabilities { labels: vec!["x".into(); 65], ..Default::default() };
    let request = RegisterWorkerRequest { capabilities: Some(labels), ..Default::default() };
    assert_eq!(rig.refused(request), "TOO_MANY_CAPABILITIES");
    let request = RequeueDeadRequest {
        namespace: "default".into(),
        queue: "q".into(),
        task_ids: vec!["0000000000zzz".into(); 1_001],
        ..Default::default()
    };
    assert_eq!(rig.refused(request), "TOO_MANY_TASKS");
    let command = Command { principal: "x".repeat(257), gate: None, body: Some(command::Body::DeleteNamespace(Default::default())) };
    assert_eq!(tarn_machine::check::validate(&command).unwrap_err().reason, "PRINCIPAL_TOO_LONG");
    assert_eq!(tarn_machine::check::validate(&Command::default()).unwrap_err().reason, "NO_COMMAND");
}

#[test]
fn only_the_last_attempts_and_their_logs_are_kept() {
    let mut rig = Rig::new();
    let worker = register(&mut rig);
    let retry = RetryPolicy { max_attempts: 100, max_backoff_ms: 1, no_jitter: true, ..Default::default() };
    let task_id = rig.ok(enqueue(vec![TaskSpec { retry: Some(retry), ..spec("q") }])).task_ids.remove(0);
    for attempt in 1..=40u32 {
        rig.pass_to(rig.now_ms + 1);
        let leased = rig.ok(lease(&worker, 1)).tasks.remove(0);
        assert_eq!(leased.attempt, attempt);
        // Every third attempt leaves no log.
        let logs = if attempt % 3 == 0 { vec![] } else { format!("attempt {attempt}").into_bytes() };
        rig.ok(FailTaskRequest {
            namespace: "default".into(),
            task_id: task_id.clone(),
            token: leased.token,
            logs: logs.into(),
            ..Default::default()
        });
    }
    let request = GetTaskRequest { namespace: "default".into(), task_id: task_id.clone(), ..Default::default() };
    let task = rig.machine.get_task(&request).unwrap().task.unwrap();
    assert_eq!(task.attempts.iter().map(|a| a.number).collect::<Vec<_>>(), (25..=40).collect::<Vec<_>>());
    let request = GetTaskLogsRequest { namespace: "default".into(), task_id };
    let logs = rig.machine.task_logs(&request).unwrap().logs;
    let expected: Vec<u32> = (25..=40).filter(|n| n % 3 != 0).collect();
    assert_eq!(logs.iter().map(|log| log.attempt).collect::<Vec<_>>(), expected);
}

#[test]
fn a_timer_that_finds_no_room_for_its_task_tries_again() {
    let mut rig = Rig::new();
    let class = |n: usize| TaskSpec { requires: vec![format!("label-{n}")], ..spec("q") };
    let ids = rig.ok(enqueue((0..limits::CLASSES_MAX).map(class).collect())).task_ids;
    let action = Box::new(TimerAction { action: Some(timer_action::Action::Enqueue(class(999))) });
    let timer_id =
        rig.ok(ScheduleTimerRequest { namespace: "default".into(), delay_ms: 1_000, action: Some(action), ..Default::default() }).timer_id;
    let timer = |rig: &Rig| {
        let request = GetTimerRequest { namespace: "default".into(), timer_id: timer_id.clone() };
        rig.machine.get_timer(&request).unwrap().timer.unwrap()
    };
    assert!(rig.pass_to(4_500).is_empty());
    assert_eq!(timer(&rig).state(), TimerState::Pending);
    rig.restart();
    rig.ok(CancelTaskRequest { namespace: "default".into(), task_id: ids[0].clone(), ..Default::default() });
    let events = rig.pass_to(4_500 + limits::TIMER_RETRY_MS);
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, [EventKind::TaskEnqueued, EventKind::TimerFired]);
    assert_eq!(timer(&rig).state(), TimerState::Fired);
    assert!(rig.pass_to(60_000).is_empty(), "it fires once");
}
