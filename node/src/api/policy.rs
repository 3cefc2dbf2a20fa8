//! `PolicyService`: bundles, what they found, and who is told. What is checked before a bundle is put or activated stands in
//! [`crate::gate`], because commands come over other ways too.

use tarn_proto::v1;
use tarn_proto::v1::policy_service_server::PolicyService;
use tonic::{Request, Response, Status};

use super::Api;

macro_rules! service {
    (
        commands { $($method:ident: $Request:ident -> $Response:ident;)* }
        reads { $($read:ident: $Question:ident -> $Answer:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl PolicyService for Api {
            $(async fn $method(&self, request: Request<v1::$Request>) -> Result<Response<v1::$Response>, Status> {
                self.command(request).await
            })*

            $(async fn $read(&self, request: Request<v1::$Question>) -> Result<Response<v1::$Answer>, Status> {
                self.read(request, |machine, question| machine.$read(question)).await
            })*
        }
    };
}

service! {
    commands {
        put_bundle: PutBundleRequest -> PutBundleResponse;
        activate_bundle: ActivateBundleRequest -> ActivateBundleResponse;
        rollback_bundle: RollbackBundleRequest -> RollbackBundleResponse;
        deactivate_bundle: DeactivateBundleRequest -> DeactivateBundleResponse;
        delete_bundle: DeleteBundleRequest -> DeleteBundleResponse;
        put_policy_handler: PutPolicyHandlerRequest -> PutPolicyHandlerResponse;
        delete_policy_handler: DeletePolicyHandlerRequest -> DeletePolicyHandlerResponse;
        put_policy_settings: PutPolicySettingsRequest -> PutPolicySettingsResponse;
    }
    reads {
        list_bundles: ListBundlesRequest -> ListBundlesResponse;
        get_bundle: GetBundleRequest -> GetBundleResponse;
        list_violations: ListViolationsRequest -> ListViolationsResponse;
        list_policy_handlers: ListPolicyHandlersRequest -> ListPolicyHandlersResponse;
        get_policy_settings: GetPolicySettingsRequest -> GetPolicySettingsResponse;
    }
}
