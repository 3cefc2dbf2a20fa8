//! Names of namespaces, queues and roles: no way up, no look-alikes, no control characters.

use tarn_machine::{check, limits};
use tarn_proto::v1::command::Body;
use tarn_proto::v1::{Command, CreateNamespaceRequest, EnqueueRequest, PutRoleRequest, TaskSpec};

use crate::target;

/// Whether it can be nothing but a name: of the letters that look like nothing else, and no path.
fn is_plain(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=limits::NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|byte| first(byte) || b"._-".contains(&byte))
        && !text.contains('/')
}

fn taken(body: Body) -> bool {
    let command = Command { principal: "user/fuzz".into(), body: Some(body), ..Command::default() };
    check::validate(&command).is_ok()
}

fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let plain = is_plain(&text);
    let namespace = CreateNamespaceRequest { name: text.clone(), ..CreateNamespaceRequest::default() };
    assert_eq!(taken(Body::CreateNamespace(namespace)), plain, "the namespace {text:?}");
    let task = TaskSpec { queue: text.clone(), ..TaskSpec::default() };
    let enqueue = EnqueueRequest { namespace: text.clone(), tasks: vec![task], ..EnqueueRequest::default() };
    assert!(plain || text.is_empty() || !taken(Body::Enqueue(enqueue)), "a task into {text:?}");
    let role = PutRoleRequest { name: text.clone(), ..PutRoleRequest::default() };
    assert!(plain || !taken(Body::PutRole(role)), "the role {text:?}");
}

target!(any_name, name);
