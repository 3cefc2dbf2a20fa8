//! Which device meets which need.

use crate::{Device, DeviceNeed};

/// Finds a device of its own for each need, so that all are met together if that is possible at all: a maximum matching by
/// augmenting paths (Kuhn 1955). Larger needs choose first, and each prefers the device on which it leaves least, so that
/// whole devices stay free for those who need them.
///
/// `free` gives the bytes that a device could still hold, or `None` if it must not be used. The answer is in the order of the needs.
pub fn matching(needs: &[&DeviceNeed], devices: &[Device], free: impl Fn(usize, &Device) -> Option<u64>) -> Option<Vec<usize>> {
    if needs.len() > devices.len() {
        return None;
    }
    let choices: Vec<Vec<usize>> = needs.iter().map(|need| choices(need, devices, &free)).collect();
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|need| (std::cmp::Reverse(needs[*need].memory_bytes), *need));
    let mut holder = vec![None; devices.len()];
    for need in order {
        if !augment(need, &choices, &mut holder, &mut vec![false; devices.len()]) {
            return None;
        }
    }
    let mut found = vec![0; needs.len()];
    for (device, need) in holder.iter().enumerate() {
        if let Some(need) = need {
            found[*need] = device;
        }
    }
    Some(found)
}

/// The devices that would do for a need, the one with the least left over first.
fn choices(need: &DeviceNeed, devices: &[Device], free: impl Fn(usize, &Device) -> Option<u64>) -> Vec<usize> {
    let mut fitting: Vec<(u64, usize)> = devices
        .iter()
        .enumerate()
        .filter(|(_, device)| device.kind == need.kind && device.capability >= need.capability)
        .filter_map(|(at, device)| Some((free(at, device)?.checked_sub(need.memory_bytes)?, at)))
        .collect();
    fitting.sort_unstable();
    fitting.into_iter().map(|(_, at)| at).collect()
}

/// Gives the need a device, moving others on to their next choice where that makes room.
fn augment(need: usize, choices: &[Vec<usize>], holder: &mut [Option<usize>], visited: &mut [bool]) -> bool {
    for device in &choices[need] {
        if std::mem::replace(&mut visited[*device], true) {
            continue;
        }
        let moved = match holder[*device] {
            None => true,
            Some(other) => augment(other, choices, holder, visited),
        };
        if moved {
            holder[*device] = Some(need);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(capability: u32, free: u64) -> Device {
        Device { kind: "cuda".into(), memory_bytes: 100, memory_free_bytes: free, capability, lost: false }
    }

    fn need(memory_bytes: u64, capability: u32) -> DeviceNeed {
        DeviceNeed { kind: "cuda".into(), memory_bytes, capability, runtimes: Vec::new() }
    }

    fn check(needs: &[DeviceNeed], devices: &[Device]) -> Option<Vec<usize>> {
        let needs: Vec<_> = needs.iter().collect();
        matching(&needs, devices, |_, device| Some(device.memory_free_bytes))
    }

    #[test]
    fn the_device_with_the_least_left_over_is_taken() {
        assert_eq!(check(&[need(10, 0)], &[device(90, 80), device(90, 20)]), Some(vec![1]));
        assert_eq!(check(&[need(30, 0)], &[device(90, 80), device(90, 20)]), Some(vec![0]));
        assert_eq!(check(&[need(90, 0)], &[device(90, 80), device(90, 20)]), None);
        assert_eq!(check(&[], &[]), Some(vec![]));
    }

    #[test]
    fn needs_of_one_task_lie_on_devices_of_their_own() {
        assert_eq!(check(&[need(10, 0), need(10, 0)], &[device(90, 80)]), None);
        assert_eq!(check(&[need(10, 0), need(50, 0)], &[device(90, 80), device(90, 20)]), Some(vec![1, 0]));
    }

    #[test]
    fn a_need_gives_way_to_one_with_less_choice() {
        // The larger takes the second device first, the only one on which the smaller can run.
        let devices = [device(80, 100), device(90, 60)];
        assert_eq!(check(&[need(50, 0), need(20, 90)], &devices), Some(vec![0, 1]));
    }
}
