//! Stories of many situations: each must say what it is, and what would end it.

use tarn_proto::v1::{
    Attempt, Decision, DecisionKind, Dependency, GateFacts, PolicyVersion, RetryPolicy, Scores, Sentence, Share, Task, TaskError, TaskSpec,
    TaskState, TaskStory, Violation, Waiting,
};

use super::{Level, request, task};

const NOW: u64 = 1_763_700_000_000;

fn story(state: TaskState) -> TaskStory {
    let spec = TaskSpec { queue: "mail".into(), ..TaskSpec::default() };
    let task = Task {
        namespace: "default".into(),
        task_id: "00000002w0001".into(),
        spec: Some(spec),
        state: state.into(),
        created_at_ms: NOW - 400_000,
        eligible_at_ms: NOW - 302_000,
        ..Task::default()
    };
    TaskStory { task: Some(task), now_ms: NOW, revision: 99, ..TaskStory::default() }
}

fn waiting(state: TaskState, waiting: Waiting) -> TaskStory {
    TaskStory { waiting: Some(waiting), ..story(state) }
}

fn attempt(number: u32, error: Option<&str>) -> Attempt {
    Attempt {
        number,
        worker: "0000000010001".into(),
        token: 7,
        started_at_ms: NOW - 60_000,
        ended_at_ms: error.map_or(0, |_| NOW - 57_000),
        error: error.map(|reason| TaskError { reason: reason.into(), message: "the disk was full.".into() }),
    }
}

fn decision(kind: DecisionKind) -> Decision {
    Decision {
        index: 40,
        at_ms: NOW - 60_000,
        kind: kind.into(),
        namespace: "default".into(),
        task_id: "00000002w0001".into(),
        ..Decision::default()
    }
}

