//! Every limit of the kernel, in one place, each with its reason.
//!
//! Limits on what one command may carry are checked before the log by [`crate::check::validate`] and again by `apply`. Limits on what the
//! state may hold need the state, so only `apply` checks them. Changing any of these changes what replicas decide: it takes a new machine
//! version, or the replicas of a rolling upgrade would disagree.

/// Latest time that a client may name and that the machine's clock can reach: the end of the year 9999. Far from the end of 64 bits, so
/// that no sum of a time and a duration can overflow.
pub const TIME_MS_MAX: u64 = 253_402_300_799_999;

// --- One command -----------------------------------------------------------------------------------------------------------------------

/// Encoded size of one command. Room for a payload of the largest size with a full specification around it; small enough that a log entry
/// with several of them still travels in one message.
pub const COMMAND_BYTES_MAX: usize = 4 << 20;
/// A request id. UUIDs and hashes fit, documents do not.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Who asked.
pub const PRINCIPAL_BYTES_MAX: usize = 256;
/// Names of namespaces, queues, named leases and runtimes: one label of a host name.
pub const NAME_BYTES_MAX: usize = 64;
/// Commands in one batch. Those that enqueue may have [`BATCH_TASKS_MAX`] tasks and [`BATCH_DEPENDENCIES_MAX`] dependencies together.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Tasks in one enqueue, dead letters in one requeue, tasks in one purge: what one command may change, so that no command holds up an
/// entry for longer than some milliseconds.
pub const BATCH_TASKS_MAX: usize = 1_000;
/// Input of a task and its result. Larger values are artifacts.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// What one attempt leaves in its log.
pub const LOGS_BYTES_MAX: usize = 64 << 10;
/// A task's specification without its payload: it is read on every lease.
pub const SPEC_BYTES_MAX: usize = 64 << 10;
/// A handler's name, a label, a runtime's export.
pub const LABEL_BYTES_MAX: usize = 128;
/// Labels that a task may require. They are part of the class that leasing compares.
pub const REQUIRES_MAX: usize = 16;
/// Tasks that one task may wait for. Wider fan-in is a tree, as any reduction is.
pub const DEPENDENCIES_MAX: usize = 256;
/// Dependencies in one enqueue together: each is looked up.
pub const BATCH_DEPENDENCIES_MAX: usize = 16_384;
/// A failure's reason and its message.
pub const REASON_BYTES_MAX: usize = 64;
/// A failure's sentence. Longer explanations belong in the logs.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// What a running attempt says of its progress: a line on a screen.
pub const PROGRESS_BYTES_MAX: usize = 256;
/// Attempts of one task.
pub const ATTEMPTS_MAX: u32 = 100;
/// Longest back-off: a week. Whoever wants to wait longer schedules a timer.
pub const BACKOFF_MS_MAX: u64 = 7 * DAY_MS;
/// Longest attempt: a week.
pub const ATTEMPT_TIMEOUT_MS_MAX: u64 = 7 * DAY_MS;
/// Longest retention of an ended task: 30 days. The cluster is no archive.
pub const RETENTION_MS_MAX: u64 = 30 * DAY_MS;
/// Shortest and longest lease on a task. Below a second, heartbeats would outnumber work.
pub const TASK_LEASE_MS: (u64, u64) = (1_000, HOUR_MS);
/// Tasks in one lease command, and leases in one heartbeat.
pub const LEASE_TASKS_MAX: u32 = 256;
/// Specifications and payloads handed out by one lease command, in bytes; the first task always fits. Keeps the answer within one message.
pub const LEASE_BYTES_MAX: u64 = 3 << 20;
/// Shortest and longest registration of a worker.
pub const WORKER_TTL_MS: (u64, u64) = (1_000, HOUR_MS);
/// What a worker calls itself.
pub const WORKER_NAME_BYTES_MAX: usize = 256;
/// Entries in each list of a worker's capabilities. They are compared on every lease.
pub const CAPABILITIES_MAX: usize = 64;
/// A named lease's holder.
pub const HOLDER_BYTES_MAX: usize = 256;
/// Shortest and longest named lease: up to a day without renewal.
pub const NAMED_LEASE_MS: (u64, u64) = (1_000, DAY_MS);
/// A timer's delay: ten years. Longer ones are said as a time.
pub const DELAY_MS_MAX: u64 = 3_650 * DAY_MS;
/// The text of a timer's mark.
pub const MARK_BYTES_MAX: usize = 4 << 10;
/// A namespace's weight.
pub const WEIGHT_MAX: u32 = 1_000;
/// Shortest and longest life of a join token.
pub const JOIN_TOKEN_MS: (u64, u64) = (1_000, DAY_MS);
/// Rules in one role or one token's scopes.
pub const RULES_MAX: usize = 64;
/// Verbs or resources in one rule.
pub const PATTERNS_MAX: usize = 64;
/// A pattern of verbs, resources or namespaces: a kind, a slash and a name.
pub const PATTERN_BYTES_MAX: usize = 192;
/// All rules of a role, encoded: with as many roles as there may be, 16 MiB of memory on every node.
pub const ROLE_BYTES_MAX: usize = 16 << 10;
/// All scopes of a token, encoded. Of tokens there may be many: whoever needs more than this makes a role of it.
pub const SCOPES_BYTES_MAX: usize = 1 << 10;
/// Shortest and longest life of a token. None lives for ever.
pub const TOKEN_MS: (u64, u64) = (60_000, 3_650 * DAY_MS);
/// Why a certificate was revoked.
pub const REVOCATION_REASON_BYTES_MAX: usize = 256;
/// Serial number of a certificate: 20 bytes by RFC 5280, section 4.1.2.2, as hexadecimal digits, with room for a leading zero byte.
pub const SERIAL_BYTES_MAX: usize = 42;
/// One bundle of policies. A few hundred rules are tens of kilobytes; this leaves room for tables of data.
pub const BUNDLE_BYTES_MAX: usize = 1 << 20;
/// A signature of ML-DSA-65 (FIPS 204, table 2).
pub const SIGNATURE_BYTES: usize = 3_309;
/// A public key of ML-DSA-65 (FIPS 204, table 2).
pub const PUBLIC_KEY_BYTES: usize = 1_952;
/// Keys that may sign bundles. A signature is tried with each.
pub const POLICY_SIGNERS_MAX: usize = 16;
/// Where violations are sent.
pub const URL_BYTES_MAX: usize = 2_048;
/// Violations in one command: what a busy node's gate gathers in a moment.
pub const BATCH_VIOLATIONS_MAX: usize = 256;
/// What a policy says about a violation. With the largest batch it still fits into one message of events.
pub const VIOLATION_MESSAGE_BYTES_MAX: usize = 1 << 10;
/// A kind, a slash and a name: the longest name is a principal.
pub const RESOURCE_BYTES_MAX: usize = 320;
/// A driver's configuration, and what it saves: settings and a place to go on from, not a database. In memory on every node.
pub const DRIVER_CONFIG_BYTES_MAX: usize = 64 << 10;
/// What a driver saves, for the same reasons.
pub const DRIVER_STATE_BYTES_MAX: usize = 64 << 10;
/// Kinds of events in a subscription: more than there are.
pub const DRIVER_EVENTS_MAX: usize = 64;
/// Origins that a driver may reach.
pub const DRIVER_ORIGINS_MAX: usize = 16;
/// Tasks that one call of a driver enqueues.
pub const DRIVER_TASKS_MAX: usize = 256;
/// Linear memory of a driver: a node runs as many as there are side by side.
pub const DRIVER_MEMORY_BYTES: (u64, u64) = (1 << 20, 256 << 20);
/// Time of one call of a driver: long enough for a few requests over the network.
pub const DRIVER_CALL_MS: (u64, u64) = (10, 300_000);
/// Units of computation of one call of a driver.
pub const DRIVER_FUEL: (u64, u64) = (1, 1 << 50);
/// The policies' input that a command's record keeps. Larger ones are left out, and only their digest is kept.
pub const FACTS_BYTES_MAX: usize = 16 << 10;
/// Everything else that the gate says about a command.
pub const GATE_BYTES_MAX: usize = 8 << 10;
/// Refusals of the gate in one command.
pub const DECISIONS_MAX: usize = 256;
/// Traces of one record that stands for several requests.
pub const TRACES_MAX: usize = 16;
/// Any one text of a refusal's record.
pub const RECORD_TEXT_BYTES_MAX: usize = 512;
/// A key of a context: a path, not a document.
pub const KEY_BYTES_MAX: usize = 512;
/// A value in a context. Larger ones are artifacts.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// How long decisions are kept: from an hour to ten years.
pub const AUDIT_RETENTION_MS: (u64, u64) = (HOUR_MS, 3_650 * DAY_MS);
/// How many decisions are kept.
pub const AUDIT_RECORDS: (u64, u64) = (1_000, 1_000_000_000);
/// Bytes of all decisions that are kept.
pub const AUDIT_BYTES: (u64, u64) = (1 << 20, 1 << 40);
/// Runtimes, artifacts or labels that a task's placement names, each.
pub const PLACEMENT_ENTRIES_MAX: usize = 16;
/// Placements in one command.
pub const PLACEMENTS_MAX: usize = 256;
/// Why the router chose a worker.
pub const PLACEMENT_SCORES_BYTES_MAX: usize = 4 << 10;
/// Attempts that a worker runs at once, as the router takes it.
pub const WORKER_SLOTS_MAX: u64 = 65_536;
/// Devices of a worker.
pub const WORKER_DEVICES_MAX: usize = 64;
/// What a second costs, or is worth.
pub const COST_MAX: u64 = 1 << 40;
/// How much a part of a score counts.
pub const SCHEDULER_WEIGHT_MAX: u64 = 100;
/// How long a task holds out for a runtime, or a runtime is not relied on.
pub const SCHEDULER_TIME_MS_MAX: u64 = DAY_MS;

