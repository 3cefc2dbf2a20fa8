//! Certificates of the cluster, used where they do not belong.

use tarn::identity::{nodes_only, users_only};
use tonic::Code;

use super::support::*;

#[tokio::test]
async fn a_node_certificate_is_no_users() {
    let server = TestServer::start(Setup { door: users_only, ..Setup::default() }).await;
    server.call(&server.issue(&user("ada"))).await.unwrap();
    let status = server.call(&server.issue(&node(2))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("needs a user's certificate"), "{status}");
    server.logs.assert_line(&["WARN", "refused a request", "USER_CERTIFICATE_REQUIRED", "node 2"]);
}

#[tokio::test]
async fn a_user_certificate_is_no_nodes() {
    let server = TestServer::start(Setup { door: nodes_only, ..Setup::default() }).await;
    server.call(&server.issue(&node(2))).await.unwrap();
    let status = server.call(&server.issue(&user("ada"))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("the cluster's own nodes"), "{status}");
    server.logs.assert_line(&["WARN", "refused a request", "NODE_CERTIFICATE_REQUIRED", "user ada"]);
}
