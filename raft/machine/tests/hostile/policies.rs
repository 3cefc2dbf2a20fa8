//! Valid commands about policies.

use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::command::Body as B;
use tarn_proto::v1::*;

/// One of every kind.
pub fn bodies() -> Vec<B> {
    let (environment, name, version) = (|| "prod".to_owned(), || "night".to_owned(), || "1.0.0".to_owned());
    vec![
        B::PutBundle(PutBundleRequest {
            environment: environment(),
            name: name(),
            version: version(),
            content: "package tarn".into(),
            digest: bytes::Bytes::copy_from_slice(blake3::hash(b"package tarn").as_bytes()),
            signature: vec![5; limits::SIGNATURE_BYTES].into(),
            signer: vec![6; 32].into(),
            ..Default::default()
        }),
        B::ActivateBundle(ActivateBundleRequest {
            environment: environment(),
            name: name(),
            version: version(),
            expected: Some(String::new()),
            ..Default::default()
        }),
        B::RollbackBundle(RollbackBundleRequest {
            environment: environment(),
            name: name(),
            expected: Some(version()),
            ..Default::default()
        }),
        B::DeactivateBundle(DeactivateBundleRequest { environment: environment(), name: name(), ..Default::default() }),
        B::DeleteBundle(DeleteBundleRequest { environment: environment(), name: name(), version: version(), ..Default::default() }),
        B::PutPolicyHandler(PutPolicyHandlerRequest {
            name: "pager".to_owned(),
            environment: environment(),
            policy: name(),
            url: "https://pager.example/hook".to_owned(),
            min_severity: PolicySeverity::High.into(),
            secret: "pager".to_owned(),
            ..Default::default()
        }),
        B::DeletePolicyHandler(DeletePolicyHandlerRequest { name: "mail".to_owned(), ..Default::default() }),
        B::PutPolicySettings(PutPolicySettingsRequest {
            settings: Some(PolicySettings {
                require_signed: true,
                signers: vec![PolicySigner { name: "ann".to_owned(), public_key: vec![7; limits::PUBLIC_KEY_BYTES].into() }],
            }),
            ..Default::default()
        }),
        B::RecordViolations(RecordViolations {
            violations: vec![Violation {
                namespace: "default".to_owned(),
                environment: environment(),
                policy: name(),
                version: version(),
                severity: PolicySeverity::Critical.into(),
                code: "NO_GPU".to_owned(),
                message: "no GPU at night".to_owned(),
                principal: "user/ada".to_owned(),
                verb: "submit".to_owned(),
                resource: "queue/gpu".to_owned(),
                blocking: true,
                count: 2,
                ..Default::default()
            }],
            ..Default::default()
        }),
        B::AcknowledgeEscalations(AcknowledgeEscalations { handler: "pager".to_owned(), up_to: Id(1).to_string() }),
    ]
}