fn texts(sentences: &[Sentence]) -> String {
    sentences.iter().map(|sentence| sentence.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// What the levels say, each as one text.
fn told(story: &TaskStory) -> [String; 4] {
    [Level::Brief, Level::Detailed, Level::Technical, Level::Audit].map(|level| texts(&task(story, level)))
}

/// Says these things, from this level on and not below.
fn says(story: &TaskStory, from: Level, wanted: &[&str]) {
    let told = told(story);
    for (level, text) in [Level::Brief, Level::Detailed, Level::Technical, Level::Audit].into_iter().zip(&told) {
        for wanted in wanted {
            let there = text.contains(wanted);
            assert_eq!(there, level >= from, "{wanted:?} at {level:?} in:\n{text}");
        }
    }
}

#[test]
fn no_worker_at_all() {
    let story = waiting(TaskState::Ready, Waiting::default());
    says(
        &story,
        Level::Brief,
        &[
            "has been waiting for a worker for 5 min 2 s.",
            "No worker is registered.",
            "Start a worker that serves queue mail of namespace default.",
        ],
    );
}

#[test]
fn no_worker_with_the_label_or_the_runtime() {
    let story =
        waiting(TaskState::Ready, Waiting { workers: 3, missing: vec!["runtime wasm".into(), "label gpu".into()], ..Waiting::default() });
    says(
        &story,
        Level::Brief,
        &["Of 3 registered workers, none can run it: there is none with runtime wasm and label gpu.", "Start a worker that has it all"],
    );
}

#[test]
fn each_thing_is_had_by_some_worker_and_no_one_has_all() {
    let mut story = waiting(TaskState::Ready, Waiting { workers: 2, ..Waiting::default() });
    let spec = story.task.as_mut().unwrap().spec.as_mut().unwrap();
    spec.runtime = "wasm".into();
    spec.requires = vec!["gpu".into(), "zone=a".into()];
    says(&story, Level::Brief, &["none has all that it requires", "runtime wasm, label gpu and label zone=a."]);
}

#[test]
fn workers_that_drain_or_are_full() {
    let story = waiting(TaskState::Ready, Waiting { workers: 2, able: 1, ..Waiting::default() });
    says(&story, Level::Brief, &["1 worker could run it, and none takes tasks now", "Start another worker like them"]);
}

#[test]
fn a_limit_of_the_namespace() {
    let story = waiting(
        TaskState::Ready,
        Waiting { workers: 1, able: 1, free: 1, limit_name: "max_running".into(), limit: 5, used: 5, ..Waiting::default() },
    );
    says(&story, Level::Brief, &["Namespace default has reached its limit max_running of 5: 5 are in use.", "raises the limit"]);
}

#[test]
fn competing_work_stands_before_it() {
    let share = |namespace: &str, pass| Share { namespace: namespace.into(), weight: 100, pass, ready: 4 };
    let story = waiting(
        TaskState::Ready,
        Waiting {
            workers: 2,
            able: 2,
            free: 2,
            ahead: 3,
            first_ahead: "0000000020001".into(),
            shares: vec![share("blue", 10), share("default", 20)],
            ..Waiting::default()
        },
    );
    says(&story, Level::Brief, &["3 tasks stand before it; 2 workers could take it.", "a higher priority"]);
    says(
        &story,
        Level::Detailed,
        &["Its priority is normal, and having waited it counts as critical.", "Before its namespace default, blue is served"],
    );
    says(
        &story,
        Level::Technical,
        &["The next of those before it is task 0000000020001.", "blue (weight 100, pass 10, 4 ready)", "This one stands at 20."],
    );
    let mut alone = story.clone();
    let waiting = alone.waiting.as_mut().unwrap();
    (waiting.ahead, waiting.free) = (0, 1);
    waiting.shares.remove(0);
    alone.task.as_mut().unwrap().eligible_at_ms = NOW - 10_000;
    says(&alone, Level::Brief, &["In its namespace nothing stands before it", "as soon as one of them asks for work"]);
    says(
        &alone,
        Level::Detailed,
        &["Its priority is normal; in 50.0 s it counts as high.", "Its namespace default is the next to be served."],
    );
    alone.waiting.as_mut().unwrap().ahead = 10_000;
    says(&alone, Level::Brief, &["At least 10000 tasks stand before it"]);
}

#[test]
fn dependencies() {
    let dependency = |id: &str, state: TaskState| Dependency { task_id: id.into(), state: state.into() };
    let story = waiting(
        TaskState::Blocked,
        Waiting { dependencies: vec![dependency("a", TaskState::Running), dependency("b", TaskState::Ready)], ..Waiting::default() },
    );
    says(&story, Level::Brief, &["It waits for 2 tasks: a (running) and b (waiting for a worker).", "It goes on when they have ended."]);
}

#[test]
fn backoff_and_a_time_that_the_submitter_named() {
    let mut story = waiting(TaskState::Delayed, Waiting { until_ms: NOW + 90_000, ..Waiting::default() });
    says(&story, Level::Brief, &["asked that it not start before 2025-11-21 04:41:30 UTC, in 1 min 30 s."]);
    story.task.as_mut().unwrap().attempts = vec![attempt(2, Some("BROKEN"))];
    says(
        &story,
        Level::Brief,
        &["Attempt 2 failed: BROKEN (the disk was full). The next one is held back for another 1 min 30 s", "by itself"],
    );
}

#[test]
fn a_whole_life_from_submission_to_the_dead_letters_and_back() {
    let mut story = story(TaskState::Dead);
    {
        let task = story.task.as_mut().unwrap();
        task.attempts = vec![attempt(1, Some("BROKEN")), attempt(2, Some("BROKEN"))];
        task.ended_at_ms = NOW - 1_000;
        task.error = task.attempts[1].error.clone();
        task.spec.as_mut().unwrap().retry = Some(RetryPolicy { max_attempts: 2, ..RetryPolicy::default() });
    }
    story.workers.insert("0000000010001".into(), "node-1/wasm".into());
    let leased = |number, namespaces| Decision {
        attempt: number,
        worker: "0000000010001".into(),
        scores: Some(Scores { priority: 3, level: 2, waited_ms: 61_000, pass: 500, weight: 100, namespaces }),
        ..decision(DecisionKind::Leased)
    };
    story.decisions = vec![
        Decision {
            principal: "user/ada".into(),
            action: "Enqueue".into(),
            resource: "queue/mail".into(),
            count: 3,
            gate: Some(GateFacts {
                trace: "5f".into(),
                method: "certificate".into(),
                node: 2,
                environment: "prod".into(),
                policies: vec![PolicyVersion { name: "limits".into(), version: "1.2.0".into() }],
                warnings: vec!["a large payload.".into()],
                ..GateFacts::default()
            }),
            ..decision(DecisionKind::Admitted)
        },
        leased(1, 1),
        Decision { attempt: 1, reason: "BROKEN".into(), delay_ms: 1_014, ..decision(DecisionKind::Retried) },
        leased(2, 3),
        Decision { attempt: 2, reason: "BROKEN".into(), ..decision(DecisionKind::Dead) },
    ];
    says(
        &story,
        Level::Brief,
        &["The task died at 2025-11-21 04:39:59 UTC: BROKEN (the disk was full).", "tarn queue requeue mail 00000002w0001"],
    );
    says(
        &story,
        Level::Detailed,
        &[
            "user/ada submitted it to queue/mail, with 2 others in the same request.",
            "Policy limits 1.2.0 of environment prod let it through.",
            "Policy noted: a large payload.",
            "Attempt 1 began on worker node-1/wasm (0000000010001).",
            "Attempt 1 failed after 3.0 s: BROKEN (the disk was full). Another was to follow after 1.0 s: its retry policy allows 2 attempts.",
            "It died when attempt 2 failed: BROKEN (the disk was full). All 2 attempts that its retry policy allows were used.",
        ],
    );
    says(
        &story,
        Level::Technical,
        &[
            "no other namespace had a task for this worker",
            "of 3 namespaces with a task for this worker, default had the lowest pass, 500 at weight 100",
            "priority normal, which counted as high after 1 min 1 s.",
            "User/ada proved who it was by certificate; the gate was that of node 2; its log has more under trace 5f.",
        ],
    );
    says(&story, Level::Audit, &["Record 40.0 of 2025-11-21 04:39:00 UTC: ADMITTED, by user/ada, action Enqueue, of queue/mail"]);

    story.decisions.push(Decision {
        principal: "user/ops".into(),
        action: "RequeueDead".into(),
        resource: "queue/mail".into(),
        ..decision(DecisionKind::Admitted)
    });
    story.decisions.push(decision(DecisionKind::Requeued));
    says(&story, Level::Detailed, &["user/ops put it back from the dead letters of queue/mail."]);
}

#[test]
fn why_it_died() {
    for (reason, attempt, sentence) in [
        ("DEADLINE_EXCEEDED", 0, "It died because it had not finished by its deadline."),
        ("DEPENDENCY_FAILED", 0, "It died because a task that it depends on died"),
        ("NO_SUCH_FILE", 1, "Its worker said that no further attempt could succeed."),
        ("ODD", 0, "It died: ODD."),
    ] {
        let mut story = story(TaskState::Dead);
        story.decisions = vec![Decision { attempt, reason: reason.into(), ..decision(DecisionKind::Dead) }];
        says(&story, Level::Detailed, &[sentence]);
    }
}

#[test]
fn who_cancelled_and_who_came_too_late() {
    let mut story = story(TaskState::Cancelled);
    story.task.as_mut().unwrap().ended_at_ms = NOW;
    story.decisions = vec![
        Decision { principal: "user/bob".into(), action: "CancelTask".into(), ..decision(DecisionKind::Admitted) },
        decision(DecisionKind::Cancelled),
        Decision {
            principal: "user/robot".into(),
            action: "CompleteTask".into(),
            reason: "STALE_TOKEN".into(),
            step: "kernel".into(),
            ..decision(DecisionKind::Refused)
        },
    ];
    says(&story, Level::Brief, &["The task was cancelled at"]);
    says(
        &story,
        Level::Detailed,
        &["user/bob asked to cancel it.", "user/robot was refused CompleteTask by the cluster's state: STALE_TOKEN."],
    );
}

#[test]
fn running_and_succeeded() {
    let mut story = story(TaskState::Running);
    {
        let task = story.task.as_mut().unwrap();
        task.attempts = vec![attempt(1, None)];
        task.lease_expires_at_ms = NOW + 30_000;
        task.cancel_requested = true;
    }
    says(&story, Level::Brief, &["running: attempt 1, for 1 min 0 s now, on worker 0000000010001;", "may still finish first"]);
    says(&story, Level::Detailed, &["Attempt 1 began on worker 0000000010001."]);
    let task = story.task.as_mut().unwrap();
    task.set_state(TaskState::Succeeded);
    task.ended_at_ms = NOW;
    task.attempts[0].ended_at_ms = NOW;
    says(&story, Level::Brief, &["The task succeeded at 2025-11-21 04:40:00 UTC, on attempt 1, which ran for 1 min 0 s"]);
}

#[test]
fn what_is_not_recorded_is_said() {
    let story = TaskStory { decisions_incomplete: true, ..story(TaskState::Ready) };
    says(&story, Level::Detailed, &["How is not recorded: the record was dropped, or the cluster did not keep any yet."]);
    assert!(task(&TaskStory::default(), Level::Audit).is_empty());
}

#[test]
fn refused_requests_and_what_would_let_them_through() {
    let refused = |step: &str, reason: &str| Decision {
        principal: "user/eve".into(),
        action: "CancelTask".into(),
        step: step.into(),
        reason: reason.into(),
        count: 3,
        gate: Some(GateFacts {
            environment: "prod".into(),
            rule: if step == "policy" { "data.tarn.deny".into() } else { String::new() },
            policies: if step == "policy" { vec![PolicyVersion { name: "limits".into(), version: "2.0.0".into() }] } else { Vec::new() },
            ..GateFacts::default()
        }),
        ..decision(DecisionKind::Refused)
    };
    for (step, reason, wanted) in [
        ("role", "PERMISSION_DENIED", "tarn role bind user/eve ROLE"),
        ("identity", "TOKEN_EXPIRED", "Check the certificate or token"),
        ("validation", "INVALID_NAME", "correct the field"),
        ("policy", "POLICY_DENIED", "so that the rule data.tarn.deny allows it"),
        ("quota", "QUOTA_REQUESTS", "Ask again a little later"),
        ("kernel", "STALE_TOKEN", "the lease had passed to somebody else"),
        ("kernel", "QUOTA_TASKS", "tarn namespace usage"),
    ] {
        let text = texts(&request("r1", &[refused(step, reason)], &[], Level::Brief));
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains("user/eve asked for CancelTask of task/00000002w0001 in namespace default"), "{text}");
        assert!(text.contains("was refused 3 times") && text.contains(reason), "{text}");
    }
    let objection = Violation {
        policy: "limits".into(),
        version: "2.0.0".into(),
        code: "NO_GPU".into(),
        message: "no GPU\nat night.".into(),
        blocking: true,
        ..Violation::default()
    };
    let text = texts(&request("r1", &[refused("policy", "POLICY_DENIED")], &[objection], Level::Detailed));
    assert!(text.contains("Policy limits 2.0.0 of environment prod refused it, by the rule data.tarn.deny."), "{text}");
    assert!(text.contains("Policy limits 2.0.0 said: no GPU\\nat night (NO_GPU)."), "{text}");
    let everywhere = Decision { namespace: "*".into(), ..refused("role", "PERMISSION_DENIED") };
    let text = texts(&request("r1", &[everywhere], &[], Level::Brief));
    assert!(text.contains("in the whole cluster") && text.contains("ROLE --in '*'`"), "{text}");
    let text = texts(&request("r1", &[], &[], Level::Brief));
    assert!(text.starts_with("No record names r1."), "{text}");
    let admitted = Decision {
        principal: "user/ada".into(),
        action: "Enqueue".into(),
        resource: "queue/mail".into(),
        count: 2,
        ..decision(DecisionKind::Admitted)
    };
    let text = texts(&request("r1", &[admitted], &[], Level::Detailed));
    assert!(text.contains("it was let through and carried out.") && text.contains("2 tasks, whose ids follow"), "{text}");
}

#[test]
fn every_sentence_is_one() {
    let mut story = waiting(TaskState::Ready, Waiting::default());
    story.decisions = [
        DecisionKind::Admitted,
        DecisionKind::Refused,
        DecisionKind::Leased,
        DecisionKind::Retried,
        DecisionKind::Returned,
        DecisionKind::Requeued,
        DecisionKind::Dead,
        DecisionKind::Cancelled,
        DecisionKind::Worker,
        DecisionKind::Members,
        DecisionKind::Unspecified,
    ]
    .map(|kind| Decision { reason: "BROKEN".into(), ..decision(kind) })
    .to_vec();
    for sentence in task(&story, Level::Audit) {
        assert!(sentence.text.ends_with(['.', '`']), "{sentence:?}");
        assert!(!sentence.text.contains("  ") && !sentence.topic.is_empty(), "{sentence:?}");
    }
}
