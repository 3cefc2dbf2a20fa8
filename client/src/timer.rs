//! Timers: at a time, enqueue a task or mark an event.

use std::time::{Duration, SystemTime};

use futures::Stream;

use crate::client::{Client, rpc};
use crate::error::Error;
use crate::page;
use crate::proto::{self, timer_action::Action, timer_service_client::TimerServiceClient};
use crate::time::{millis, unix_millis};

/// When a timer fires. It never fires early, and fires once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At this time, by the cluster's clock; at once where it has passed.
    At(SystemTime),
    /// This long after the cluster takes the timer.
    After(Duration),
}

impl Client {
    /// Enqueues a task at a time. Returns the timer's id and when it is due.
    ///
    /// # Errors
    /// [`Error::Refused`] where the task is unacceptable; see [`Error`].
    pub async fn schedule_task(&self, when: When, task: impl Into<proto::TaskSpec>) -> Result<proto::ScheduleTimerResponse, Error> {
        self.schedule(when, Action::Enqueue(task.into())).await
    }

    /// Puts a text, up to 4 KiB, into the event stream at a time. Returns the timer's id and when it is due.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn schedule_mark(&self, when: When, text: impl Into<String>) -> Result<proto::ScheduleTimerResponse, Error> {
        self.schedule(when, Action::Mark(text.into())).await
    }

    async fn schedule(&self, when: When, action: Action) -> Result<proto::ScheduleTimerResponse, Error> {
        let (due_at_ms, delay_ms) = match when {
            // Zero would read as "not given".
            When::At(time) => (unix_millis(time).max(1), 0),
            When::After(delay) => (0, millis(delay).max(1)),
        };
        let request = proto::ScheduleTimerRequest {
            request_id: String::new(),
            namespace: self.ns(),
            due_at_ms,
            delay_ms,
            action: Some(Box::new(proto::TimerAction { action: Some(action) })),
        };
        self.command(request, rpc!(TimerServiceClient.schedule_timer)).await
    }

    /// Cancels a timer that has not fired.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such timer or it has fired; see [`Error`].
    pub async fn cancel_timer(&self, timer_id: impl Into<String>) -> Result<(), Error> {
        let request = proto::CancelTimerRequest { request_id: String::new(), namespace: self.ns(), timer_id: timer_id.into() };
        self.command(request, rpc!(TimerServiceClient.cancel_timer)).await.map(drop)
    }

    /// Reads a timer. Fired ones are kept for 24 hours.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such timer; see [`Error`].
    pub async fn get_timer(&self, timer_id: impl Into<String>) -> Result<proto::Timer, Error> {
        let request = proto::GetTimerRequest { namespace: self.ns(), timer_id: timer_id.into() };
        let answer = self.read(request, rpc!(TimerServiceClient.get_timer)).await?;
        answer.timer.ok_or_else(|| Error::Transport("the node answered without the timer".into()))
    }

    /// Lists the timers of the client's namespace, pending and fired, in the order of their ids.
    pub fn list_timers(&self) -> impl Stream<Item = Result<proto::Timer, Error>> + Send + use<> {
        let client = self.clone();
        page::items(move |page_token| {
            let client = client.clone();
            async move {
                let request = proto::ListTimersRequest { namespace: client.ns(), page_size: 0, page_token };
                let page = client.read(request, rpc!(TimerServiceClient.list_timers)).await?;
                Ok((page.timers, page.next_page_token))
            }
        })
    }
}
