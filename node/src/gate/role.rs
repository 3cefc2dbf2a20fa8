//! May the caller do it? By its roles, and by what its credential is for; both must allow. What nothing allows is refused.
//!
//! Judged here beside the plain wish of a command ([`permission`]): nobody gives away what they do not have, be it by a role, by a binding or
//! by a token, and a token for somebody else is never worth more than its maker; everybody may end their own tokens; who came with a
//! certificate may make tokens for themselves; and a worker gets work only where its maker may work now.

use tarn_machine::Access;
use tarn_machine::ids::Id;
use tarn_proto::v1::command::Body;
use tarn_proto::v1::{self, Rule};
use tonic::Code;

use super::permission::{self, ALL, ANYWHERE};
use super::plain::{NAME_BYTES_MAX, plain};
use super::roles::{self, Ground, ROOT, Wish};
use super::{Ask, Caller, Proof, Step, What, Workers};

pub(super) struct Role;

impl Step for Role {
    fn name(&self) -> &'static str {
        "role"
    }

    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection> {
        if ask.caller.proof == Proof::Own {
            return Ok(());
        }
        if let Proof::Driver { namespace, queues } = &ask.caller.proof {
            return granted(ask, namespace, queues);
        }
        if ask.caller.proof == Proof::Cluster {
            return submits(ask);
        }
        if !ask.state.has_roles() {
            return Ok(());
        }
        let judge = Judge { access: &ask.state.access, workers: &ask.state.workers, caller: ask.caller };
        match ask.what {
            What::Act(wish) => judge.require(&wish).map(drop),
            What::Command(command) => command.body.as_ref().map_or(Ok(()), |body| judge.command(body)),
        }
    }
}

/// Principals of the cluster itself: what they do is not asked of roles, so nobody may become one by a token.
const OWN_KINDS: [&str; 4] = ["node/", "join/", "cluster/", "driver/"];

/// Judges one caller.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Who may do what.
    pub access: &'a Access,
    /// Whose workers are whose.
    pub workers: &'a Workers,
    /// Who asks.
    pub caller: &'a Caller,
}

impl Judge<'_> {
    /// What allows a wish; `None` if nothing does, or if the credential is not for it.
    #[must_use]
    pub fn ground(&self, wish: &Wish<'_>) -> Option<Ground> {
        let ground = roles::judge(self.access, &self.caller.principal, wish)?;
        let fits = self.caller.scopes().is_none_or(|scopes| roles::allows(scopes, wish));
        (fits && self.maker_may(wish)).then_some(ground)
    }

    /// Whether who made the caller's token for somebody else may do it too: its principal may have been given more since.
    fn maker_may(&self, wish: &Wish<'_>) -> bool {
        let Proof::Token { id, .. } = &self.caller.proof else {
            return true;
        };
        let token = id.parse::<Id>().ok().and_then(|id| self.access.tokens.get(&id.0));
        token.is_none_or(|token| token.created_by == token.principal || roles::judge(self.access, &token.created_by, wish).is_some())
    }

    /// As [`Judge::ground`], as a refusal that says what is missing.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn require(&self, wish: &Wish<'_>) -> Result<Ground, v1::Rejection> {
        self.ground(wish).ok_or_else(|| self.missing(wish))
    }

    /// Judges a command.
    fn command(&self, body: &Body) -> Result<(), v1::Rejection> {
        if is_of_nodes(body) {
            let message = "nodes propose this by themselves, and take it from nobody";
            return Err(rejection(Code::PermissionDenied, "PERMISSION_DENIED", message.to_owned()));
        }
        match body {
            Body::PutToken(request) => return self.token(request),
            Body::RevokeToken(request) if self.owns_token(&request.token_id) => return Ok(()),
            Body::DrainWorker(request) if self.owns_worker(&request.worker_id) => return Ok(()),
            _ => permission::of_command(body, |wish| self.require(&wish).map(drop))?,
        }
        match body {
            Body::PutRole(request) => self.within(&request.rules, ALL),
            Body::PutBinding(request) => request
                .binding
                .as_ref()
                .map_or(Ok(()), |binding| self.within(roles::rules_of(self.access, &binding.role), &binding.namespace)),
            Body::LeaseTasks(request) => self.still_serves(&request.worker_id),
            _ => Ok(()),
        }
    }

    /// A token gives its bearer what its principal may do, as far as its scopes allow: its maker must be able to do as much.
    fn token(&self, request: &v1::PutTokenRequest) -> Result<(), v1::Rejection> {
        if OWN_KINDS.iter().any(|kind| request.principal.starts_with(kind)) {
            let message = format!("a token is for a user, and {} is of the cluster itself", plain(&request.principal, NAME_BYTES_MAX));
            return Err(rejection(Code::InvalidArgument, "INVALID_PRINCIPAL", message));
        }
        let own = *request.principal == *self.caller.principal;
        let by_certificate = matches!(self.caller.proof, Proof::Certificate { .. });
        // Who came with a credential that ends may not make one for themselves that lives on, unless a role says so.
        if !(own && by_certificate) {
            permission::of_command(&Body::PutToken(request.clone()), |wish| self.require(&wish).map(drop))?;
        }
        if !own {
            return self.outranks(&request.principal);
        }
        match (self.caller.scopes(), request.scopes.as_slice()) {
            (None, _) => Ok(()),
            (Some(_), []) => Err(beyond("do all that you may: name scopes within those of your own token")),
            (Some(own), asked) => match roles::rules_beyond(own, asked) {
                None => Ok(()),
                Some(wish) => Err(beyond(&wish)),
            },
        }
    }

    /// Whether the caller may do all that another principal may, which it would be for the bearer of a token of that one.
    fn outranks(&self, principal: &str) -> Result<(), v1::Rejection> {
        if principal == ROOT && *self.caller.principal != *ROOT {
            return Err(beyond(&format!("be {ROOT}")));
        }
        for (role, namespace) in roles::bindings(self.access, principal) {
            self.within(roles::rules_of(self.access, role), namespace)?;
        }
        Ok(())
    }

    /// Whether the caller may still work wherever the worker serves: that may have changed since it registered.
    fn still_serves(&self, worker_id: &str) -> Result<(), v1::Rejection> {
        let work_in = |namespace| self.require(&Wish { verb: "work", kind: "worker", name: worker_id, namespace: Some(namespace) });
        if work_in(ALL).is_ok() {
            return Ok(());
        }
        match self.workers.namespaces(worker_id) {
            // The kernel says so.
            None => Ok(()),
            Some(all) if all.is_empty() => work_in(ALL).map(drop),
            Some(some) => some.iter().try_for_each(|namespace| work_in(namespace).map(drop)),
        }
    }

    /// Whoever may work may also drain their own workers.
    fn owns_worker(&self, id: &str) -> bool {
        let work = Wish { verb: "work", kind: "worker", name: id, namespace: ANYWHERE };
        self.ground(&work).is_some() && self.workers.may_work_as(id, &self.caller.principal)
    }

    /// Who came with a token that is for certain things may end that token, and no other of theirs.
    fn owns_token(&self, id: &str) -> bool {
        if self.caller.scopes().is_some() {
            return matches!(&self.caller.proof, Proof::Token { id: own, .. } if **own == *id);
        }
        let id = id.parse::<Id>().ok();
        let token = id.and_then(|id| self.access.tokens.get(&id.0));
        token.is_some_and(|token| *token.principal == *self.caller.principal)
    }

    /// Nobody gives away what they do not have.
    fn within(&self, rules: &[Rule], namespace: &str) -> Result<(), v1::Rejection> {
        match roles::first_beyond(rules, Some(namespace), |wish| self.ground(wish).is_some()) {
            None => Ok(()),
            Some(wish) => Err(beyond(&wish)),
        }
    }

    fn missing(&self, wish: &Wish<'_>) -> v1::Rejection {
        let principal = &self.caller.principal;
        let by_role = roles::judge(self.access, principal, wish).is_some();
        let message = match by_role {
            true => format!("this token is not for it: {principal} may {wish}, and none of the token's scopes does"),
            false => format!("{principal} may not {wish}: no role of theirs allows it; ask an administrator for one (`tarn role bind`)"),
        };
        rejection(Code::PermissionDenied, "PERMISSION_DENIED", message)
    }
}

