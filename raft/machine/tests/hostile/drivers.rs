//! Valid commands about drivers.

use tarn_machine::limits;
use tarn_proto::v1::command::Body as B;
use tarn_proto::v1::*;

/// One of every kind.
pub fn bodies() -> Vec<B> {
    let (namespace, name) = (|| "default".to_owned(), || "hook".to_owned());
    vec![
        B::InstallDriver(InstallDriverRequest { namespace: namespace(), name: name(), spec: Some(spec()), ..Default::default() }),
        B::UpgradeDriver(UpgradeDriverRequest {
            namespace: namespace(),
            name: name(),
            spec: Some(spec()),
            expected_generation: 1,
            ..Default::default()
        }),
        B::RemoveDriver(RemoveDriverRequest { namespace: namespace(), name: name(), ..Default::default() }),
        B::AdvanceDriver(AdvanceDriver {
            namespace: namespace(),
            name: name(),
            generation: 1,
            step: 7,
            cursor: 3,
            cursor_ordinal: 2,
            state: Some("so far".into()),
            tasks: vec![TaskSpec { queue: "q".to_owned(), ..TaskSpec::default() }],
            ..Default::default()
        }),
        B::PutDriverSettings(PutDriverSettingsRequest {
            settings: Some(DriverSettings {
                signers: vec![PolicySigner { name: "ops".to_owned(), public_key: vec![1; limits::PUBLIC_KEY_BYTES].into() }],
            }),
            ..Default::default()
        }),
    ]
}

fn spec() -> DriverSpec {
    DriverSpec {
        artifact: format!("blake3:{}", "0a".repeat(32)),
        signature: vec![5; limits::SIGNATURE_BYTES].into(),
        signer: vec![6; 32].into(),
        config: "{}".to_owned(),
        events: vec![EventKind::TaskDead.into()],
        limits: Some(DriverLimits { memory_bytes: 1 << 20, call_ms: 1_000, fuel: 1_000_000 }),
        grants: Some(DriverGrants { http: vec!["https://a.example".to_owned()], queues: vec!["mail-*".to_owned()] }),
    }
}
