//! How clusters come and go: invitations, joining, leaving, and the end of trust.

use std::time::Duration;

use prost::Message as _;
use tarn_client::tls::{Address, CaCertificate, ConnectOptions, connect, random_bytes, refusal_in};
use tarn_crdt::{
    Cluster, ClusterId, FederationId, Identity, PUBLIC_KEY_BYTES, Pqcrypto, Scheme, Scope, Shared, Write, card_is_signed, limits,
};
use tarn_proto::v1::gateway_service_client::GatewayServiceClient;
use tarn_proto::v1::{
    AdmitClusterRequest, AdmitClusterResponse, ClusterCard, ConsumeInvitation, FederationIdentity, InviteClusterRequest,
    InviteClusterResponse, JoinFederationRequest, JoinFederationResponse, LeaveFederationRequest, LinkState, PutInvitation, SharedEntry,
    StartFederation, WriteShared,
};
use tokio::time::Instant;
use tonic::Code;

use super::{Federation, members, publish};
use crate::api::rejection_of;
use crate::gate::{Caller, Refusal};
use crate::identity::JoinToken;

/// What an invitation begins with, in the place of a join token's beginning: one cannot be taken for the other.
const INVITATION: &str = "tarn-invite-1.";
const JOIN: &str = "tarn-join-1.";

/// How long an invitation is good if nothing else is said, and at most.
const TTL_MS: (u64, u64) = (60 * 60 * 1_000, 30 * 24 * 60 * 60 * 1_000);

/// Addresses in a card.
const ADDRESSES_MAX: usize = 64;

/// How often a cluster is looked at anew because another one was admitted at the same moment.
const ADMIT_TRIES: usize = 8;

/// Limit on each step of joining.
const STEP: Duration = Duration::from_secs(10);

/// How long a cluster that goes waits until the others know.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a joining cluster's key is derived under: the node's own key and the invitation give it, so that joining again after an answer was
/// lost is done with the same key.
const KEY_CONTEXT: &str = "tarn federation 1: key of a cluster that joins";

/// What the proof in a card is about.
fn proof_message(invitation: &[u8; 32]) -> Vec<u8> {
    [b"tarn federation join v1\0".as_slice(), invitation].concat()
}

impl Federation {
    /// Makes an invitation; founds the federation first if there is none.
    ///
    /// # Errors
    /// This node listens for no clusters; the caller may not; a section that does not exist.
    pub async fn invite(
        &self,
        caller: &Caller,
        request: InviteClusterRequest,
        deadline: Instant,
    ) -> Result<InviteClusterResponse, Refusal> {
        let scope = scope_of(&request.scope)?;
        let Some(gateway) = self.gateway() else {
            let message = "this node listens for no other clusters: set federation.bind in its configuration, such as 0.0.0.0:7613";
            return Err(refusal(Code::FailedPrecondition, "NO_GATEWAY", message));
        };
        if !self.is_member() {
            self.start(caller, random_bytes(), (None, names(Scope::ALL)), FederationId::new, deadline).await?;
        }
        self.may_give(scope)?;
        let (ttl, ttl_max) = TTL_MS;
        let ttl_ms = if request.ttl_ms == 0 { ttl } else { request.ttl_ms.min(ttl_max) };
        let token = self.new_token();
        let put = PutInvitation { key_hash: token.spki_hash().to_vec().into(), ttl_ms, scope: names(scope), ..PutInvitation::default() };
        let expires_at_ms = self.way().command(caller, put, deadline).await?.expires_at_ms;
        let addresses = self.way().consensus().read(members::own_addresses).unwrap_or_default();
        let addresses = if addresses.is_empty() { vec![gateway] } else { addresses };
        Ok(InviteClusterResponse { token: token.reveal().replacen(JOIN, INVITATION, 1), addresses, expires_at_ms })
    }

    /// Nobody gives more than they have: a member that this one introduced with more would be refused by all the others.
    fn may_give(&self, scope: Scope) -> Result<(), Refusal> {
        let own = self.way().consensus().read(members::own_scope).ok().flatten();
        if own.is_none_or(|own| own.holds(scope)) {
            return Ok(());
        }
        let message = "this cluster may not write all of these sections itself: see `tarn federation list`, and name fewer";
        Err(refusal(Code::PermissionDenied, "SCOPE_TOO_WIDE", message))
    }

    /// Begins to be in a federation.
    async fn start(
        &self,
        caller: &Caller,
        seed: [u8; 32],
        (inviter, scope): (Option<ClusterCard>, Vec<String>),
        federation: impl FnOnce(ClusterId, &str) -> FederationId,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let name = self.credentials().ca().cluster().to_owned();
        let key = Identity::from_seed(&Pqcrypto, &seed);
        let identity = FederationIdentity {
            federation_id: federation(key.id(), &name).0.to_vec().into(),
            card: Some(self.card(&key).await),
            secret_seed: seed.to_vec().into(),
            inviter,
            scope,
        };
        let start = StartFederation { identity: Some(identity), ..StartFederation::default() };
        self.way().command(caller, start, deadline).await.map(drop)
    }

