//! Commands about what a namespace may have. Small limits, so that they are met.

use tarn_proto::v1::*;

use super::Generator;
use crate::reference::Model;

impl Generator {
    pub(super) fn create_namespace(&mut self) -> CreateNamespaceRequest {
        let tenancy = self.dice.chance(50);
        CreateNamespaceRequest {
            request_id: self.request_id(),
            name: self.some_namespace(),
            weight: self.dice.pick(&[0, 1, 50, 100, 300, 1_000]),
            quotas: tenancy.then(|| self.quotas()),
            isolation: if tenancy { self.isolation() } else { 0 },
            environment: if tenancy { self.dice.pick(&["", "dev", "prod"]).to_owned() } else { String::new() },
        }
    }

    pub(super) fn update_namespace(&mut self, model: &Model) -> UpdateNamespaceRequest {
        let part = |generator: &mut Self| generator.dice.chance(40);
        UpdateNamespaceRequest {
            request_id: self.request_id(),
            name: self.namespace(model),
            weight: part(self).then(|| self.dice.pick(&[1, 100, 700])),
            quotas: self.dice.chance(80).then(|| self.quotas()),
            isolation: part(self).then(|| self.isolation()),
            environment: part(self).then(|| self.dice.pick(&["stage", "prod"]).to_owned()),
        }
    }

    fn quotas(&mut self) -> Quotas {
        let mut limit = |of: &[u64]| self.dice.chance(60).then(|| self.dice.pick(of));
        Quotas {
            max_running: limit(&[0, 0, 1, 2, 5]),
            max_queued: limit(&[0, 0, 0, 8, 90]),
            max_stored_bytes: None,
            requests_per_minute: limit(&[0, 600]),
        }
    }

    fn isolation(&mut self) -> i32 {
        let all = [Isolation::Unspecified, Isolation::Shared, Isolation::Shared, Isolation::None, Isolation::Strict];
        self.dice.pick(&all).into()
    }
}
