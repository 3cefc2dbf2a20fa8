//! Bundles in the cluster.

use std::path::{Path, PathBuf};

use tarn_client::Client;
use tarn_client::tls::{PrivateKey, read_secret_file};
use tarn_policy::{Bundle, SignedBundle};
use tarn_proto::v1 as proto;

use super::super::exit::Failure;
use super::super::output::{Printer, time};
use super::{Which, load, local, said, signing};

/// Puts a version, and perhaps lets it judge.
pub async fn put(client: &Client, path: &Path, key: Option<&Path>, activate: bool, printer: Printer) -> Result<(), Failure> {
    let mut signed = load(path)?;
    let bundle = Bundle::from_bytes(signed.bundle_bytes()).map_err(said)?;
    if activate {
        // One that cannot judge is not left behind in the cluster.
        local::must_pass(&bundle)?;
    }
    if let Some(key) = key {
        let pem = read_secret_file(key).map_err(anyhow::Error::from)?;
        let key = PrivateKey::from_pem(&key.display().to_string(), &pem).map_err(anyhow::Error::from)?;
        signed = SignedBundle::sign(&bundle, |message| key.sign(message)).map_err(anyhow::Error::from)?;
    }
    let request = proto::PutBundleRequest {
        environment: bundle.environment().to_owned(),
        name: bundle.name().to_owned(),
        version: bundle.version().to_string(),
        content: signed.bundle_bytes().to_vec().into(),
        digest: bundle.digest().0.to_vec().into(),
        signature: signed.signature().to_vec().into(),
        ..proto::PutBundleRequest::default()
    };
    let answer = client.put_bundle(request.clone()).await?;
    if !activate {
        return printer.message(&answer, |answer| {
            let title = title(answer.bundle.as_ref());
            match answer.existed {
                true => format!("{title} was there already, with the same bytes"),
                false => format!("put {title}; it does not judge yet (`tarn policy activate`)"),
            }
        });
    }
    let which = Which { name: request.name, environment: request.environment };
    self::activate(client, which, request.version, None, printer).await
}

/// Lets a version judge.
pub async fn activate(client: &Client, which: Which, version: String, expect: Option<String>, printer: Printer) -> Result<(), Failure> {
    let request = proto::ActivateBundleRequest {
        request_id: String::new(),
        environment: which.environment,
        name: which.name,
        version,
        expected: expected(expect),
    };
    let answer = client.activate_bundle(request).await?;
    printer.message(&answer, |answer| {
        let passed = match answer.tests {
            0 => "it has no tests".to_owned(),
            tests => format!("its {tests} tests passed"),
        };
        format!("{} judges from now on; {passed}; {}", title(answer.bundle.as_ref()), before(&answer.previous))
    })
}

/// Goes back.
pub async fn rollback(client: &Client, which: Which, expect: Option<String>, printer: Printer) -> Result<(), Failure> {
    let request = proto::RollbackBundleRequest {
        request_id: String::new(),
        environment: which.environment,
        name: which.name,
        expected: expected(expect),
    };
    let answer = client.rollback_bundle(request).await?;
    printer.message(&answer, |answer| format!("{} judges again; {}", title(answer.bundle.as_ref()), before(&answer.previous)))
}

/// Switches a bundle off.
pub async fn deactivate(client: &Client, which: Which, expect: Option<String>, printer: Printer) -> Result<(), Failure> {
    let name = which.name.clone();
    let request = proto::DeactivateBundleRequest {
        request_id: String::new(),
        environment: which.environment,
        name: which.name,
        expected: expected(expect),
    };
    let previous = client.deactivate_bundle(request).await?;
    let value = serde_json::json!({ "name": name, "previous": previous });
    printer.value(&value, || format!("{name} judges no more; {}", before(&previous)))
}

/// Deletes a version.
pub async fn delete(client: &Client, which: Which, version: String, printer: Printer) -> Result<(), Failure> {
    let done = format!("version {version} of {} is gone", which.name);
    let request = proto::DeleteBundleRequest { request_id: String::new(), environment: which.environment, name: which.name, version };
    client.delete_bundle(request).await?;
    printer.value(&serde_json::json!({ "done": done }), || done.clone())
}

/// Lists versions.
pub async fn list(client: &Client, name: Option<String>, environment: Option<String>, printer: Printer) -> Result<(), Failure> {
    let bundles = client.list_bundles(environment.unwrap_or_default(), name.unwrap_or_default()).await?;
    let head = ["environment", "name", "version", "active", "signed", "put", "by", "activated", "by"];
    printer.list(&bundles, &head, |bundle| {
        let yes = |is: bool| if is { "yes" } else { "-" }.to_owned();
        vec![
            bundle.environment.clone(),
            bundle.name.clone(),
            bundle.version.clone(),
            yes(bundle.active),
            yes(!bundle.signer.is_empty()),
            time(bundle.put_at_ms),
            bundle.put_by.clone(),
            time(bundle.activated_at_ms),
            bundle.activated_by.clone(),
        ]
    })
}

/// Shows a version, or writes it as a folder.
pub async fn show(client: &Client, which: Which, version: Option<String>, out: Option<PathBuf>, printer: Printer) -> Result<(), Failure> {
    let request = proto::GetBundleRequest { environment: which.environment, name: which.name, version: version.unwrap_or_default() };
    let answer = client.get_bundle(request).await?;
    let content = Bundle::from_bytes(&answer.content).map_err(said)?;
    if let Some(out) = &out {
        content.to_directory(out).map_err(said)?;
        printer.note(&format!("wrote it to {}", out.display()));
    }
    let settings = client.get_policy_settings().await?;
    printer.message(&answer, |answer| {
        let bundle = answer.bundle.clone().unwrap_or_default();
        let mut lines = vec![
            title(Some(&bundle)),
            format!("digest     {}", content.digest()),
            format!("size       {} bytes", bundle.size),
            format!("put        {} by {}", time(bundle.put_at_ms), bundle.put_by),
            format!("signed     {}", signing::signer_name(&settings, &bundle.signer)),
        ];
        lines.push(match bundle.active {
            true => format!("active     since {}, by {}", time(bundle.activated_at_ms), bundle.activated_by),
            false => "active     no".to_owned(),
        });
        if !answer.history.is_empty() {
            lines.push(format!("before it  {}", answer.history.join(", ")));
        }
        lines.extend(content.modules().map(|(path, text)| format!("module     {path} ({} lines)", text.lines().count())));
        lines.join("\n")
    })
}

/// `none` stands for no version.
fn expected(expect: Option<String>) -> Option<String> {
    expect.map(|version| if version == "none" { String::new() } else { version })
}

fn title(bundle: Option<&proto::Bundle>) -> String {
    let bundle = bundle.cloned().unwrap_or_default();
    format!("{} {} in {}", bundle.name, bundle.version, bundle.environment)
}

fn before(previous: &str) -> String {
    match previous {
        "" => "none was active before".to_owned(),
        previous => format!("{previous} was active before"),
    }
}
