//! The gate: nothing is reachable around it, and nobody gets more than they were given.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tarn_client::ApiToken;
use tarn_client::tls::PrincipalKind;
use tarn_proto::v1::access_service_client::AccessServiceClient;
use tarn_proto::v1::command::Body;
use tarn_proto::v1::command_service_client::CommandServiceClient;
use tarn_proto::v1::namespace_service_client::NamespaceServiceClient;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tarn_proto::v1::{self, outcome, work_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::common::{Node, node, reason, task};

fn user(name: &str) -> PrincipalKind {
    PrincipalKind::User { name: name.into() }
}

fn rule(verbs: &[&str], resources: &[&str]) -> v1::Rule {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    v1::Rule { verbs: texts(verbs), resources: texts(resources) }
}

fn binding(principal: &str, role: &str, namespace: &str) -> v1::PutBindingRequest {
    v1::PutBindingRequest {
        binding: Some(v1::Binding { principal: principal.into(), role: role.into(), namespace: namespace.into() }),
        ..v1::PutBindingRequest::default()
    }
}

fn enqueue(namespace: &str, queue: &str) -> v1::EnqueueRequest {
    v1::EnqueueRequest { namespace: namespace.into(), tasks: vec![task(queue, b"x")], ..v1::EnqueueRequest::default() }
}

impl Node {
    fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// As root: gives somebody a role.
    pub async fn bind(&self, principal: &str, role: &str, namespace: &str) {
        let request = binding(principal, role, namespace);
        self.access().put_binding(request).await.unwrap();
    }

    /// As root: makes a namespace.
    pub async fn namespace(&self, name: &str) {
        let request = v1::CreateNamespaceRequest { name: name.into(), ..v1::CreateNamespaceRequest::default() };
        self.namespaces().create_namespace(request).await.unwrap();
    }
}

/// Makes a token by this connection.
async fn token(by: &Channel, request: v1::PutTokenRequest) -> Result<(ApiToken, v1::Token), Status> {
    let secret = ApiToken::generate();
    let request = v1::PutTokenRequest { secret_hash: secret.secret_hash().to_vec().into(), ..request };
    let made = AccessServiceClient::new(by.clone()).put_token(request).await?;
    Ok((secret, made.into_inner().token.unwrap()))
}

fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, wanted: &str) {
    let status = answer.unwrap_err();
    assert_eq!(reason(&status), wanted, "{status}");
}

// --- Every method ----------------------------------------------------------------------------------------------------------------------

/// Messages as they are on the wire.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Calls a method with one message, and reads its first answer.
async fn call(channel: &Channel, method: &MethodDescriptor, message: Bytes) -> Result<Option<Bytes>, Status> {
    let path: PathAndQuery = format!("/{}/{}", method.parent_service().full_name(), method.name()).parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let request = Request::new(tokio_stream::once(message));
    let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
    answers.message().await
}

/// What anybody may call who has a good certificate: about themselves, or a stream whose messages are judged one by one.
const OPEN: [&str; 3] = ["tarn.v1.AccessService.WhoAmI", "tarn.v1.AccessService.CanI", "tarn.v1.CommandService.Pipeline"];