// --- Defaults --------------------------------------------------------------------------------------------------------------------------

/// Attempts where the retry policy says nothing.
pub const ATTEMPTS_DEFAULT: u32 = 5;
/// Delay after the first failed attempt.
pub const INITIAL_BACKOFF_MS_DEFAULT: u64 = 1_000;
/// Factor between delays, in percent, and the range that a policy may name.
pub const BACKOFF_PERCENT_DEFAULT: u32 = 200;
/// The range of [`BACKOFF_PERCENT_DEFAULT`]: delays never shrink, and grow by ten at most.
pub const BACKOFF_PERCENT: (u32, u32) = (100, 1_000);
/// Longest delay where the policy says nothing.
pub const BACKOFF_CAP_MS_DEFAULT: u64 = 60_000;
/// Jitter in percent where the policy says nothing.
pub const JITTER_PERCENT_DEFAULT: u32 = 20;
/// Time of one attempt.
pub const ATTEMPT_TIMEOUT_MS_DEFAULT: u64 = HOUR_MS;
/// Retention of an ended task and its result.
pub const RETENTION_MS_DEFAULT: u64 = DAY_MS;
/// Leases on tasks, named leases and registrations of workers.
pub const LEASE_MS_DEFAULT: u64 = 30_000;
/// A namespace's weight.
pub const WEIGHT_DEFAULT: u32 = 100;
/// A namespace's environment.
pub const ENVIRONMENT_DEFAULT: &str = "prod";
/// A join token's life.
pub const JOIN_TOKEN_MS_DEFAULT: u64 = HOUR_MS;
/// A token's life.
pub const TOKEN_MS_DEFAULT: u64 = 30 * DAY_MS;
/// How long a revocation is kept where the certificate's end is not told: as long as any root lives.
pub const REVOCATION_MS_DEFAULT: u64 = 3_650 * DAY_MS;
/// How long decisions are kept.
pub const AUDIT_RETENTION_MS_DEFAULT: u64 = 30 * DAY_MS;
/// How many decisions are kept.
pub const AUDIT_RECORDS_DEFAULT: u64 = 10_000_000;
/// Bytes of all decisions that are kept: they travel with every snapshot.
pub const AUDIT_BYTES_DEFAULT: u64 = 4 << 30;

