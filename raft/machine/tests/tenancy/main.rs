//! Tenancy: quotas hold exactly, what is counted is what is there, a namespace that drains leaves nothing behind, and isolation is kept.

#[path = "../support/mod.rs"]
mod support;

mod books;
mod drain;
mod isolation;
mod quotas;
mod upgrade;

use support::{Rig, spec};
use tarn_proto::v1::*;

/// A cluster of machine version 2.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 2, ..Default::default() });
    rig
}

/// A namespace with these quotas.
fn create(rig: &mut Rig, name: &str, quotas: Quotas) {
    rig.ok(CreateNamespaceRequest { name: name.into(), quotas: Some(quotas), ..Default::default() });
}

fn tasks(namespace: &str, count: usize) -> EnqueueRequest {
    EnqueueRequest { namespace: namespace.into(), tasks: vec![spec("q"); count], ..Default::default() }
}

fn worker(rig: &mut Rig, namespaces: &[&str]) -> String {
    let capabilities = WorkerCapabilities { namespaces: namespaces.iter().map(|name| name.to_string()).collect(), ..Default::default() };
    let request = RegisterWorkerRequest { capabilities: Some(capabilities), ttl_ms: 3_600_000, ..Default::default() };
    rig.ok(request).worker_id
}

fn lease(worker: &str, max_tasks: u32) -> LeaseTasksRequest {
    LeaseTasksRequest { worker_id: worker.into(), max_tasks, lease_ms: 3_600_000, ..Default::default() }
}

fn complete(task: &LeasedTask, result: usize) -> CompleteTaskRequest {
    CompleteTaskRequest {
        namespace: task.namespace.clone(),
        task_id: task.task_id.clone(),
        token: task.token,
        result: vec![7; result].into(),
        ..Default::default()
    }
}

fn get(rig: &Rig, name: &str) -> GetNamespaceResponse {
    let request = GetNamespaceRequest { name: name.into() };
    rig.machine.get_namespace(&request).expect("the namespace exists")
}

fn usage(rig: &Rig, name: &str) -> NamespaceUsage {
    get(rig, name).usage.expect("an answer has the usage")
}