    /// With the gateways of all nodes: only the leader's speaks for the cluster, and until a first link stands the others know no more than
    /// this.
    async fn card(&self, key: &Identity) -> ClusterCard {
        let (gateways, _) = publish::gateways(self).await;
        ClusterCard {
            cluster_id: key.id().0.to_vec().into(),
            name: self.credentials().ca().cluster().to_owned(),
            public_key: key.public_key().to_vec().into(),
            ca_certificate: self.credentials().ca().to_pem(),
            addresses: gateways.into_iter().take(ADDRESSES_MAX).collect(),
        }
    }

    /// Has this cluster join.
    ///
    /// # Errors
    /// What is wrong with the invitation; what the other cluster said; the caller may not.
    pub async fn join(
        &self,
        caller: &Caller,
        request: JoinFederationRequest,
        deadline: Instant,
    ) -> Result<JoinFederationResponse, Refusal> {
        let token = request.token.strip_prefix(INVITATION).map(|rest| format!("{JOIN}{rest}"));
        let token: JoinToken = token.and_then(|token| token.parse().ok()).ok_or_else(|| {
            invalid("token", "this is no invitation: expected tarn-invite-1.…, whole, as `tarn federation invite` prints it")
        })?;
        if self.is_member() {
            let message = "this cluster is in a federation already: leave that first, with `tarn federation leave`";
            return Err(refusal(Code::AlreadyExists, "FEDERATION_EXISTS", message));
        }
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(self.credentials().identity().key().pkcs8()).update(&token.spki_hash());
        let seed = *hasher.finalize().as_bytes();
        let key = Identity::from_seed(&Pqcrypto, &seed);
        let proof = key.sign(&proof_message(&token.spki_hash()));
        let card = self.card(&key).await.encode_to_vec();
        let question = AdmitClusterRequest { card: card.clone().into(), proof: proof.into(), ..AdmitClusterRequest::default() };
        // First which federation it is: the card is signed for that one alone.
        let (federation, _) = named_by(&token, &admitted_by(&token, &request.addresses, question.clone()).await?)?;
        let card_signature = key.sign_card(&federation, &card).into();
        let answer = admitted_by(&token, &request.addresses, AdmitClusterRequest { card_signature, ..question }).await?;
        let (named, inviter) = named_by(&token, &answer)?;
        if named != federation {
            return Err(refusal(Code::PermissionDenied, "WRONG_INVITER", "the cluster that invited has changed its federation: try again"));
        }
        let name = inviter.name.clone();
        self.start(caller, seed, (Some(inviter), answer.scope.clone()), |_, _| federation, deadline).await?;
        Ok(JoinFederationResponse { federation_id: answer.federation_id, inviter: name, scope: answer.scope })
    }

    /// Lets a cluster in that was invited: it has proven the invitation's key in its handshake, and proves its own here.
    ///
    /// # Errors
    /// The card is false, its name is taken, or the invitation was used by another.
    pub(super) async fn admit(&self, invitation: [u8; 32], request: AdmitClusterRequest) -> Result<AdmitClusterResponse, Refusal> {
        for _ in 1..ADMIT_TRIES {
            match self.try_admit(invitation, request.clone()).await {
                Err(refusal) if refusal.rejection.reason == "ADMITTED_MEANWHILE" => {}
                done => return done,
            }
        }
        self.try_admit(invitation, request).await
    }