// --- What the state may hold -----------------------------------------------------------------------------------------------------------

/// Namespaces in the cluster: the router looks through all, and a lease for a worker that serves only some queues may.
pub const NAMESPACES_MAX: usize = 1_024;
/// Queues in a namespace: all are looked through on every lease from it.
pub const QUEUES_MAX: usize = 1_024;
/// Different combinations of runtime, handler and required labels among a queue's tasks: a lease compares the head of each.
pub const CLASSES_MAX: usize = 64;
/// Tasks in one queue, dead letters included. Each costs some 100 bytes of memory on every node.
pub const QUEUE_TASKS_MAX: u64 = 1_000_000;
/// Unended and dead tasks that may depend on one task. Their release is spread over as many entries as it takes.
pub const DEPENDENTS_MAX: u32 = 10_000;
/// Dependencies of all unended tasks of a namespace together. Each costs some 40 bytes of memory on every node.
pub const NAMESPACE_EDGES_MAX: u64 = 1_000_000;
/// Registered workers.
pub const WORKERS_MAX: usize = 10_000;
/// Registered workers of one principal: nobody takes every place.
pub const WORKERS_OF_ONE_MAX: usize = WORKERS_MAX / 4;
/// Tasks that one worker may hold: all of them end in one step when it vanishes.
pub const WORKER_TASKS_MAX: usize = 1_024;
/// Named leases in a namespace. Each costs some 100 bytes of memory on every node.
pub const NAMED_LEASES_MAX: u64 = 100_000;
/// Pending timers in a namespace. Each costs some 40 bytes of memory on every node.
pub const TIMERS_MAX: u64 = 100_000;
/// Join tokens that have not expired.
pub const JOIN_TOKENS_MAX: usize = 1_000;
/// Roles beside the built-in ones. Each request looks at those of its principal.
pub const ROLES_MAX: usize = 1_000;
/// Bindings. Each costs some 100 bytes of memory on every node.
pub const BINDINGS_MAX: usize = 100_000;
/// Bindings of one principal: each request looks at all of them.
pub const BINDINGS_OF_ONE_MAX: usize = 256;
/// Tokens that have not expired. Each costs some 200 bytes of memory on every node.
pub const TOKENS_MAX: usize = 20_000;
/// Tokens that one principal made: nobody takes every place.
pub const TOKENS_OF_ONE_MAX: usize = 1_000;
/// Revoked certificates that have not expired.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Versions of one bundle.
pub const BUNDLE_VERSIONS_MAX: usize = 64;
/// Versions of all bundles.
pub const BUNDLES_MAX: usize = 512;
/// Bytes of all bundles together. They are read when a node starts, and the active ones stay in memory.
pub const BUNDLES_BYTES_MAX: u64 = 64 << 20;
/// Active bundles of one environment: each judges every command there.
pub const ACTIVE_BUNDLES_MAX: usize = 32;
/// Handlers of violations: each violation is compared with all of them.
pub const POLICY_HANDLERS_MAX: usize = 64;
/// Drivers: the leader's node runs all of them.
pub const DRIVERS_MAX: usize = 256;
/// Drivers of one namespace: no tenant takes every place.
pub const DRIVERS_OF_NAMESPACE_MAX: usize = 32;
/// Violations that are kept: the oldest go where there are more. Each costs some 50 bytes of memory on every node.
pub const VIOLATIONS_MAX: usize = 10_000;
/// Contexts in a namespace: their rows are read when a node starts.
pub const CONTEXTS_MAX: u64 = 100_000;
/// Keys with a value in one context: what a restore has to walk through in the background.
pub const CONTEXT_KEYS_MAX: u64 = 1_000_000;
/// Versions of a key that are kept beside those that snapshots hold. They are listed in the key's row, which every write writes.
pub const KEY_VERSIONS_KEPT: usize = 8;
/// Snapshots of one context: each may hold a version of every key, and its number stands in the context's row.
pub const SNAPSHOTS_MAX: usize = 64;
/// Entries with decisions about one task that its row remembers, beside those that its id and its attempts name.
pub const RECORDS_OF_TASK_KEPT: usize = 16;
/// Attempts of a task that are kept, with their logs.
pub const ATTEMPTS_KEPT: usize = 16;
/// Values up to this size live in the row that names them; larger ones in a row of their own, so that listing does not read them.
pub const INLINE_BYTES_MAX: usize = 1 << 10;
/// Entries whose events are kept. At a hundred entries per second that is ten minutes for a watcher to come back.
pub const EVENT_REVISIONS_KEPT: u64 = 65_536;