#[tokio::test(flavor = "multi_thread")]
async fn no_method_is_reachable_without_a_role() {
    let node = node().await;
    let nobody = node.dial_as(user("nobody")).await;
    let contract = DescriptorPool::decode(tarn_proto::DESCRIPTORS).unwrap();
    let mut asked = 0;
    for service in contract.services() {
        for method in service.methods() {
            let name = method.full_name().to_owned();
            let opening = v1::WorkRequest {
                correlation: 1,
                message: Some(work_request::Message::Open(v1::WorkOpen { worker_id: "0000000000001".into(), ..v1::WorkOpen::default() })),
            };
            let message = match name.as_str() {
                "tarn.v1.WorkerService.Work" => opening.encode_to_vec().into(),
                _ => Bytes::new(),
            };
            asked += 1;
            // Other clusters have a listener of their own: here, nobody reaches what is for them.
            if service.name() == "GatewayService" {
                let status = call(&nobody, &method, message).await.unwrap_err();
                assert_eq!(status.code(), Code::Unimplemented, "{name}: {status}");
                continue;
            }
            if OPEN.contains(&name.as_str()) {
                continue;
            }
            match call(&nobody, &method, message).await {
                Ok(answer) => panic!("{name} answers somebody without a role: {answer:?}"),
                Err(status) => assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status}"),
            }
        }
    }
    assert!(asked > 40, "the contract has all its methods");

    // The stream that is open to all lets no command through.
    let (send, requests) = mpsc::channel(1);
    let mut stream = CommandServiceClient::new(nobody).pipeline(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let request = v1::PipelineRequest {
        command: Some(v1::Command { body: Some(Body::Enqueue(enqueue("default", "q"))), ..v1::Command::default() }),
        ..v1::PipelineRequest::default()
    };
    send.send(request).await.unwrap();
    let answer = stream.message().await.unwrap().unwrap().outcome.unwrap().body.unwrap();
    let outcome::Body::Rejected(rejection) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(rejection.reason, "PERMISSION_DENIED");
    node.running.shutdown().await;
}

// --- Roles -----------------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_role_holds_in_its_namespace_and_ends_on_open_connections() {
    let node = node().await;
    node.namespace("team-a").await;
    node.bind("user/ada", "developer", "team-a").await;
    let ada = node.dial_as(user("ada")).await;
    let mut tasks = TaskServiceClient::new(ada.clone());
    tasks.enqueue(enqueue("team-a", "q")).await.unwrap();
    for namespace in ["default", "", "team-b", "team-a/../default", "*", "?", "team-а", "TEAM-A"] {
        refused(tasks.enqueue(enqueue(namespace, "q")).await, "PERMISSION_DENIED");
    }
    let everywhere = v1::ListTasksRequest { namespace: "*".into(), ..v1::ListTasksRequest::default() };
    refused(tasks.list_tasks(everywhere).await, "PERMISSION_DENIED");

    let mut access = AccessServiceClient::new(ada);
    let me = access.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((&*me.principal, &*me.method, me.bindings.len()), ("user/ada", "certificate", 1));
    let can = |verb: &str, resource: &str, namespace: &str| v1::CanIRequest {
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        principal: String::new(),
    };
    assert!(access.can_i(can("submit", "queue/q", "team-a")).await.unwrap().into_inner().allowed);
    assert!(!access.can_i(can("submit", "queue/q", "")).await.unwrap().into_inner().allowed);
    let of_root = v1::CanIRequest { principal: "user/admin".into(), ..can("submit", "queue", "") };
    refused(access.can_i(of_root).await, "PERMISSION_DENIED");

    let v1::PutBindingRequest { binding: given, .. } = binding("user/ada", "developer", "team-a");
    let unbind = v1::DeleteBindingRequest { binding: given, ..v1::DeleteBindingRequest::default() };
    node.access().delete_binding(unbind).await.unwrap();
    refused(tasks.enqueue(enqueue("team-a", "q")).await, "PERMISSION_DENIED");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_they_do_not_have() {
    let node = node().await;
    node.bind("user/lead", "admin", "team-*").await;
    let lead = node.dial_as(user("lead")).await;
    let mut access = AccessServiceClient::new(lead.clone());
    access.put_binding(binding("user/ada", "developer", "team-a")).await.unwrap();
    for (principal, role, namespace) in
        [("user/lead", "admin", "*"), ("user/lead", "viewer", "default"), ("user/ada", "auditor", "team*"), ("user/*", "viewer", "*")]
    {
        refused(access.put_binding(binding(principal, role, namespace)).await, "PERMISSION_DENIED");
    }
    let role = v1::PutRoleRequest { name: "mine".into(), rules: vec![rule(&["read"], &["task/*"])], ..v1::PutRoleRequest::default() };
    refused(access.put_role(role.clone()).await, "PERMISSION_DENIED");

    // May make roles and bindings everywhere, and still only of what they may do.
    let keeper = v1::PutRoleRequest {
        name: "keeper".into(),
        rules: vec![rule(&["update"], &["role/*", "binding/*"]), rule(&["read"], &["task/*"])],
        ..v1::PutRoleRequest::default()
    };
    node.access().put_role(keeper).await.unwrap();
    node.bind("user/keeper", "keeper", "*").await;
    let mut access = AccessServiceClient::new(node.dial_as(user("keeper")).await);
    access.put_role(role.clone()).await.unwrap();
    let own_role = |rules: Vec<v1::Rule>| v1::PutRoleRequest { name: "keeper".into(), rules, ..v1::PutRoleRequest::default() };
    for beyond in [rule(&["*"], &["*"]), rule(&["read"], &["*"]), rule(&["read"], &["ta*"]), rule(&["read", "cancel"], &["task/*"])] {
        refused(access.put_role(own_role(vec![beyond])).await, "GRANT_BEYOND_OWN");
    }
    refused(access.put_binding(binding("user/keeper", "admin", "default")).await, "GRANT_BEYOND_OWN");
    node.running.shutdown().await;
}