    async fn try_admit(&self, invitation: [u8; 32], request: AdmitClusterRequest) -> Result<AdmitClusterResponse, Refusal> {
        let card = ClusterCard::decode(request.card.clone()).map_err(|_| invalid("card", "say who you are"))?;
        let (id, _) = checked(&card)?;
        if !Pqcrypto.verify(&card.public_key, &proof_message(&invitation), &request.proof) {
            return Err(refusal(Code::PermissionDenied, "BAD_PROOF", "the proof is not signed with the card's key"));
        }
        let deadline = Instant::now() + STEP;
        self.way().barrier(deadline).await?;
        let state = self.way().consensus().read(|machine| {
            let federation = machine.federation()?;
            Some((federation, machine.invitation_scope(&invitation)?, members::clusters(machine)))
        });
        let unknown = || refusal(Code::PermissionDenied, "INVITATION_UNKNOWN", "the invitation is unknown, used up or expired");
        let (federation, scope, clusters) = state.ok().flatten().ok_or_else(unknown)?;
        let own = federation.identity.clone();
        let own_card = own.card.unwrap_or_default();
        let taken = own_card.name == card.name
            || clusters.iter().any(|known| known.id != id && !known.removed && members::card(known).name == card.name);
        if taken {
            let message = format!("a cluster called {:?} is in the federation already: names of authorities must differ", card.name);
            return Err(refusal(Code::AlreadyExists, "CLUSTER_NAME_TAKEN", message));
        }
        let own_id = ClusterId(own_card.cluster_id.as_ref().try_into().map_err(|_| Refusal::internal("the own id has another length"))?);
        let answer = AdmitClusterResponse { federation_id: own.federation_id, inviter: Some(own_card), scope };
        if request.card_signature.is_empty() {
            return Ok(answer);
        }
        if !card_is_signed(&Pqcrypto, &federation_of(&answer)?, &card.public_key, &request.card, &request.card_signature) {
            return Err(refusal(Code::PermissionDenied, "BAD_PROOF", "the card is not signed with its own key for this federation"));
        }
        let introduction = Write::Introduce {
            public_key: card.public_key.to_vec(),
            scope: scope_of(&answer.scope)?,
            card: request.card.to_vec(),
            signature: request.card_signature.to_vec(),
        };
        let (key, value) = introduction.put(own_id);
        let consume = ConsumeInvitation {
            key_hash: invitation.to_vec().into(),
            cluster_id: id.0.to_vec().into(),
            writes: vec![SharedEntry { key, value: value.map(Into::into) }],
            // Its name was found to be free while there were so many: two that come at once do not both get it.
            expected_admitted: federation.admitted,
        };
        // Who joins was judged by its invitation; the node asks on its behalf.
        self.way().command(&self.caller(), consume, deadline).await?;
        tracing::info!(cluster = card.name, %id, "a cluster has joined the federation");
        Ok(answer)
    }

