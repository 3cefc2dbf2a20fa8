//! `SchedulerService`.

use tarn_proto::v1;
use tarn_proto::v1::scheduler_service_server::SchedulerService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl SchedulerService for Api {
    async fn get_scheduler_settings(
        &self,
        request: Request<v1::GetSchedulerSettingsRequest>,
    ) -> Result<Response<v1::GetSchedulerSettingsResponse>, Status> {
        self.read(request, |machine, _| {
            Ok(v1::GetSchedulerSettingsResponse { settings: Some(machine.scheduler_settings()), revision: machine.applied_index() })
        })
        .await
    }

    async fn put_scheduler_settings(
        &self,
        request: Request<v1::PutSchedulerSettingsRequest>,
    ) -> Result<Response<v1::PutSchedulerSettingsResponse>, Status> {
        self.command(request).await
    }
}