/// A page of events ends after the revision with which it reaches this size: several fit into one message, and one alone is bounded by the
/// commands of an entry.
pub const EVENT_PAGE_BYTES: usize = 4 << 20;

// --- Time ------------------------------------------------------------------------------------------------------------------------------

/// How long a request id is remembered: longer than any client repeats a call, short enough that the memory of a busy cluster stays small.
pub const REQUEST_RETENTION_MS: u64 = 600_000;
/// A task that waited this long counts as one priority higher, so that nothing starves: a background task competes with fresh critical ones
/// after four of these.
pub const AGE_STEP_MS: u64 = 60_000;
/// How long a fired timer is kept.
pub const FIRED_TIMER_KEPT_MS: u64 = DAY_MS;
/// How long a violation is kept.
pub const VIOLATION_KEPT_MS: u64 = 30 * DAY_MS;
/// A queue without tasks disappears when it was not used for this long, so that queues named after jobs do not pile up.
pub const QUEUE_IDLE_MS: u64 = DAY_MS;
/// How stale a queue's record of its last use may get: writing it on every enqueue would cost more than it is worth.
pub const QUEUE_TOUCH_MS: u64 = HOUR_MS;
/// A timer whose task is refused for want of room tries again after this long.
pub const TIMER_RETRY_MS: u64 = 1_000;
/// What whoever meets a quota is told to wait: tasks end all the time, what is stored goes more slowly.
pub const QUOTA_RETRY_MS: u64 = 1_000;
/// As [`QUOTA_RETRY_MS`], for the quota on stored bytes.
pub const QUOTA_STORED_RETRY_MS: u64 = 60_000;
/// Expired rows may lie for this long before time alone makes somebody remove them, so that rows are removed in groups.
pub const SWEEP_DELAY_MS: u64 = 1_000;
/// An ended task whose retention is over, but which another task still depends on, is looked at again after this long.
pub const SWEEP_POSTPONE_MS: u64 = HOUR_MS;

