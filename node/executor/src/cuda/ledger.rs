//! Who has how much of which device's memory: admission as plain arithmetic, without a device, a clock or a lock.
//!
//! An attempt is let in when a device has its share free, and holds it until its end, so that what runs on a device never asks for
//! more than there is. Waiting is the caller's: whoever was refused asks again when something was given back.

use std::collections::BTreeMap;

use super::DeviceShare;

/// A device as the ledger sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    /// What attempts may have together, in bytes.
    usable_bytes: u64,
    held_bytes: u64,
    /// How many attempts may run at once, and how many do.
    slots: usize,
    running: usize,
    /// Set while nothing new is let in, because the device misbehaves.
    closed: bool,
}

/// What was set aside for one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The device.
    pub device: u32,
    /// The memory in bytes.
    pub bytes: u64,
}

/// Why an attempt was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room now; there will be.
    Full,
    /// Even an idle device has less than this: the largest share that one could ever have, in bytes.
    TooLarge(u64),
    /// There are no devices that work.
    NoDevice,
}

/// The accounts of all devices.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    accounts: BTreeMap<u32, Account>,
}

impl Ledger {
    /// Adds a device with so much memory for attempts, of which `slots` may run at once.
    pub fn add(&mut self, device: u32, usable_bytes: u64, slots: usize) {
        let account = Account { usable_bytes, held_bytes: 0, slots, running: 0, closed: false };
        self.accounts.insert(device, account);
    }

    /// Sets a share aside on the device that has the most left, the lower number among equals.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing has changed then.
    pub fn admit(&mut self, share: DeviceShare) -> Result<Grant, Refusal> {
        let open = || self.accounts.iter().filter(|(_, account)| !account.closed);
        let largest = open().map(|(_, account)| account.usable_bytes).max().ok_or(Refusal::NoDevice)?;
        if open().all(|(_, account)| share.bytes_of(account.usable_bytes) > account.usable_bytes) {
            return Err(Refusal::TooLarge(largest));
        }
        let fits = |account: &Account| {
            let free = account.usable_bytes - account.held_bytes;
            (account.running < account.slots && share.bytes_of(account.usable_bytes) <= free).then_some(free)
        };
        let best = open().filter_map(|(device, account)| Some((fits(account)?, std::cmp::Reverse(*device)))).max();
        let (_, std::cmp::Reverse(device)) = best.ok_or(Refusal::Full)?;
        let account = self.accounts.get_mut(&device).expect("it was found among them");
        let bytes = share.bytes_of(account.usable_bytes);
        account.held_bytes += bytes;
        account.running += 1;
        Ok(Grant { device, bytes })
    }

    /// Gives back what [`admit`](Self::admit) set aside.
    ///
    /// # Panics
    /// When it was not set aside or has been given back: counting on would let attempts in that do not fit.
    pub fn release(&mut self, grant: Grant) {
        let account = self.accounts.get_mut(&grant.device).expect("the device of a grant is in the ledger");
        account.held_bytes = account.held_bytes.checked_sub(grant.bytes).expect("a grant is given back once");
        account.running = account.running.checked_sub(1).expect("a grant is given back once");
    }

    /// Whether a device lets no attempts in, because it misbehaves or is none of the ledger's.
    #[must_use]
    pub fn is_closed(&self, device: u32) -> bool {
        self.accounts.get(&device).is_none_or(|account| account.closed)
    }

    /// A device's memory for attempts, in bytes.
    #[must_use]
    pub fn usable_bytes(&self, device: u32) -> u64 {
        self.accounts.get(&device).map_or(0, |account| account.usable_bytes)
    }

    /// Stops or resumes letting attempts in on a device; what runs there is not touched.
    pub fn set_closed(&mut self, device: u32, closed: bool) {
        if let Some(account) = self.accounts.get_mut(&device) {
            account.closed = closed;
        }
    }

