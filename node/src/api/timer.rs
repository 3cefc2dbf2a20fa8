//! `TimerService`.

use tarn_proto::v1;
use tarn_proto::v1::timer_service_server::TimerService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl TimerService for Api {
    async fn schedule_timer(&self, request: Request<v1::ScheduleTimerRequest>) -> Result<Response<v1::ScheduleTimerResponse>, Status> {
        self.command(request).await
    }

    async fn cancel_timer(&self, request: Request<v1::CancelTimerRequest>) -> Result<Response<v1::CancelTimerResponse>, Status> {
        self.command(request).await
    }

    async fn get_timer(&self, request: Request<v1::GetTimerRequest>) -> Result<Response<v1::GetTimerResponse>, Status> {
        self.read(request, |machine, question| machine.get_timer(question)).await
    }

    async fn list_timers(&self, request: Request<v1::ListTimersRequest>) -> Result<Response<v1::ListTimersResponse>, Status> {
        self.read(request, |machine, question| machine.list_timers(question)).await
    }
}
