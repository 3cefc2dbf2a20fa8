//! All services with their limits, as one router.

use std::sync::Arc;
use std::time::Duration;

use tarn_client::tls::PrincipalKind;
use tarn_proto::DESCRIPTORS;
use tarn_proto::v1::access_service_server::AccessServiceServer;
use tarn_proto::v1::artifact_service_server::ArtifactServiceServer;
use tarn_proto::v1::audit_service_server::AuditServiceServer;
use tarn_proto::v1::cluster_service_server::ClusterServiceServer;
use tarn_proto::v1::command_service_server::CommandServiceServer;
use tarn_proto::v1::context_service_server::ContextServiceServer;
use tarn_proto::v1::driver_service_server::DriverServiceServer;
use tarn_proto::v1::event_service_server::EventServiceServer;
use tarn_proto::v1::federation_service_server::FederationServiceServer;
use tarn_proto::v1::join_service_server::JoinServiceServer;
use tarn_proto::v1::lease_service_server::LeaseServiceServer;
use tarn_proto::v1::namespace_service_server::NamespaceServiceServer;
use tarn_proto::v1::peer_service_server::PeerServiceServer;
use tarn_proto::v1::policy_service_server::PolicyServiceServer;
use tarn_proto::v1::queue_service_server::QueueServiceServer;
use tarn_proto::v1::scheduler_service_server::SchedulerServiceServer;
use tarn_proto::v1::task_service_server::TaskServiceServer;
use tarn_proto::v1::timer_service_server::TimerServiceServer;
use tarn_proto::v1::worker_service_server::WorkerServiceServer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::Builder as Reflection;

use super::doorkeeper::Doorkeeper;
use super::patience::PatienceLayer;
use super::{Api, AuditApi, ClusterApi, DriverApi, FederationApi, JoinApi, TraceLayer};
use crate::artifacts::ArtifactApi;
use crate::identity::web::WebStream;
use crate::identity::{Denied, Incoming, PeerIdentity, users_only};
use crate::peer::PeerApi;

/// The longest request, in bytes: twice the kernel's longest command, so that what is too long is refused by the rule it breaks, with a
/// reason, and not by its length on the wire; and still little enough that a hundred at once fit into memory.
const REQUEST_BYTES_MAX: usize = 2 * tarn_machine::limits::COMMAND_BYTES_MAX;

/// The longest answer, in bytes: a full page of tasks whose specifications are large. Callers that take less ask for smaller pages.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Requests of one connection under way at once. HTTP/2 makes further ones wait at the sender.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;

/// The same on the second listener, where a browser or a program in another language shares one connection and not hundreds of workers.
const WEB_STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// A request's headers, in bytes, decoded: room for the longest bearer's credential twice over. More is answered with 431.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Requests that were cancelled before they were looked at, of one connection: who makes more of them attacks.
const PENDING_RESETS_MAX: usize = 20;

/// A connection of the second listener.
type WebConnection = WebStream<TlsStream<TcpStream>>;

/// HTTP/2 windows, in bytes: what a sender may have under way before it is read. Large enough for a snapshot's chunks at full speed.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A connection without traffic is asked for a sign of life this often, and closed when there is none for [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Every service of a node.
pub struct Services {
    /// The services over the generic path.
    pub api: Api,
    /// What was decided and why.
    pub audit: AuditApi,
    /// The cluster, for its operators.
    pub cluster: ClusterApi,
    /// Drivers.
    pub drivers: DriverApi,
    /// This cluster among others.
    pub federation: FederationApi,
    /// Artifacts, for users.
    pub artifacts: ArtifactApi,
    /// For machines that join.
    pub join: JoinApi,
    /// For peers, with their own limits.
    pub peers: PeerServiceServer<PeerApi>,
}

/// Tells the health of all services at once.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    names: Arc<[&'static str]>,
}

