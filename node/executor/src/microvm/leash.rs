//! How a running guest is stopped from outside, at any moment.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Why a guest was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    TimeOver,
}

/// Ties one attempt to those who may stop it.
///
/// A vCPU leaves the guest when its thread gets a signal. A signal that arrives just before the thread enters the guest would be
/// lost, so the flag `immediate_exit` is set first, which makes entering return at once (KVM's API, section 5, "The
/// kvm_run structure"). Nothing polls.
#[derive(Default)]
pub(super) struct Leash {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    stop: Option<Stop>,
    running: Option<Running>,
}

/// A thread that is in the guest, or about to be.
struct Running {
    thread: libc::pthread_t,
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer is only used under the lock, and taken away there before what it points to ends.
unsafe impl Send for Running {}

impl Leash {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the guest now, or before it starts. The first reason stays.
    pub(super) fn stop(&self, why: Stop) {
        let mut state = self.lock();
        state.stop.get_or_insert(why);
        self.stopped.notify_all();
        if let Some(running) = &state.running {
            // SAFETY: while `running` is there, its thread is in `enter` and the vCPU's page is mapped.
            unsafe {
                (*running.immediate_exit).store(1, Ordering::SeqCst);
                libc::pthread_kill(running.thread, kick_signal());
            }
        }
    }

    /// Why the guest has to stop, if it has to.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.lock().stop
    }

    /// Waits for so long, or until the guest has to stop.
    pub(super) fn sleep(&self, duration: Duration) {
        let state = self.lock();
        let waited = self.stopped.wait_timeout_while(state, duration, |state| state.stop.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Runs `enter`, which runs a vCPU on this thread, so that [`stop`](Self::stop) gets it out. Returns nothing if the guest
    /// has to stop already.
    ///
    /// # Safety
    /// `immediate_exit` is that vCPU's flag, and stays valid until `enter` returns.
    pub(super) unsafe fn hold<T>(&self, immediate_exit: *const AtomicU8, enter: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.lock();
        if state.stop.is_some() {
            return None;
        }
        // SAFETY: by the contract it is valid; nobody else has it yet.
        unsafe { (*immediate_exit).store(0, Ordering::SeqCst) };
        state.running = Some(Running {
            // SAFETY: it has no preconditions.
            thread: unsafe { libc::pthread_self() },
            immediate_exit,
        });
        drop(state);
        let _release = Release(self);
        Some(enter())
    }
}

/// Takes the pointer to the vCPU away again, also when entering it panicked.
struct Release<'a>(&'a Leash);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.lock().running = None;
    }
}

/// Stops the guest when nobody waits for it any more.
pub(super) struct StopWhenDropped(pub(super) std::sync::Arc<Leash>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop(Stop::Cancelled);
    }
}

/// The signal that gets a thread out of its guest: a real-time one, which nothing else here uses.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN() + 6
}

/// Makes the signal interrupt and do nothing else. To be called before the first guest runs.
///
/// # Errors
/// Somebody in this process handles the signal already.
pub(super) fn prepare_signal() -> Result<(), String> {
    static PREPARED: OnceLock<Result<(), String>> = OnceLock::new();
    PREPARED.get_or_init(install_handler).clone()
}

fn install_handler() -> Result<(), String> {
    extern "C" fn nothing(_signal: libc::c_int) {}

    // SAFETY: all zeroes is a valid `sigaction`: the default action, no flags, an empty mask.
    let (mut action, mut before) = unsafe { (std::mem::zeroed::<libc::sigaction>(), std::mem::zeroed()) };
    // Without SA_RESTART, so that running the vCPU returns.
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: both point to structures of the right type, and the handler is safe in any context: it does nothing.
    if unsafe { libc::sigaction(kick_signal(), &action, &mut before) } != 0 {
        return Err(format!("cannot handle a signal: {}", std::io::Error::last_os_error()));
    }
    if before.sa_sigaction != libc::SIG_DFL {
        return Err(format!("signal {} is in use by another part of this process", kick_signal()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_nothing_starts_after_it() {
        let leash = Leash::default();
        leash.stop(Stop::TimeOver);
        leash.stop(Stop::Cancelled);
        assert_eq!(leash.stopped(), Some(Stop::TimeOver));
        leash.sleep(Duration::MAX);
        let flag = AtomicU8::new(0);
        // SAFETY: the flag outlives the call.
        assert!(unsafe { leash.hold(&flag, || ()) }.is_none());
    }

    #[test]
    fn a_thread_that_is_held_gets_the_flag_and_the_signal() {
        prepare_signal().unwrap();
        let leash = Leash::default();
        let flag = AtomicU8::new(0);
        let (inside, was_inside) = std::sync::mpsc::channel();
        let interrupted = std::thread::scope(|scope| {
            let held = scope.spawn(|| {
                // SAFETY: the flag outlives the call.
                unsafe {
                    leash.hold(&flag, || {
                        inside.send(()).unwrap();
                        while flag.load(Ordering::SeqCst) == 0 {
                            std::thread::yield_now();
                        }
                    })
                }
            });
            was_inside.recv().unwrap();
            leash.stop(Stop::Cancelled);
            held.join().unwrap()
        });
        assert!(interrupted.is_some());
    }
}