// --- What one entry may do besides its commands ----------------------------------------------------------------------------------------

/// Due times handled by one entry. The rest waits for the next, so that a jump of the clock cannot hold up the log.
pub const WAKES_PER_ENTRY_MAX: usize = 1_024;
/// Expired rows removed by one entry, per kind.
pub const SWEEPS_PER_ENTRY_MAX: usize = 1_024;
/// Rows of decisions dropped by one entry: several times what it writes.
pub const DECISION_ROWS_DROPPED_MAX: usize = 16;
/// Dependencies settled by one entry.
pub const SETTLES_PER_ENTRY_MAX: usize = 4_096;
/// Ids that one entry can give out: they are counted in this many low bits.
pub const ORDINAL_BITS: u32 = 20;
/// Ids that one command or one wake takes at most. Where fewer are left in an entry, its commands are refused and can be repeated.
pub const COMMAND_ORDINALS_MAX: u64 = 2_048;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

const _: () = assert!(2 * BATCH_TASKS_MAX as u64 <= COMMAND_ORDINALS_MAX && LEASE_TASKS_MAX as u64 <= COMMAND_ORDINALS_MAX);

// --- Federation ------------------------------------------------------------------------------------------------------------------------

/// An id of a cluster in a federation.
pub const CLUSTER_ID_BYTES: usize = 16;
/// A root certificate in PEM: one with an ML-DSA-65 key and signature has about 7,500 bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 32 << 10;
/// Gateways of one cluster.
pub const GATEWAYS_MAX: usize = 64;
/// A key of the shared document.
pub const SHARED_KEY_BYTES_MAX: usize = 1_024;
/// A value in the shared document: each lies in every cluster, and in a change set. Larger ones are artifacts.
pub const SHARED_VALUE_BYTES_MAX: usize = 64 << 10;
/// Keys that one command writes to the shared document.
pub const SHARED_WRITES_MAX: usize = 64;
/// Sections of the shared document that belong to no cluster: who may write them is decided by who let it in.
pub const SHARED_SECTIONS: [&str; 3] = ["agent", "context", "policy"];
/// Bytes that a cluster may write before its copy of the document says more: see the room's own bounds.
pub const SHARED_ROOM_BYTES: u64 = 8 << 20;
/// Bytes of writes that wait to be signed. When full, writes to shared sections are refused.
pub const OUTBOX_BYTES_MAX: u64 = 64 << 20;
/// Writes that wait to be signed: some ten megabytes of memory on every node. They are only that many when no leader's node has signed for
/// long, or a large context has just been shared.
pub const OUTBOX_MAX: usize = 100_000;
/// Keys of a context that has just been shared which go into the outbox with one entry: each brings its value with it.
pub const SHARES_PER_ENTRY_MAX: usize = 64;
/// Rows and entries of one piece of a commit of the document's copy. Each entry may need ids, of which a log entry has a million.
pub const REPLICA_ROWS_MAX: usize = 20_000;
/// Bytes of these, below what one command may have.
pub const REPLICA_COMMIT_BYTES_MAX: usize = 3 << 20;
/// Pieces of one commit: what was written while a cluster was cut off for long comes in one, and what a new member is given.
pub const COMMIT_PIECES_MAX: u32 = 100;
/// The key of such a row: a key of the document, and what tells kinds of rows apart.
pub const REPLICA_KEY_BYTES_MAX: usize = SHARED_KEY_BYTES_MAX + 64;
/// Invitations that have not expired.
pub const INVITATIONS_MAX: usize = 1_000;
/// Shortest and longest life of an invitation.
pub const INVITATION_MS: (u64, u64) = (1_000, 30 * DAY_MS);
/// An invitation's life.
pub const INVITATION_MS_DEFAULT: u64 = HOUR_MS;
/// A transfer's id: made of a cluster's, a task's and a token.
pub const TRANSFER_ID_BYTES_MAX: usize = 128;
/// How long a transfer is held until it is confirmed: the other cluster waits for it with a lease in its hand.
pub const TRANSFER_HOLD_MS_MAX: u64 = HOUR_MS;
/// Transfers that are not closed, and closed ones that are remembered. Each costs some 200 bytes of memory on every node.
pub const TRANSFERS_MAX: u64 = 100_000;
/// Specifications of transfers that are held: they are read when a node starts.
pub const TRANSFERS_HELD_BYTES_MAX: u64 = 256 << 20;