    /// Has this cluster go: the others are told, as far as they can be reached now, and then everything about the federation is forgotten here.
    ///
    /// # Errors
    /// The caller may not; tasks of other clusters run here.
    pub async fn leave(&self, caller: &Caller, request: LeaveFederationRequest, deadline: Instant) -> Result<(), Refusal> {
        let own = self.own_id().ok_or_else(no_federation)?;
        let now = |machine: &tarn_machine::Machine| Some((machine.open_transfers(), machine.federation()?.removed));
        let (open, removed) = self.way().consensus().read(now).ok().flatten().unwrap_or_default();
        if open > 0 {
            // The kernel refuses to leave, and says why: nobody is to be told before.
            return self.way().command(caller, request, deadline).await.map(drop);
        }
        // The others go on without it; who cannot be told now hears of it from those who were.
        if !removed {
            self.write(caller, Write::Remove(own), deadline).await?;
        }
        let goodbye = Instant::now() + GOODBYE;
        while Instant::now() < goodbye.min(deadline) {
            match self.status().await {
                Ok(status) if status.unsigned_writes == 0 && status.links.iter().all(|link| link.state() != LinkState::Syncing) => break,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        self.way().command(caller, request, deadline).await.map(drop)
    }

    /// Withdraws the trust in a member, by its name or id.
    ///
    /// # Errors
    /// There is none; it is this cluster; the caller may not.
    pub async fn remove(&self, caller: &Caller, cluster: &str, deadline: Instant) -> Result<(), Refusal> {
        let own = self.own_id().ok_or_else(no_federation)?;
        let clusters = self.way().consensus().read(members::clusters).unwrap_or_default();
        let is_meant = |known: &&Cluster| known.id.to_string() == cluster || members::card(known).name == cluster;
        let meant: Vec<&Cluster> = clusters.iter().filter(|known| !known.removed).filter(is_meant).collect();
        let found = match meant.as_slice() {
            [one] => *one,
            [] => {
                let message = format!("no member is called {cluster:?}: see `tarn federation list`");
                return Err(refusal(Code::NotFound, "CLUSTER_UNKNOWN", message));
            }
            _ => {
                let message = format!("several members are called {cluster:?}: name the one that is meant by its id");
                return Err(refusal(Code::FailedPrecondition, "CLUSTER_AMBIGUOUS", message));
            }
        };
        if found.id == own {
            return Err(refusal(Code::FailedPrecondition, "CLUSTER_IS_THIS", "this cluster leaves with `tarn federation leave`"));
        }
        self.write(caller, Write::Remove(found.id), deadline).await
    }

    async fn write(&self, caller: &Caller, write: Write, deadline: Instant) -> Result<(), Refusal> {
        let own = self.own_id().ok_or_else(no_federation)?;
        let (key, value) = write.put(own);
        let writes = vec![SharedEntry { key, value: value.map(Into::into) }];
        self.way().command(caller, WriteShared { writes, ..WriteShared::default() }, deadline).await.map(drop)
    }
}

/// Asks one gateway after the other.
async fn admitted_by(token: &JoinToken, addresses: &[String], question: AdmitClusterRequest) -> Result<AdmitClusterResponse, Refusal> {
    let mut last = "no address was given".to_owned();
    for text in addresses {
        let address: Address = text.parse().map_err(|error| invalid("addresses", format!("{error}")))?;
        let asked = async {
            let channel = connect(&address, token.client_config(), &ConnectOptions::default()).await.map_err(|error| {
                let why = refusal_in(&error).map_or_else(|| error.reason.clone(), |refusal| refusal.to_string());
                tonic::Status::unavailable(why)
            })?;
            GatewayServiceClient::new(channel).admit_cluster(question.clone()).await
        };
        match tokio::time::timeout(STEP, asked).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => match refusal_in(&status) {
                Some(refusal) => last = format!("{address}: {refusal}"),
                None if status.code() == Code::Unavailable => last = format!("{address}: {}", status.message()),
                None => return Err(rejection_of(&status).into()),
            },
            Err(_) => last = format!("{address}: no answer in {} s", STEP.as_secs()),
        }
    }
    let message = format!("the cluster that invited cannot be asked: {last}");
    Err(refusal(Code::Unavailable, "INVITER_UNREACHABLE", message))
}

/// The federation that an answer names, and who answered: the one whose authority the invitation names.
fn named_by(token: &JoinToken, answer: &AdmitClusterResponse) -> Result<(FederationId, ClusterCard), Refusal> {
    let inviter = answer.inviter.clone().unwrap_or_default();
    let (_, root) = checked(&inviter)?;
    match token.pins(&root) {
        true => Ok((federation_of(answer)?, inviter)),
        false => Err(refusal(Code::PermissionDenied, "WRONG_INVITER", "the cluster that answered is not the one that invited")),
    }
}

fn federation_of(answer: &AdmitClusterResponse) -> Result<FederationId, Refusal> {
    let id = answer.federation_id.as_ref().try_into();
    Ok(FederationId(id.map_err(|_| invalid("federation_id", "an id has 32 bytes"))?))
}

/// The id and root certificate of a card, if all that it says fits together.
fn checked(card: &ClusterCard) -> Result<(ClusterId, CaCertificate), Refusal> {
    if card.public_key.len() != PUBLIC_KEY_BYTES || ClusterId::of(&card.public_key).0 != card.cluster_id.as_ref() {
        return Err(invalid("card", "the cluster's id does not belong to its key"));
    }
    let root = CaCertificate::from_pem("the card's root certificate", card.ca_certificate.as_bytes());
    let root = root.map_err(|error| invalid("card.ca_certificate", error.to_string()))?;
    if root.cluster() != card.name {
        return Err(invalid("card.name", format!("the root certificate is of {:?}", root.cluster())));
    }
    let good = |address: &String| address.parse::<Address>().is_ok();
    if card.encoded_len() > limits::CARD_BYTES_MAX {
        return Err(invalid("card", "the card is too large"));
    }
    if card.addresses.len() > ADDRESSES_MAX || !card.addresses.iter().all(good) {
        return Err(invalid("card.addresses", "write gateways as host:port, at most 64"));
    }
    Ok((ClusterId::of(&card.public_key), root))
}

/// Sections by their names.
fn scope_of(names: &[String]) -> Result<Scope, Refusal> {
    names.iter().try_fold(Scope::NONE, |scope, name| {
        let found = parts().into_iter().find(|(known, _)| known == name).map(|(_, part)| part);
        let unknown = || invalid("scope", format!("there is no {name:?}: there are context, policy, agent and tasks"));
        Ok(scope | found.ok_or_else(unknown)?)
    })
}

/// What a scope consists of: the shared sections, and tasks.
fn parts() -> [(&'static str, Scope); 4] {
    let [policy, agent, context] = Shared::ALL.map(|section| (section.name(), Scope::of(section)));
    [policy, agent, context, ("tasks", Scope::TASKS)]
}

pub(super) fn names(scope: Scope) -> Vec<String> {
    parts().into_iter().filter(|(_, part)| scope.holds(*part)).map(|(name, _)| name.to_owned()).collect()
}

fn invalid(field: &str, message: impl Into<String>) -> Refusal {
    refusal(Code::InvalidArgument, "FEDERATION_REQUEST_INVALID", message).field(field)
}

pub(super) fn no_federation() -> Refusal {
    let message = "this cluster is in no federation: `tarn federation invite` founds one, `tarn federation join` joins one";
    refusal(Code::FailedPrecondition, "NO_FEDERATION", message)
}

pub(crate) fn refusal(code: Code, reason: &str, message: impl Into<String>) -> Refusal {
    let rejection = tarn_proto::v1::Rejection {
        code: code as u32,
        reason: reason.to_owned(),
        message: message.into(),
        ..tarn_proto::v1::Rejection::default()
    };
    Refusal::from(rejection)
}
