//! Which request is which command, and which answer belongs to it.

use crate::v1::{self, command, outcome};

/// A request message that changes state: it knows its place in [`v1::Command`] and its answer's place in [`v1::Outcome`].
pub trait CommandBody: prost::Message + Clone + Sized {
    /// The answer to this request.
    type Response: prost::Message + Default;

    /// Whether a repeat is recognised without a request id, and gets the first answer again: what a worker reports about an attempt, which
    /// its token names. An id would only cost a row in the cluster's memory of ids.
    const REPEATABLE: bool = false;

    /// Whether it may stand in a [`v1::CommandBatch`]: what is sent often, by many at once, and whose answer may be remembered as it is. The
    /// answer to a lease may not, as a repeat is given only what still holds.
    const FITS_BATCHES: bool = false;

    /// Wraps the request as the body of a command.
    fn into_body(self) -> command::Body;

    /// The id that makes the request safe to repeat; empty where the client gave none, or where the request is repeatable by nature.
    fn request_id(&self) -> &str;

    /// Sets the request id, if the message has one.
    fn set_request_id(&mut self, id: String);

    /// The answer out of an outcome's body; `None` if the body answers another kind of command.
    fn response(body: outcome::Body) -> Option<Self::Response>;
}

fn ensure<C: CommandBody>(request: &mut C, id: impl FnOnce() -> String) {
    if request.request_id().is_empty() && !C::REPEATABLE {
        request.set_request_id(id());
    }
}

macro_rules! commands {
    ($($variant:ident: $request:ident -> $response:ident $(, id $id:ident $(+ $trait:ident)*)?;)*) => {
        $(impl CommandBody for v1::$request {
            type Response = v1::$response;
            $($(commands!(@$trait);)*)?

            fn into_body(self) -> command::Body {
                command::Body::$variant(self)
            }

            fn request_id(&self) -> &str {
                commands!(@get self $($id)?)
            }

            fn set_request_id(&mut self, _id: String) {
                $(self.$id = _id;)?
            }

            fn response(body: outcome::Body) -> Option<Self::Response> {
                match body {
                    outcome::Body::$variant(response) => Some(response),
                    _ => None,
                }
            }
        })*

        /// The request id inside a command's body; empty where there is none.
        impl command::Body {
            /// The id that makes the command safe to repeat; empty where there is none.
            pub fn request_id(&self) -> &str {
                match self {
                    $(command::Body::$variant(request) => CommandBody::request_id(request),)*
                }
            }

            /// Sets the request id of a command that cannot do without: one that has none yet and is not [repeatable](CommandBody::REPEATABLE).
            pub fn ensure_request_id(&mut self, id: impl FnOnce() -> String) {
                match self {
                    $(command::Body::$variant(request) => ensure(request, id),)*
                }
            }

            /// Whether a repeat is recognised without a request id: see [`CommandBody::REPEATABLE`].
            pub fn is_repeatable(&self) -> bool {
                match self {
                    $(command::Body::$variant(_) => <v1::$request as CommandBody>::REPEATABLE,)*
                }
            }

            /// Whether the command may stand in a batch: see [`CommandBody::FITS_BATCHES`].
            pub fn fits_batches(&self) -> bool {
                match self {
                    $(command::Body::$variant(_) => <v1::$request as CommandBody>::FITS_BATCHES,)*
                }
            }

            /// The command's name in snake case, for metrics and logs.
            pub fn name(&self) -> &'static str {
                match self {
                    $(command::Body::$variant(_) => stringify!($variant),)*
                }
            }
        }
    };
    (@repeatable) => { const REPEATABLE: bool = true; };
    (@batched) => { const FITS_BATCHES: bool = true; };
    (@get $self:ident) => { "" };
    (@get $self:ident $id:ident) => { &$self.$id };
}