impl Health {
    /// Says of every service, and of the node as a whole, whether it serves.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in self.names.iter() {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

/// The services as each listener serves them.
pub struct Faces {
    /// For those with a certificate: all services.
    pub members: Routes,
    /// For bearers: the services for users. What is for nodes, joiners and certificates is not there.
    pub web: Routes,
    /// By which the health of all services is told.
    pub health: Health,
}

/// All services.
///
/// # Errors
/// The contract's descriptors do not decode: a defect of the build.
pub async fn routes(services: Services) -> Result<Faces, tonic_reflection::server::Error> {
    let Services { api, audit, cluster, drivers, federation, artifacts, join, peers } = services;
    let reporter = HealthReporter::new();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let mut web = Routes::new(health.clone());
    let mut routes = Routes::new(InterceptedService::new(health, members_only)).add_service(peers);
    // The node as a whole.
    let mut names = vec![""];
    macro_rules! add {
        ($($Server:ident($service:expr);)*) => {
            $(let service = $Server::new($service)
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .max_encoding_message_size(RESPONSE_BYTES_MAX);
            web = web.add_service(service.clone());
            routes = routes.add_service(service);
            names.push(<$Server<()> as NamedService>::NAME);)*
        };
    }
    add! {
        TaskServiceServer(api.clone());
        QueueServiceServer(api.clone());
        WorkerServiceServer(api.clone());
        LeaseServiceServer(api.clone());
        TimerServiceServer(api.clone());
        ContextServiceServer(api.clone());
        NamespaceServiceServer(api.clone());
        AccessServiceServer(api.clone());
        AuditServiceServer(audit);
        PolicyServiceServer(api.clone());
        SchedulerServiceServer(api.clone());
        CommandServiceServer(api.clone());
        EventServiceServer(api);
        ArtifactServiceServer(artifacts);
        DriverServiceServer(drivers);
        FederationServiceServer(federation);
        ClusterServiceServer(cluster);
    }
    let join = JoinServiceServer::new(join).max_decoding_message_size(REQUEST_BYTES_MAX).max_encoding_message_size(RESPONSE_BYTES_MAX);
    names.push(<JoinServiceServer<()> as NamedService>::NAME);
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    web = web.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    let members = routes
        .add_service(join)
        .add_service(InterceptedService::new(reflection().build_v1()?, users_only))
        .add_service(InterceptedService::new(reflection().build_v1alpha()?, users_only));
    let health = Health { reporter, names: names.into() };
    health.set(true).await;
    Ok(Faces { members, web, health })
}

/// Lets users and nodes through: whoever has only a join token may join, and nothing else.
fn members_only(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<PeerIdentity>().map(|peer| &peer.principal().kind) {
        Some(PrincipalKind::User { .. } | PrincipalKind::Node { .. }) => Ok(request),
        Some(PrincipalKind::Join { .. }) => Err(Denied::UserRequired { caller: "a machine that joins".into() }.into()),
        None => Err(Denied::Unknown.into()),
    }
}

/// Serves the connections that come in until `stop`, then lets requests under way finish.
///
/// # Errors
/// The server could not be made of these settings.
pub async fn serve(routes: Routes, trace: TraceLayer, incoming: Incoming, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
    server(STREAMS_PER_CONNECTION_MAX)
        .layer(trace)
        .layer(PatienceLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// The same for the second listener, where each request must bring a bearer's credential.
///
/// # Errors
/// The server could not be made of these settings.
pub async fn serve_web(
    routes: Routes,
    trace: TraceLayer,
    doorkeeper: Doorkeeper,
    incoming: Incoming<WebConnection>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    server(WEB_STREAMS_PER_CONNECTION_MAX)
        .layer(trace)
        // Before anything of the request's body is read.
        .layer(doorkeeper)
        .layer(PatienceLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// What both listeners' HTTP/2 allows. Frames longer than HTTP/2's usual 16 kiB end the connection, and so do more than twenty requests that
/// are cancelled before they were looked at.
fn server(streams: u32) -> Server {
    Server::builder()
        .max_concurrent_streams(streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}
