//! Handlers: where violations are sent, and how far each has been told. Sending is the leader's node's part; it says here what has arrived,
//! so that another leader goes on from there, and nothing is left out.

use tarn_proto::v1::{
    AcknowledgeEscalations, DeletePolicyHandlerRequest, DeletePolicyHandlerResponse, EscalationsAcknowledged, PolicyHandler,
    PutPolicyHandlerRequest, PutPolicyHandlerResponse, Rejection,
};

use super::changed;
use crate::domain::parse_id;
use crate::error::Refusal;
use crate::ids::Id;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::HandlerRow;
use crate::txn::Txn;

/// The command: makes a handler or changes it. A new one is told of what comes from now on; a changed one goes on where it was.
pub fn put_handler(txn: &mut Txn<'_>, by: &str, request: PutPolicyHandlerRequest) -> Result<PutPolicyHandlerResponse, Refusal> {
    let known = txn.ix.handlers.get(request.name.as_str());
    if known.is_none() && txn.ix.handlers.len() >= limits::POLICY_HANDLERS_MAX {
        let message = "the cluster has too many handlers: delete one that is not needed";
        let limit = limits::POLICY_HANDLERS_MAX as u64;
        return Err(reject::full("TOO_MANY_HANDLERS", "name", limit, message).into());
    }
    let sent_up_to = known.map(|row| row.sent_up_to);
    let row = HandlerRow {
        environment: request.environment,
        policy: request.policy,
        url: request.url,
        min_severity: request.min_severity,
        secret: request.secret,
        put_at_ms: txn.now,
        put_by: by.to_owned(),
        sent_up_to: sent_up_to.unwrap_or_else(|| txn.next_id()),
    };
    changed(txn, format!("handler/{}", request.name), "put".to_owned());
    let handler = Some(handler(&request.name, &row));
    save(txn, &request.name, row);
    Ok(PutPolicyHandlerResponse { handler })
}

/// The command: nobody is told this way any more.
pub fn delete_handler(txn: &mut Txn<'_>, request: DeletePolicyHandlerRequest) -> Result<DeletePolicyHandlerResponse, Refusal> {
    let name = request.name.as_str();
    if !txn.ix.handlers.contains_key(name) {
        return Err(not_found(name).into());
    }
    txn.rows.delete(Key::PolicyHandler { name });
    changed(txn, format!("handler/{name}"), "deleted".to_owned());
    txn.ix.handlers.remove(name);
    Ok(DeletePolicyHandlerResponse {})
}

/// The command: a handler has been told everything up to a violation. An older word than the last changes nothing.
pub fn acknowledge(txn: &mut Txn<'_>, request: AcknowledgeEscalations) -> Result<EscalationsAcknowledged, Refusal> {
    let up_to = parse_id(&request.up_to, "up_to")?;
    let Some(row) = txn.ix.handlers.get(request.handler.as_str()) else {
        return Err(not_found(&request.handler).into());
    };
    if up_to >> limits::ORDINAL_BITS >= txn.index {
        let message = "up_to names what has not happened yet: acknowledge what was sent";
        return Err(reject::invalid("NOT_YET", "up_to", message).into());
    }
    if up_to > row.sent_up_to {
        let row = HandlerRow { sent_up_to: up_to, ..row.clone() };
        save(txn, &request.handler, row);
    }
    Ok(EscalationsAcknowledged {})
}

/// A handler as users see it.
pub fn handler(name: &str, row: &HandlerRow) -> PolicyHandler {
    PolicyHandler {
        name: name.to_owned(),
        environment: row.environment.clone(),
        policy: row.policy.clone(),
        url: row.url.clone(),
        min_severity: row.min_severity,
        secret: row.secret.clone(),
        put_at_ms: row.put_at_ms,
        put_by: row.put_by.clone(),
        sent_up_to: Id(row.sent_up_to).to_string(),
    }
}

fn save(txn: &mut Txn<'_>, name: &str, row: HandlerRow) {
    txn.rows.put(Key::PolicyHandler { name }, &row);
    txn.ix.handlers.insert(name.into(), row);
}

fn not_found(name: &str) -> Rejection {
    let message = format!("there is no handler {name:?}: list the handlers, or put it first");
    reject::not_found("HANDLER_NOT_FOUND", "name", message)
}
