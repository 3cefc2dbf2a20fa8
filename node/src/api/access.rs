//! `AccessService`: who may do what, told and changed.

use tarn_proto::v1::access_service_server::AccessService;
use tarn_proto::v1::{self, Binding};
use tonic::{Request, Response, Status};

use super::call::{Api, Call};
use crate::gate::permission::ALL;
use crate::gate::{Judge, Question, Reason, Refusal, Wish, roles};

#[tonic::async_trait]
impl AccessService for Api {
    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let call = self.enter(&request)?;
        let answer = self.who_am_i(&call).map_err(|refusal| call.status(refusal))?;
        Ok(Response::new(answer))
    }

    async fn can_i(&self, request: Request<v1::CanIRequest>) -> Result<Response<v1::CanIResponse>, Status> {
        let call = self.enter(&request)?;
        let answer = self.can_i(&call, &request.into_inner());
        answer.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn put_role(&self, request: Request<v1::PutRoleRequest>) -> Result<Response<v1::PutRoleResponse>, Status> {
        self.command(request).await
    }

    async fn delete_role(&self, request: Request<v1::DeleteRoleRequest>) -> Result<Response<v1::DeleteRoleResponse>, Status> {
        self.command(request).await
    }

    async fn list_roles(&self, request: Request<v1::ListRolesRequest>) -> Result<Response<v1::ListRolesResponse>, Status> {
        let mut answer = self.read(request, |machine, question| machine.list_roles(question)).await?;
        let own = std::mem::take(&mut answer.get_mut().roles);
        answer.get_mut().roles = roles::built_in_roles().iter().cloned().chain(own).collect();
        Ok(answer)
    }

    async fn put_binding(&self, request: Request<v1::PutBindingRequest>) -> Result<Response<v1::PutBindingResponse>, Status> {
        self.command(request).await
    }

    async fn delete_binding(&self, request: Request<v1::DeleteBindingRequest>) -> Result<Response<v1::DeleteBindingResponse>, Status> {
        self.command(request).await
    }

    async fn list_bindings(&self, request: Request<v1::ListBindingsRequest>) -> Result<Response<v1::ListBindingsResponse>, Status> {
        self.read(request, |machine, question| machine.list_bindings(question)).await
    }

    async fn put_token(&self, request: Request<v1::PutTokenRequest>) -> Result<Response<v1::PutTokenResponse>, Status> {
        self.command(request).await
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        self.command(request).await
    }

    async fn list_tokens(&self, request: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        let call = self.enter(&request)?;
        let question = request.into_inner();
        let answer = self.list_tokens(&call, question).await;
        answer.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn revoke_certificate(
        &self,
        request: Request<v1::RevokeCertificateRequest>,
    ) -> Result<Response<v1::RevokeCertificateResponse>, Status> {
        self.command(request).await
    }

    async fn list_revocations(
        &self,
        request: Request<v1::ListRevocationsRequest>,
    ) -> Result<Response<v1::ListRevocationsResponse>, Status> {
        self.read(request, |machine, question| machine.list_revocations(question)).await
    }
}

impl Api {
    /// Everybody may know who they are, as long as their credential is good.
    fn who_am_i(&self, call: &Call) -> Result<v1::WhoAmIResponse, Refusal> {
        let caller = &call.caller;
        self.way.recognise(caller)?;
        let state = self.way.snapshot()?;
        let bindings = roles::bindings(&state.access, &caller.principal).map(|(role, namespace)| Binding {
            principal: caller.principal.to_string(),
            role: role.to_owned(),
            namespace: namespace.to_owned(),
        });
        Ok(v1::WhoAmIResponse {
            principal: caller.principal.to_string(),
            method: caller.method().to_owned(),
            bindings: bindings.collect(),
            scopes: caller.scopes().unwrap_or_default().to_vec(),
        })
    }

    /// Everybody may ask about themselves; about others, whoever may read bindings.
    fn can_i(&self, call: &Call, request: &v1::CanIRequest) -> Result<v1::CanIResponse, Refusal> {
        let caller = &call.caller;
        self.way.recognise(caller)?;
        let wish = wish_of(request)?;
        let state = self.way.snapshot()?;
        if request.principal.is_empty() || *request.principal == *caller.principal {
            let judge = Judge { access: &state.access, workers: &state.workers, caller };
            return Ok(match judge.require(&wish) {
                Ok(ground) => allowed(&ground),
                Err(refusal) => v1::CanIResponse { allowed: false, why: refusal.message },
            });
        }
        let others = v1::ListBindingsRequest { principal: request.principal.clone() };
        self.way.admit(caller, others.wish())?;
        Ok(match roles::judge(&state.access, &request.principal, &wish) {
            Some(ground) => allowed(&ground),
            None => v1::CanIResponse { allowed: false, why: format!("{} may not {wish}: no role of theirs allows it", request.principal) },
        })
    }

    /// Everybody may list their own tokens, but not with one that is for certain things alone.
    async fn list_tokens(&self, call: &Call, question: v1::ListTokensRequest) -> Result<v1::ListTokensResponse, Refusal> {
        match *question.principal == *call.caller.principal && call.caller.scopes().is_none() {
            true => self.way.recognise(&call.caller)?,
            false => self.way.admit(&call.caller, question.wish())?,
        }
        self.way.barrier(call.deadline).await?;
        self.way.look(|machine| machine.list_tokens(&question))
    }
}

fn allowed(ground: &roles::Ground) -> v1::CanIResponse {
    v1::CanIResponse { allowed: true, why: ground.to_string() }
}

fn wish_of(request: &v1::CanIRequest) -> Result<Wish<'_>, Refusal> {
    if request.verb.is_empty() || request.resource.is_empty() {
        let message = "name a verb and a resource, such as `submit queue/mail`";
        return Err(Reason::InvalidArgument.refusal(message).field("resource"));
    }
    let (kind, name) = request.resource.split_once('/').unwrap_or((&request.resource, ALL));
    let namespace = match request.namespace.as_str() {
        "" => ALL,
        namespace => namespace,
    };
    Ok(Wish { verb: &request.verb, kind, name, namespace: Some(namespace) })
}
