//! How long a failed task waits before its next attempt.

use crate::rows::RetryRow;

/// The delay after this attempt, in milliseconds: exponential, capped, with jitter derived from the task's id, so that tasks that failed
/// together do not come back together and every replica computes the same.
pub fn delay_ms(policy: &RetryRow, attempt: u32, task: u64) -> u64 {
    let mut delay = policy.initial_ms.min(policy.cap_ms);
    for _ in 1..attempt {
        if delay >= policy.cap_ms {
            break;
        }
        delay = (delay * u64::from(policy.percent) / 100).min(policy.cap_ms);
    }
    let spread = delay * u64::from(policy.jitter_percent) / 100;
    let offset = scatter(task ^ u64::from(attempt) << 52) % (2 * spread + 1);
    (delay - spread + offset).min(policy.cap_ms)
}

/// Spreads neighbouring numbers over all of them: the finaliser of MurmurHash3, in which every input bit moves every output bit.
fn scatter(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits;

    const PLAIN: RetryRow = RetryRow { max_attempts: 5, initial_ms: 1_000, percent: 200, cap_ms: 60_000, jitter_percent: 0 };

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<u64> = (1..=8).map(|attempt| delay_ms(&PLAIN, attempt, 77)).collect();
        assert_eq!(delays, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        let steady = RetryRow { percent: 100, ..PLAIN };
        assert_eq!(delay_ms(&steady, 100, 77), 1_000);
    }

    #[test]
    fn jitter_scatters_neighbours_over_the_whole_range() {
        let policy = RetryRow { jitter_percent: 20, ..PLAIN };
        let delays: Vec<u64> = (0..1_000).map(|id| delay_ms(&policy, 1, 1 << 20 | id)).collect();
        assert!(delays.iter().all(|d| (800..=1_200).contains(d)));
        assert!(delays.iter().any(|d| *d < 810) && delays.iter().any(|d| *d > 1_190));
    }

    proptest! {
        #[test]
        fn no_policy_overflows_or_passes_its_cap(
            initial_ms in 1..=limits::BACKOFF_MS_MAX, cap_ms in 1..=limits::BACKOFF_MS_MAX, percent in 100u32..=1_000,
            jitter_percent in 0u32..=100, attempt in 1..=limits::ATTEMPTS_MAX, task: u64,
        ) {
            let policy = RetryRow { max_attempts: 100, initial_ms, percent, cap_ms, jitter_percent };
            prop_assert!(delay_ms(&policy, attempt, task) <= cap_ms);
        }
    }
}
