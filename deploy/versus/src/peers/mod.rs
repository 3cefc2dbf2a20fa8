//! The peers: clusters of other systems on loopback, each with its durable setting, and loads against them.
//!
//! ```text
//!   servers    processes of servers: started, watched until they serve, ended
//!   pace       when operations are due, and which of them count
//!   queue      submits tasks and keeps account of each until it is acknowledged
//!   etcd       etcd
//!   nats       NATS JetStream
//!   rabbitmq   RabbitMQ's quorum queues
//!   restate    Restate
//! ```

pub mod etcd;
pub mod nats;
pub mod pace;
pub mod queue;
pub mod rabbitmq;
pub mod restate;
pub mod servers;

/// A system that cannot do what is asked for, as it is installed here: nothing failed, and there is nothing to compare.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