commands! {
    Enqueue: EnqueueRequest -> EnqueueResponse, id request_id + batched;
    CancelTask: CancelTaskRequest -> CancelTaskResponse, id request_id + batched;
    RequeueDead: RequeueDeadRequest -> RequeueDeadResponse, id request_id;
    PurgeQueue: PurgeQueueRequest -> PurgeQueueResponse, id request_id;
    LeaseTasks: LeaseTasksRequest -> LeaseTasksResponse, id request_id;
    HeartbeatTasks: HeartbeatTasksRequest -> HeartbeatTasksResponse;
    CompleteTask: CompleteTaskRequest -> CompleteTaskResponse, id request_id + repeatable + batched;
    FailTask: FailTaskRequest -> FailTaskResponse, id request_id + repeatable + batched;
    RegisterWorker: RegisterWorkerRequest -> RegisterWorkerResponse, id request_id;
    HeartbeatWorker: HeartbeatWorkerRequest -> HeartbeatWorkerResponse;
    DrainWorker: DrainWorkerRequest -> DrainWorkerResponse, id request_id;
    AcquireLease: AcquireLeaseRequest -> AcquireLeaseResponse, id request_id + batched;
    RenewLease: RenewLeaseRequest -> RenewLeaseResponse, id request_id + batched;
    ReleaseLease: ReleaseLeaseRequest -> ReleaseLeaseResponse, id request_id + batched;
    ScheduleTimer: ScheduleTimerRequest -> ScheduleTimerResponse, id request_id;
    CancelTimer: CancelTimerRequest -> CancelTimerResponse, id request_id;
    CreateNamespace: CreateNamespaceRequest -> CreateNamespaceResponse, id request_id;
    DeleteNamespace: DeleteNamespaceRequest -> DeleteNamespaceResponse, id request_id;
    UpdateNamespace: UpdateNamespaceRequest -> UpdateNamespaceResponse, id request_id;
    RaiseVersion: RaiseVersion -> VersionRaised;
    PutJoinToken: PutJoinToken -> JoinTokenPut, id request_id;
    ConsumeJoinToken: ConsumeJoinToken -> JoinTokenConsumed;
    PutRole: PutRoleRequest -> PutRoleResponse, id request_id;
    DeleteRole: DeleteRoleRequest -> DeleteRoleResponse, id request_id;
    PutBinding: PutBindingRequest -> PutBindingResponse, id request_id;
    DeleteBinding: DeleteBindingRequest -> DeleteBindingResponse, id request_id;
    PutToken: PutTokenRequest -> PutTokenResponse, id request_id;
    RevokeToken: RevokeTokenRequest -> RevokeTokenResponse, id request_id;
    RevokeCertificate: RevokeCertificateRequest -> RevokeCertificateResponse, id request_id;
    PutBundle: PutBundleRequest -> PutBundleResponse, id request_id;
    ActivateBundle: ActivateBundleRequest -> ActivateBundleResponse, id request_id;
    RollbackBundle: RollbackBundleRequest -> RollbackBundleResponse, id request_id;
    DeactivateBundle: DeactivateBundleRequest -> DeactivateBundleResponse, id request_id;
    DeleteBundle: DeleteBundleRequest -> DeleteBundleResponse, id request_id;
    PutPolicyHandler: PutPolicyHandlerRequest -> PutPolicyHandlerResponse, id request_id;
    DeletePolicyHandler: DeletePolicyHandlerRequest -> DeletePolicyHandlerResponse, id request_id;
    PutPolicySettings: PutPolicySettingsRequest -> PutPolicySettingsResponse, id request_id;
    RecordViolations: RecordViolations -> ViolationsRecorded, id request_id;
    AcknowledgeEscalations: AcknowledgeEscalations -> EscalationsAcknowledged;
    PlaceTasks: PlaceTasks -> TasksPlaced;
    PutSchedulerSettings: PutSchedulerSettingsRequest -> PutSchedulerSettingsResponse, id request_id;
    RecordDecisions: RecordDecisions -> DecisionsRecorded, id request_id;
    InstallDriver: InstallDriverRequest -> InstallDriverResponse, id request_id;
    UpgradeDriver: UpgradeDriverRequest -> UpgradeDriverResponse, id request_id;
    RemoveDriver: RemoveDriverRequest -> RemoveDriverResponse, id request_id;
    AdvanceDriver: AdvanceDriver -> DriverAdvanced, id request_id;
    PutDriverSettings: PutDriverSettingsRequest -> PutDriverSettingsResponse, id request_id;
    PutAuditSettings: PutAuditSettingsRequest -> PutAuditSettingsResponse, id request_id;
    PutKey: PutKeyRequest -> PutKeyResponse, id request_id + batched;
    DeleteKey: DeleteKeyRequest -> DeleteKeyResponse, id request_id + batched;
    SnapshotContext: SnapshotContextRequest -> SnapshotContextResponse, id request_id;
    RestoreContext: RestoreContextRequest -> RestoreContextResponse, id request_id;
    DeleteSnapshot: DeleteSnapshotRequest -> DeleteSnapshotResponse, id request_id;
    DeleteContext: DeleteContextRequest -> DeleteContextResponse, id request_id;
    StartFederation: StartFederation -> FederationStarted, id request_id;
    LeaveFederation: LeaveFederationRequest -> LeaveFederationResponse, id request_id;
    WriteShared: WriteShared -> SharedWritten, id request_id;
    CommitReplica: CommitReplica -> ReplicaCommitted;
    PutInvitation: PutInvitation -> InvitationPut, id request_id;
    ConsumeInvitation: ConsumeInvitation -> InvitationConsumed;
    ShareContext: ShareContextRequest -> ShareContextResponse, id request_id;
    AcceptTransfer: AcceptTransfer -> TransferAccepted;
    ConfirmTransfer: ConfirmTransfer -> TransferConfirmed;
    ExtendTransfer: ExtendTransfer -> TransferExtended;
    CloseTransfer: CloseTransfer -> TransferClosed;
    Batch: CommandBatch -> CommandBatchOutcome, id request_id;
}