/// What only nodes propose, for what they did or saw themselves.
fn is_of_nodes(body: &Body) -> bool {
    matches!(
        body,
        Body::RaiseVersion(_)
            | Body::ConsumeJoinToken(_)
            | Body::RecordViolations(_)
            | Body::AcknowledgeEscalations(_)
            | Body::RecordDecisions(_)
            | Body::PlaceTasks(_)
            | Body::AdvanceDriver(_)
    )
}

/// Another cluster has no roles: whoever let it in has allowed it to hand over tasks, and nothing else.
fn submits(ask: &Ask<'_>) -> Result<(), v1::Rejection> {
    match ask.what {
        What::Command(v1::Command { body: Some(Body::Enqueue(_)), .. }) => Ok(()),
        _ => Err(rejection(Code::PermissionDenied, "PERMISSION_DENIED", "another cluster only hands over tasks".to_owned())),
    }
}

/// A driver has no roles: it may do what it was granted.
fn granted(ask: &Ask<'_>, namespace: &str, queues: &[String]) -> Result<(), v1::Rejection> {
    let What::Command(command) = ask.what else {
        return Err(rejection(Code::PermissionDenied, "PERMISSION_DENIED", "a driver only submits tasks".to_owned()));
    };
    let Some(Body::Enqueue(request)) = &command.body else {
        return Err(rejection(Code::PermissionDenied, "PERMISSION_DENIED", "a driver only submits tasks".to_owned()));
    };
    let foreign = request.namespace != namespace;
    let beyond = request.tasks.iter().find(|task| foreign || !queues.iter().any(|queue| roles::covers(queue, &task.queue)));
    match beyond {
        None => Ok(()),
        Some(task) => {
            let message = format!(
                "{} was not granted the queue {}: add it to its grants with `tarn driver upgrade --queue`",
                ask.caller.principal,
                plain(&task.queue, NAME_BYTES_MAX)
            );
            Err(rejection(Code::PermissionDenied, "PERMISSION_DENIED", message))
        }
    }
}

fn beyond(what: &str) -> v1::Rejection {
    let message = format!("nobody can give away more than they may do themselves, and this would allow to {what}");
    rejection(Code::PermissionDenied, "GRANT_BEYOND_OWN", message)
}

fn rejection(code: Code, reason: &str, message: String) -> v1::Rejection {
    v1::Rejection { code: code as u32, reason: reason.into(), message, ..v1::Rejection::default() }
}
