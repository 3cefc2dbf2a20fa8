//! What each read asks for, in the words of roles.

use tarn_proto::v1;

use super::permission::{ALL, ANYWHERE};
use super::roles::Wish;
use crate::way::namespace_or_default;

/// A read, and what it takes to be allowed it.
pub trait Question {
    /// Puts in what the caller left out, so that what is judged is what is read.
    fn complete(&mut self) {}

    /// What the caller must be allowed.
    fn wish(&self) -> Wish<'_>;
}

fn read<'a>(kind: &'a str, name: &'a str, namespace: Option<&'a str>) -> Wish<'a> {
    let or_all = |text: &'a str| if text.is_empty() { ALL } else { text };
    let (name, namespace) = (or_all(name), namespace.map(or_all));
    Wish { verb: "read", kind, name, namespace }
}

/// Reads of something with a name in a namespace.
macro_rules! in_namespace {
    ($($Request:ident $kind:literal $name:ident;)*) => {
        $(impl Question for v1::$Request {
            fn complete(&mut self) {
                namespace_or_default(&mut self.namespace);
            }

            fn wish(&self) -> Wish<'_> {
                read($kind, &self.$name, Some(&self.namespace))
            }
        })*
    };
}

in_namespace! {
    GetQueueRequest "queue" queue;
    GetTaskRequest "task" task_id;
    GetTaskLogsRequest "task" task_id;
    ExplainTaskRequest "task" task_id;
    GetLeaseRequest "lease" name;
    GetTimerRequest "timer" timer_id;
    GetKeyRequest "context" context;
    ListKeysRequest "context" context;
    ListVersionsRequest "context" context;
    ListSnapshotsRequest "context" context;
    GetDriverRequest "driver" name;
    GetDriverLogsRequest "driver" name;
}

/// Reads of everything of a kind, given by the wish.
macro_rules! of_all {
    ($($Request:ident $kind:literal $namespace:expr;)*) => {
        $(impl Question for v1::$Request {
            fn wish(&self) -> Wish<'_> {
                read($kind, ALL, $namespace)
            }
        })*
    };
}

of_all! {
    ListWorkersRequest "worker" Some(ALL);
    ListNamespacesRequest "namespace" Some(ALL);
    ListRolesRequest "role" Some(ALL);
    ListRevocationsRequest "certificate" Some(ALL);
    ListBundlesRequest "policy" Some(ALL);
    ListPolicyHandlersRequest "policy-handler" Some(ALL);
    GetPolicySettingsRequest "policy" Some(ALL);
    GetClusterRequest "cluster" ANYWHERE;
    GetDriverSettingsRequest "driver" Some(ALL);
    // Artifacts are known by their content, and belong to nobody.
    ListArtifactsRequest "artifact" ANYWHERE;
}

impl Question for v1::ListDecisionsRequest {
    /// No namespace means all of them, and what belongs to none.
    fn wish(&self) -> Wish<'_> {
        read("audit", "records", Some(&self.namespace))
    }
}

impl Question for v1::VerifyDecisionsRequest {
    fn wish(&self) -> Wish<'_> {
        read("audit", "chain", Some(ALL))
    }
}

impl Question for v1::GetAuditSettingsRequest {
    fn wish(&self) -> Wish<'_> {
        read("audit", "settings", Some(ALL))
    }
}

impl Question for v1::ListClustersRequest {
    fn wish(&self) -> Wish<'_> {
        read("federation", "members", Some(ALL))
    }
}

impl Question for v1::GetFederationStatusRequest {
    fn wish(&self) -> Wish<'_> {
        read("federation", "status", Some(ALL))
    }
}

impl Question for v1::ListConflictsRequest {
    fn wish(&self) -> Wish<'_> {
        read("federation", "conflicts", Some(ALL))
    }
}

/// Not reads, but no commands of the kernel either: what they lead to is.
macro_rules! changes_of_the_federation {
    ($($Request:ident)*) => {
        $(impl Question for v1::$Request {
            fn wish(&self) -> Wish<'_> {
                Wish { verb: "update", kind: "federation", name: "members", namespace: Some(ALL) }
            }
        })*
    };
}

changes_of_the_federation! { InviteClusterRequest JoinFederationRequest LeaveFederationRequest RemoveClusterRequest ResolveConflictRequest }

impl Question for v1::GetSchedulerSettingsRequest {
    fn wish(&self) -> Wish<'_> {
        read("scheduler", "settings", Some(ALL))
    }
}

impl Question for v1::GetNamespaceRequest {
    fn complete(&mut self) {
        namespace_or_default(&mut self.name);
    }

    /// Whoever may read in a namespace may see what it has and may have.
    fn wish(&self) -> Wish<'_> {
        read("namespace", &self.name, Some(&self.name))
    }
}

impl Question for v1::ListQueuesRequest {
    /// No namespace means all of them.
    fn wish(&self) -> Wish<'_> {
        read("queue", ALL, Some(&self.namespace))
    }
}

impl Question for v1::ListDriversRequest {
    /// No namespace means all of them.
    fn wish(&self) -> Wish<'_> {
        read("driver", ALL, Some(&self.namespace))
    }
}

impl Question for v1::CallDriverRequest {
    fn complete(&mut self) {
        namespace_or_default(&mut self.namespace);
    }

    fn wish(&self) -> Wish<'_> {
        Wish { verb: "call", kind: "driver", name: &self.name, namespace: Some(&self.namespace) }
    }
}

impl Question for v1::GetBundleRequest {
    fn wish(&self) -> Wish<'_> {
        read("policy", &self.name, Some(ALL))
    }
}

impl Question for v1::ListViolationsRequest {
    /// No namespace means all of them.
    fn wish(&self) -> Wish<'_> {
        read("violation", ALL, Some(&self.namespace))
    }
}

impl Question for v1::WatchRequest {
    /// No namespace means all of them.
    fn wish(&self) -> Wish<'_> {
        read("event", ALL, Some(&self.namespace))
    }
}

impl Question for v1::ListTasksRequest {
    fn complete(&mut self) {
        namespace_or_default(&mut self.namespace);
    }

    fn wish(&self) -> Wish<'_> {
        read("task", ALL, Some(&self.namespace))
    }
}

impl Question for v1::ListLeasesRequest {
    fn complete(&mut self) {
        namespace_or_default(&mut self.namespace);
    }

    fn wish(&self) -> Wish<'_> {
        read("lease", ALL, Some(&self.namespace))
    }
}

impl Question for v1::ListContextsRequest {
    fn complete(&mut self) {
        namespace_or_default(&mut self.namespace);
    }

    fn wish(&self) -> Wish<'_> {
        read("context", ALL, Some(&self.namespace))
    }
}

impl Question for v1::ListTimersRequest {
    fn complete(&mut self) {
        namespace_or_default(&mut self.namespace);
    }

    fn wish(&self) -> Wish<'_> {
        read("timer", ALL, Some(&self.namespace))
    }
}

impl Question for v1::GetArtifactRequest {
    fn wish(&self) -> Wish<'_> {
        read("artifact", &self.artifact, ANYWHERE)
    }
}

impl Question for v1::ListBindingsRequest {
    fn wish(&self) -> Wish<'_> {
        read("binding", &self.principal, Some(ALL))
    }
}

impl Question for v1::ListTokensRequest {
    fn wish(&self) -> Wish<'_> {
        read("token", &self.principal, Some(ALL))
    }
}
