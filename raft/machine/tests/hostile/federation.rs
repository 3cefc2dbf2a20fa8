//! Valid commands about the federation.

use bytes::Bytes;
use tarn_machine::limits;
use tarn_proto::v1::command::Body as B;
use tarn_proto::v1::*;

/// One of every kind.
pub fn bodies() -> Vec<B> {
    let hash = || Bytes::from(vec![9; 32]);
    let writes = || vec![SharedEntry { key: "directory/01".to_owned(), value: Some("here".into()) }];
    vec![
        B::StartFederation(StartFederation {
            identity: Some(FederationIdentity {
                federation_id: hash(),
                card: Some(card(1)),
                secret_seed: hash(),
                inviter: Some(card(2)),
                scope: vec!["context".to_owned()],
            }),
            ..Default::default()
        }),
        B::WriteShared(WriteShared { writes: writes(), ..Default::default() }),
        B::CommitReplica(CommitReplica {
            expected_revision: 7,
            rows: vec![ReplicaRow { key: "h".into(), value: Some("head".into()) }, ReplicaRow { key: "c".into(), value: None }],
            entries: writes(),
            taken: 3,
            standing: Some(FederationStanding { scope: vec!["context".to_owned()], removed: false, room: 9 }),
            ..Default::default()
        }),
        B::PutInvitation(PutInvitation { key_hash: hash(), ttl_ms: 60_000, scope: vec!["context".to_owned()], ..Default::default() }),
        B::ConsumeInvitation(ConsumeInvitation {
            key_hash: hash(),
            cluster_id: vec![2; limits::CLUSTER_ID_BYTES].into(),
            writes: writes(),
            expected_admitted: 0,
        }),
        B::ShareContext(ShareContextRequest {
            namespace: "default".to_owned(),
            context: "memory".to_owned(),
            shared: true,
            ..Default::default()
        }),
        B::LeaveFederation(LeaveFederationRequest::default()),
    ]
}

fn card(number: u8) -> ClusterCard {
    ClusterCard {
        cluster_id: vec![number; limits::CLUSTER_ID_BYTES].into(),
        name: "west".to_owned(),
        public_key: vec![number; limits::PUBLIC_KEY_BYTES].into(),
        ca_certificate: "PEM".to_owned(),
        addresses: vec!["10.0.0.1:7613".to_owned()],
    }
}
