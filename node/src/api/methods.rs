//! Which methods there are, by the path of their requests.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// How a method takes its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// One message.
    One,
    /// A stream of messages, for as long as the caller likes.
    Stream,
}

static METHODS: LazyLock<HashMap<String, Intake>> = LazyLock::new(|| {
    let sets = [tarn_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let mut methods = HashMap::new();
    for set in sets {
        let pool = DescriptorPool::decode(set).expect("the contract was compiled with this binary");
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let intake = match method.is_client_streaming() {
                true => Intake::Stream,
                false => Intake::One,
            };
            methods.insert(path, intake);
        }
    }
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        methods.insert(path, Intake::Stream);
    }
    methods
});

/// How the method at this path takes its request; `None` if there is no such method.
pub(super) fn intake(path: &str) -> Option<Intake> {
    METHODS.get(path).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_paths() {
        assert_eq!(intake("/tarn.v1.TaskService/Enqueue"), Some(Intake::One));
        assert_eq!(intake("/tarn.v1.WorkerService/Work"), Some(Intake::Stream));
        assert_eq!(intake("/grpc.health.v1.Health/Check"), Some(Intake::One));
        assert_eq!(intake("/tarn.v1.TaskService/Nonsense"), None);
        assert_eq!(intake(""), None);
    }
}
