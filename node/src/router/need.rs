//! How much of a worker an attempt takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tarn_machine::{Machine, WorkerLoad};
use tarn_proto::v1::{DeviceShare, GetTaskRequest, TaskSpec, WorkerDevice};

/// Memory of an attempt whose task does not say how much, in bytes.
const MEMORY_BYTES: u64 = 64 << 20;

/// What is set aside on a device where a task does not say how much, in thousandths.
const SHARE_PERMILLE: u64 = 125;

/// What an attempt takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    pub memory_bytes: u64,
    pub device: Option<Share>,
}

/// A share of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Bytes(u64),
    Permille(u64),
}

impl Share {
    fn of(share: Option<&DeviceShare>) -> Self {
        match share {
            Some(share) if share.memory_bytes > 0 => Share::Bytes(share.memory_bytes),
            Some(share) if share.memory_permille > 0 => Share::Permille(share.memory_permille.into()),
            _ => Share::Permille(SHARE_PERMILLE),
        }
    }

    /// The share of a device with so much memory.
    pub(super) fn bytes(self, device: u64) -> u64 {
        match self {
            Share::Bytes(bytes) => bytes,
            Share::Permille(permille) => device / 1_000 * permille,
        }
    }
}

/// What an attempt at this task takes, on whichever runtime takes most.
pub(super) fn of(spec: &TaskSpec) -> Need {
    let said = |bytes: u64| if bytes == 0 { MEMORY_BYTES } else { bytes };
    let memory = [
        spec.wasm.as_ref().map(|part| said(part.memory_bytes)),
        spec.native.as_ref().map(|part| said(part.memory_bytes)),
        spec.transform.as_ref().map(|part| said(part.memory_bytes)),
    ];
    let device = match (&spec.cuda, &spec.transform) {
        (Some(cuda), _) => Some(Share::of(cuda.device.as_ref())),
        (None, Some(transform)) => Some(Share::of(transform.device.as_ref())),
        (None, None) => None,
    };
    Need { memory_bytes: memory.into_iter().flatten().max().unwrap_or(0), device }
}

/// What the tasks take that workers hold, remembered by task for as long as it is held.
#[derive(Default)]
pub(super) struct Needs {
    known: BTreeMap<String, Need>,
}

impl Needs {
    /// What each worker's tasks take together, by worker.
    pub(super) fn held(&mut self, machine: &Machine, loads: &[WorkerLoad]) -> BTreeMap<String, Held> {
        let mut seen = BTreeSet::new();
        let mut held = BTreeMap::new();
        for load in loads {
            let mut sum = Held::default();
            for (namespace, id) in load.running.iter().chain(&load.placed) {
                let need = *self.known.entry(id.clone()).or_insert_with(|| look_up(machine, namespace, id));
                seen.insert(id.clone());
                sum.tasks += 1;
                sum.memory_bytes = sum.memory_bytes.saturating_add(need.memory_bytes);
                sum.shares.extend(need.device);
            }
            held.insert(load.id.clone(), sum);
        }
        self.known.retain(|id, _| seen.contains(id));
        held
    }
}

/// What a worker's tasks take together.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub tasks: u64,
    pub memory_bytes: u64,
    shares: Vec<Share>,
}

impl Held {
    /// What is left of each device's memory. Which attempt is on which device only the worker knows; like it, this puts each where most is left.
    pub(super) fn left(&self, devices: &[WorkerDevice]) -> Vec<u64> {
        let mut left: Vec<u64> = devices.iter().map(|device| device.memory_bytes).collect();
        let mut shares = self.shares.clone();
        shares.sort_by_key(|share| std::cmp::Reverse(share.bytes(u64::MAX >> 16)));
        for share in shares {
            if let Some(most) = (0..left.len()).max_by_key(|at| left[*at]) {
                left[most] = left[most].saturating_sub(share.bytes(devices[most].memory_bytes));
            }
        }
        left
    }
}

fn look_up(machine: &Machine, namespace: &Arc<str>, id: &str) -> Need {
    let question =
        GetTaskRequest { namespace: namespace.to_string(), task_id: id.to_owned(), omit_bytes: true, ..GetTaskRequest::default() };
    let task = machine.get_task(&question).ok().and_then(|answer| answer.task);
    task.and_then(|task| task.spec).map_or_else(Need::default, |spec| of(&spec))
}

#[cfg(test)]
mod tests {
    use tarn_proto::v1::{TransformSpec, WasmSpec};

    use super::*;

    #[test]
    fn what_a_task_does_not_say_has_its_default() {
        let wasm = TaskSpec { wasm: Some(WasmSpec::default()), ..TaskSpec::default() };
        assert_eq!(of(&wasm), Need { memory_bytes: MEMORY_BYTES, device: None });
        let transform = TransformSpec { memory_bytes: 7, ..TransformSpec::default() };
        let transform = TaskSpec { transform: Some(transform), ..TaskSpec::default() };
        assert_eq!(of(&transform), Need { memory_bytes: 7, device: Some(Share::Permille(SHARE_PERMILLE)) });
        assert_eq!(of(&TaskSpec::default()), Need::default());
    }

    #[test]
    fn shares_are_put_where_most_is_left() {
        let device = |memory_bytes| WorkerDevice { kind: "cuda".into(), memory_bytes, ..WorkerDevice::default() };
        let devices = [device(10_000), device(8_000)];
        let held = Held { shares: vec![Share::Bytes(1_000), Share::Permille(500)], ..Held::default() };
        assert_eq!(held.left(&devices), [5_000, 7_000]);
        assert!(Held::default().left(&[]).is_empty());
        let more = Held { shares: vec![Share::Bytes(9_000); 3], ..Held::default() };
        assert_eq!(more.left(&devices), [0, 0], "more than there is leaves nothing");
    }
}
