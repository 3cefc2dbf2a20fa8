//! The points at which a test build can die, on both sides of each durable step.
//!
//! A test draws from [`CRASH_POINTS`], so that a new point is tested by being named here. In a normal build the calls
//! compile to nothing.

pub(crate) use tarn_storage::crash::point;

macro_rules! points {
    ($($name:ident = $text:literal;)*) => {
        $(pub(crate) const $name: &str = $text;)*

        /// Every crash point of this crate. Set the environment variable of `tarn_storage::crash` to one of them.
        pub const CRASH_POINTS: &[&str] = &[$($text),*];
    };
}

points! {
    LOG_APPEND_BEFORE = "log.append.before";
    LOG_APPEND_AFTER = "log.append.after";
    LOG_VOTE_BEFORE = "log.vote.before";
    LOG_VOTE_AFTER = "log.vote.after";
    LOG_PURGE_BEFORE = "log.purge.before";
    LOG_PURGE_AFTER = "log.purge.after";
    APPLY_COMMIT_BEFORE = "apply.commit.before";
    APPLY_COMMIT_AFTER = "apply.commit.after";
    SNAPSHOT_CHECKPOINT_BEFORE = "snapshot.checkpoint.before";
    SNAPSHOT_CHECKPOINT_AFTER = "snapshot.checkpoint.after";
    SNAPSHOT_PUBLISH_BEFORE = "snapshot.publish.before";
    SNAPSHOT_PUBLISH_AFTER = "snapshot.publish.after";
    STATE_SWITCH_BEFORE = "state.switch.before";
    STATE_SWITCH_AFTER = "state.switch.after";
    STATE_CLEANUP_AFTER = "state.cleanup.after";
}