// --- Credentials -----------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_what_its_scopes_allow_until_it_is_revoked() {
    let node = node().await;
    node.bind("user/ada", "developer", "default").await;
    let ada = node.dial_as(user("ada")).await;
    let scoped = v1::PutTokenRequest {
        name: "ci".into(),
        principal: "user/ada".into(),
        scopes: vec![rule(&["submit"], &["queue/build"])],
        ..v1::PutTokenRequest::default()
    };
    let (secret, made) = token(&ada, scoped).await.unwrap();
    let secret = secret.reveal();

    // Whoever else has a connection may speak as ada with it, and no further than its scopes.
    let mut tasks = TaskServiceClient::new(node.dial_as(user("nobody")).await);
    tasks.enqueue(bearing(&secret, enqueue("", "build"))).await.unwrap();
    refused(tasks.enqueue(bearing(&secret, enqueue("", "mail"))).await, "PERMISSION_DENIED");
    refused(tasks.list_tasks(bearing(&secret, v1::ListTasksRequest::default())).await, "PERMISSION_DENIED");
    // It cannot become another that may do more, or lives longer.
    let wider = v1::PutTokenRequest { secret_hash: vec![7; 32].into(), principal: "user/ada".into(), ..v1::PutTokenRequest::default() };
    let mut access = AccessServiceClient::new(ada.clone());
    refused(access.put_token(bearing(&secret, wider)).await, "PERMISSION_DENIED");

    // Nor does it tell of the others, or end them; itself it may end.
    let own = v1::ListTokensRequest { principal: "user/ada".into() };
    refused(access.list_tokens(bearing(&secret, own)).await, "PERMISSION_DENIED");
    let full = v1::PutTokenRequest { principal: "user/ada".into(), ..v1::PutTokenRequest::default() };
    let (_, full) = token(&ada, full).await.unwrap();
    let revoke = |token: v1::Token| v1::RevokeTokenRequest { token_id: token.token_id, ..v1::RevokeTokenRequest::default() };
    refused(access.revoke_token(bearing(&secret, revoke(full))).await, "PERMISSION_DENIED");
    access.revoke_token(bearing(&secret, revoke(made))).await.unwrap();
    refused(tasks.enqueue(bearing(&secret, enqueue("", "build"))).await, "TOKEN_UNKNOWN");
    refused(tasks.enqueue(bearing("tarn_x", enqueue("", "build"))).await, "TOKEN_MALFORMED");
    refused(tasks.enqueue(bearing("x", enqueue("", "build"))).await, "TOKEN_MALFORMED");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_others_need_what_the_others_have() {
    let node = node().await;
    let maker = v1::PutRoleRequest {
        name: "maker".into(),
        rules: vec![rule(&["create"], &["token/*"]), rule(&["read"], &["task/*"])],
        ..v1::PutRoleRequest::default()
    };
    node.access().put_role(maker).await.unwrap();
    node.bind("user/maker", "maker", "*").await;
    node.bind("user/ada", "developer", "default").await;
    let maker = node.dial_as(user("maker")).await;
    let of = |principal: &str| v1::PutTokenRequest { principal: principal.into(), ..v1::PutTokenRequest::default() };
    let (secret, _) = token(&maker, of("user/without-roles")).await.unwrap();
    refused(token(&maker, of("user/ada")).await, "GRANT_BEYOND_OWN");
    refused(token(&maker, of("user/admin")).await, "GRANT_BEYOND_OWN");
    for own in ["node/1", "join/x", "cluster/founding"] {
        refused(token(&maker, of(own)).await, "INVALID_PRINCIPAL");
        refused(token(&node.channel, of(own)).await, "INVALID_PRINCIPAL");
    }
    let nobody = node.dial_as(user("nobody")).await;
    refused(token(&nobody, of("user/ada")).await, "PERMISSION_DENIED");

    // Whom the token is for may do more now; who made it may not, so neither may its bearer.
    node.bind("user/without-roles", "admin", "*").await;
    let mut access = AccessServiceClient::new(nobody.clone());
    let grab = binding("user/maker", "admin", "*");
    refused(access.put_binding(bearing(&secret.reveal(), grab)).await, "PERMISSION_DENIED");
    let list = v1::ListTasksRequest::default();
    let mut tasks = TaskServiceClient::new(nobody);
    tasks.list_tasks(bearing(&secret.reveal(), list)).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_policies_are_not_chosen_by_who_may_only_update_a_namespace() {
    let node = node().await;
    node.namespace("team").await;
    node.bind("user/op", "operator", "*").await;
    let mut op = NamespaceServiceClient::new(node.dial_as(user("op")).await);
    let weight = v1::UpdateNamespaceRequest { name: "team".into(), weight: Some(7), ..v1::UpdateNamespaceRequest::default() };
    op.update_namespace(weight.clone()).await.unwrap();
    let environment = v1::UpdateNamespaceRequest { environment: Some("nowhere".into()), ..weight };
    refused(op.update_namespace(environment.clone()).await, "PERMISSION_DENIED");
    node.namespaces().update_namespace(environment).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_on_its_open_connection() {
    let node = node().await;
    let (ada, serial) = node.dial_with_serial(user("ada")).await;
    let mut access = AccessServiceClient::new(ada);
    access.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let revoke = v1::RevokeCertificateRequest { serial, reason: "lost".into(), ..v1::RevokeCertificateRequest::default() };
    node.access().revoke_certificate(revoke).await.unwrap();
    let status = access.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    // The gate says why for as long as the connection stands, which is not for long.
    if status.code() == Code::Unauthenticated {
        assert_eq!(reason(&status), "CERTIFICATE_REVOKED");
    }
    assert!(access.who_am_i(v1::WhoAmIRequest {}).await.is_err());
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_asks_for_is_repeated_in_plain_words_and_not_at_length() {
    let node = node().await;
    node.raise_version().await;
    let mut eve = TaskServiceClient::new(node.dial_as(user("eve")).await).max_encoding_message_size(64 << 20);
    for task_id in ["\u{1}".repeat(7 << 20), "x\nFORGED LINE\u{202e}".to_owned()] {
        let request = v1::GetTaskRequest { task_id, ..v1::GetTaskRequest::default() };
        let status = eve.get_task(request).await.unwrap_err();
        assert_eq!(reason(&status), "PERMISSION_DENIED");
        let told = status.message();
        assert!(told.len() < 1_024 && !told.contains(char::is_control), "{told}");
        assert!(!told.contains('\u{202e}'), "{told}");
    }
    node.running.shutdown().await;
}
