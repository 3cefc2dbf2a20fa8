//! Is the command well formed and within the limits? The kernel's own rules, asked before the log so that a bad command costs no
//! entry. The kernel asks again: this step saves work, it protects nothing.

use tarn_proto::v1;

use super::{Ask, Step, What};

pub(super) struct Validation;

impl Step for Validation {
    fn name(&self) -> &'static str {
        "validation"
    }

    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection> {
        match ask.what {
            What::Command(command) => {
                tarn_machine::check::validate(command)?;
                tarn_machine::check::supported(command, ask.state.version)
            }
            What::Act(_) => Ok(()),
        }
    }
}
