//! Policies: bundles and which of them judge, what they found, and who is told.
//!
//! A bundle is bytes here. What it means, whether it compiles and who signed it, is the gate's to say before it proposes; the kernel keeps
//! that what is active exists, that a version never changes, and that nothing unsigned is active where signatures are required.

mod active;
mod bundle;
mod handler;
mod settings;
mod violation;

pub use active::{activate, deactivate, rollback};
pub use bundle::{delete, message, put};
pub use handler::{acknowledge, delete_handler, handler, put_handler};
pub use settings::put_settings;
pub use violation::{expire_violation, record, violation};

use std::sync::Arc;

use tarn_proto::v1::EventKind;

use crate::index::Policies;
use crate::txn::Txn;

fn policies<'a>(txn: &'a mut Txn<'_>) -> &'a mut Policies {
    Arc::make_mut(&mut txn.ix.policies)
}

fn changed(txn: &mut Txn<'_>, subject: String, detail: String) {
    txn.event(EventKind::PolicyChanged, subject).detail = detail;
}
