//! Valid commands about tasks of other clusters, and what is refused of them without the state.

use bytes::Bytes;
use tarn_machine::{check, limits};
use tarn_proto::v1::command::Body as B;
use tarn_proto::v1::*;

/// One of every kind.
pub fn bodies(task: &str) -> Vec<B> {
    let id = || "north/0000000000001/7".to_owned();
    vec![
        B::AcceptTransfer(AcceptTransfer { transfer: Some(Box::new(transfer(task))), hold_until_ms: 60_000 }),
        B::ConfirmTransfer(ConfirmTransfer { transfer_id: id(), run_until_ms: 90_000 }),
        B::ExtendTransfer(ExtendTransfer { transfer_id: id(), run_until_ms: 120_000 }),
        B::CloseTransfer(CloseTransfer { transfer_id: id() }),
    ]
}

fn transfer(task: &str) -> Transfer {
    Transfer {
        transfer_id: "north/0000000000001/7".to_owned(),
        origin_cluster: vec![3; limits::CLUSTER_ID_BYTES].into(),
        origin_name: "north".to_owned(),
        namespace: "default".to_owned(),
        origin_task_id: task.to_owned(),
        origin_token: 7,
        spec: Some(TaskSpec { queue: "q".to_owned(), payload: "payload".into(), ..TaskSpec::default() }),
    }
}

#[test]
fn each_wrong_word_of_a_transfer_is_named() {
    let id = "0000000000001";
    let spec = || TaskSpec { queue: "q".to_owned(), ..TaskSpec::default() };
    let refused = |change: &dyn Fn(&mut Transfer)| {
        let mut transfer = transfer(id);
        change(&mut transfer);
        let body = Some(B::AcceptTransfer(AcceptTransfer { transfer: Some(Box::new(transfer)), hold_until_ms: 60_000 }));
        let rejection = check::validate(&Command { body, ..Command::default() }).expect_err("it is refused");
        format!("{} {}", rejection.reason, rejection.field)
    };
    let long = "x".repeat(limits::TRANSFER_ID_BYTES_MAX + 1);
    for bad in ["", " ", "a b", "\n", "ü", "a\0", &long] {
        assert_eq!(refused(&|t| t.transfer_id = bad.to_owned()), "INVALID_TRANSFER_ID transfer_id", "{bad:?}");
    }
    for size in [0, 15, 17] {
        assert_eq!(refused(&|t| t.origin_cluster = vec![1; size].into()), "INVALID_LENGTH transfer.origin_cluster");
    }
    assert_eq!(refused(&|t| t.origin_name = "North".to_owned()), "INVALID_NAME transfer.origin_name");
    assert_eq!(refused(&|t| t.namespace.clear()), "INVALID_NAME transfer.namespace");
    assert_eq!(refused(&|t| t.origin_task_id = "7".to_owned()), "INVALID_ID transfer.origin_task_id");
    assert_eq!(refused(&|t| t.origin_token = 0), "NO_TOKEN token");
    assert_eq!(refused(&|t| t.spec = None), "NO_TASKS transfer.spec");
    assert_eq!(refused(&|t| t.spec = Some(TaskSpec { after: vec![id.to_owned()], ..spec() })), "TRANSFER_DEPENDS transfer.spec.after");
    assert_eq!(refused(&|t| t.spec = Some(TaskSpec { after_in_batch: vec![0], ..spec() })), "TRANSFER_DEPENDS transfer.spec.after");
    assert_eq!(refused(&|t| t.spec = Some(TaskSpec { runtime: "auto".to_owned(), ..spec() })), "NOTHING_TO_RUN tasks.runtime");
    let payload = Bytes::from(vec![0; limits::PAYLOAD_BYTES_MAX + 1]);
    assert_eq!(refused(&|t| t.spec = Some(TaskSpec { payload: payload.clone(), ..spec() })), "PAYLOAD_TOO_LARGE tasks.payload");
    for at in [0, u64::MAX] {
        for body in [
            B::AcceptTransfer(AcceptTransfer { transfer: Some(Box::new(transfer(id))), hold_until_ms: at }),
            B::ConfirmTransfer(ConfirmTransfer { transfer_id: "t".to_owned(), run_until_ms: at }),
            B::ExtendTransfer(ExtendTransfer { transfer_id: "t".to_owned(), run_until_ms: at }),
        ] {
            let rejection = check::validate(&Command { body: Some(body), ..Command::default() }).unwrap_err();
            assert_eq!(rejection.reason, "OUT_OF_RANGE");
        }
    }
}

#[test]
fn what_names_other_clusters_is_known_from_version_5_on() {
    let placement = Some(Placement { any_cluster: true, ..Placement::default() });
    let wasm = Some(WasmSpec { artifact: "a".to_owned(), ..WasmSpec::default() });
    let spec = TaskSpec { queue: "q".to_owned(), runtime: "auto".to_owned(), wasm, placement, ..TaskSpec::default() };
    let resources = || Some(WorkerResources { node: "n".to_owned(), slots: 1, cluster: "south".to_owned(), ..WorkerResources::default() });
    let action = Some(Box::new(TimerAction { action: Some(timer_action::Action::Enqueue(spec.clone())) }));
    let events = vec![EventKind::TransferEnded.into()];
    for body in [
        B::Enqueue(EnqueueRequest { tasks: vec![spec.clone()], ..Default::default() }),
        B::ScheduleTimer(ScheduleTimerRequest { action, ..Default::default() }),
        B::AdvanceDriver(AdvanceDriver { tasks: vec![spec], ..Default::default() }),
        B::RegisterWorker(RegisterWorkerRequest {
            capabilities: Some(WorkerCapabilities { resources: resources(), ..Default::default() }),
            ..Default::default()
        }),
        B::HeartbeatWorker(HeartbeatWorkerRequest { resources: resources(), ..Default::default() }),
        B::InstallDriver(InstallDriverRequest { spec: Some(DriverSpec { events, ..Default::default() }), ..Default::default() }),
        B::CloseTransfer(CloseTransfer::default()),
    ] {
        let command = Command { body: Some(body), ..Command::default() };
        assert_eq!(check::supported(&command, 4).unwrap_err().reason, "CLUSTER_VERSION_TOO_LOW", "{command:?}");
        check::supported(&command, 5).expect("a cluster of version 5 knows it");
    }
}