    /// How much is set aside on a device now, in bytes.
    #[must_use]
    pub fn held_bytes(&self, device: u32) -> u64 {
        self.accounts.get(&device).map_or(0, |account| account.held_bytes)
    }

    /// How many attempts may run at once on all devices together.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.accounts.values().map(|account| account.slots).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add(0, 100, 3);
        ledger.add(1, 50, 2);
        ledger
    }

    #[test]
    fn shares_go_where_most_is_left() {
        let mut ledger = two();
        let on = |ledger: &mut Ledger, bytes| ledger.admit(DeviceShare::Bytes(bytes)).map(|grant| grant.device);
        assert_eq!(on(&mut ledger, 60), Ok(0));
        assert_eq!(on(&mut ledger, 45), Ok(1), "50 are left there and 40 on the other");
        assert_eq!(on(&mut ledger, 41), Err(Refusal::Full));
        assert_eq!(on(&mut ledger, 101), Err(Refusal::TooLarge(100)));
        assert_eq!(on(&mut ledger, 40), Ok(0));
        assert_eq!((ledger.held_bytes(0), ledger.held_bytes(1)), (100, 45));
    }

    #[test]
    fn fractions_divide_a_device_exactly() {
        let mut ledger = Ledger::default();
        ledger.add(0, 80 << 30, 8);
        let quarter = DeviceShare::Thousandths(250);
        let grants: Vec<Grant> = (0..4).map(|_| ledger.admit(quarter).unwrap()).collect();
        assert_eq!(ledger.admit(quarter), Err(Refusal::Full));
        ledger.release(grants[2]);
        assert_eq!(ledger.admit(quarter), Ok(grants[2]));
    }

    #[test]
    fn slots_bound_how_many_run_however_little_they_ask_for() {
        let mut ledger = two();
        let grants: Vec<Grant> = (0..5).map(|_| ledger.admit(DeviceShare::Bytes(1)).unwrap()).collect();
        assert_eq!(ledger.admit(DeviceShare::Bytes(1)), Err(Refusal::Full));
        ledger.release(grants[4]);
        assert_eq!(ledger.admit(DeviceShare::Bytes(1)).unwrap().device, grants[4].device);
        assert_eq!(ledger.slots(), 5);
    }

    #[test]
    fn closed_devices_let_nobody_in() {
        let mut ledger = two();
        ledger.set_closed(0, true);
        assert_eq!(ledger.admit(DeviceShare::Bytes(60)), Err(Refusal::TooLarge(50)));
        ledger.set_closed(1, true);
        assert_eq!(ledger.admit(DeviceShare::Bytes(1)), Err(Refusal::NoDevice));
        ledger.set_closed(0, false);
        assert_eq!(ledger.admit(DeviceShare::Bytes(60)).unwrap().device, 0);
        assert_eq!(Ledger::default().admit(DeviceShare::Bytes(1)), Err(Refusal::NoDevice));
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_grant_given_back_twice_stops_the_node() {
        let mut ledger = two();
        let grant = ledger.admit(DeviceShare::Bytes(10)).unwrap();
        ledger.release(grant);
        ledger.release(grant);
    }

    /// Whatever comes and goes, what is held is the sum of the grants and fits.
    #[test]
    fn books_balance_over_a_long_history() {
        let mut ledger = two();
        let mut held: Vec<Grant> = Vec::new();
        let mut state = 1_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = state >> 33;
            if pick.is_multiple_of(2) {
                held.extend(ledger.admit(DeviceShare::Bytes(1 + pick % 70)));
            } else if !held.is_empty() {
                let at = usize::try_from(pick).unwrap() % held.len();
                ledger.release(held.swap_remove(at));
            }
            for (device, usable) in [(0, 100), (1, 50)] {
                let sum: u64 = held.iter().filter(|grant| grant.device == device).map(|grant| grant.bytes).sum();
                assert_eq!(ledger.held_bytes(device), sum);
                assert!(sum <= usable);
            }
        }
    }
}
