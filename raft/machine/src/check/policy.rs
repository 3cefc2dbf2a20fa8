//! What of a command about policies can be refused without the state.

use tarn_proto::v1::{
    AcknowledgeEscalations, ActivateBundleRequest, DeactivateBundleRequest, DeleteBundleRequest, PolicySettings, PolicySeverity,
    PolicySigner, PutBundleRequest, PutPolicyHandlerRequest, RecordViolations, RollbackBundleRequest, Violation,
};

use super::{Check, count, id, invalid, is_plain, known, length, name, range, too_large};
use crate::limits;

pub(super) fn put_bundle(r: &PutBundleRequest) -> Check {
    bundle(&r.environment, &r.name)?;
    version("version", &r.version)?;
    length("BUNDLE_TOO_LARGE", "content", r.content.len(), limits::BUNDLE_BYTES_MAX)?;
    if r.content.is_empty() {
        return Err(invalid("EMPTY_BUNDLE", "content", "the bundle has no bytes: send what `tarn policy put` makes"));
    }
    if !r.digest.is_empty() && *r.digest != *blake3::hash(&r.content).as_bytes() {
        let message = "digest is not the BLAKE3 hash of content: it was damaged on its way, send it again";
        return Err(invalid("DIGEST_DIFFERS", "digest", message));
    }
    exactly("signature", r.signature.len(), limits::SIGNATURE_BYTES)?;
    exactly("signer", r.signer.len(), 32)?;
    if r.signature.is_empty() && !r.signer.is_empty() {
        let message = "there is a signer and no signature: leave the signer out, the node that verifies a signature fills it in";
        return Err(invalid("NO_SIGNATURE", "signature", message));
    }
    Ok(())
}

pub(super) fn activate_bundle(r: &ActivateBundleRequest) -> Check {
    bundle(&r.environment, &r.name)?;
    version("version", &r.version)?;
    expected(r.expected.as_deref())
}

pub(super) fn rollback_bundle(r: &RollbackBundleRequest) -> Check {
    bundle(&r.environment, &r.name)?;
    expected(r.expected.as_deref())
}

pub(super) fn deactivate_bundle(r: &DeactivateBundleRequest) -> Check {
    bundle(&r.environment, &r.name)?;
    expected(r.expected.as_deref())
}

pub(super) fn delete_bundle(r: &DeleteBundleRequest) -> Check {
    bundle(&r.environment, &r.name)?;
    version("version", &r.version)
}

pub(super) fn put_handler(r: &PutPolicyHandlerRequest) -> Check {
    name("name", &r.name)?;
    if !r.environment.is_empty() {
        name("environment", &r.environment)?;
    }
    if !r.policy.is_empty() {
        name("policy", &r.policy)?;
    }
    name("secret", &r.secret)?;
    severity("min_severity", r.min_severity)?;
    url("url", &r.url)
}

pub(super) fn settings(settings: Option<&PolicySettings>) -> Check {
    let Some(settings) = settings else {
        return Err(invalid("NO_SETTINGS", "settings", "say what the settings are to be"));
    };
    signers(&settings.signers)?;
    if settings.require_signed && settings.signers.is_empty() {
        let message = "with signatures required and nobody to sign, no policy could ever be put: name a signer";
        return Err(invalid("NO_SIGNERS", "settings.signers", message));
    }
    Ok(())
}

/// Keys that may sign, each under a name of its own.
pub(super) fn signers(signers: &[PolicySigner]) -> Check {
    count("TOO_MANY_SIGNERS", "settings.signers", signers.len(), limits::POLICY_SIGNERS_MAX)?;
    for (place, signer) in signers.iter().enumerate() {
        name("settings.signers.name", &signer.name)?;
        let found = signer.public_key.len();
        if found != limits::PUBLIC_KEY_BYTES {
            let message = format!("a public key of ML-DSA-65 has {} bytes, and this one {found}", limits::PUBLIC_KEY_BYTES);
            let limit = limits::PUBLIC_KEY_BYTES as u64;
            return Err(too_large("INVALID_KEY", "settings.signers.public_key", limit, message));
        }
        if signers[..place].iter().any(|other| other.name == signer.name) {
            let message = format!("two signers are called {:?}: give each a name of its own", signer.name);
            return Err(invalid("SIGNER_TWICE", "settings.signers.name", message));
        }
    }
    Ok(())
}

pub(super) fn violations(r: &RecordViolations) -> Check {
    if r.violations.is_empty() {
        return Err(invalid("NO_VIOLATIONS", "violations", "there is nothing to record"));
    }
    count("TOO_MANY_VIOLATIONS", "violations", r.violations.len(), limits::BATCH_VIOLATIONS_MAX)?;
    r.violations.iter().try_for_each(violation)
}

fn violation(found: &Violation) -> Check {
    if !found.violation_id.is_empty() || found.at_ms != 0 {
        let message = "ids and times of violations are the cluster's own: leave them out";
        return Err(invalid("ID_GIVEN", "violations.violation_id", message));
    }
    if !found.namespace.is_empty() {
        name("violations.namespace", &found.namespace)?;
    }
    bundle(&found.environment, &found.policy)?;
    version("violations.version", &found.version)?;
    severity("violations.severity", found.severity)?;
    range("violations.count", found.count.into(), (1, u32::MAX.into()))?;
    for (field, text, max) in [
        ("violations.code", &found.code, limits::LABEL_BYTES_MAX),
        ("violations.message", &found.message, limits::VIOLATION_MESSAGE_BYTES_MAX),
        ("violations.principal", &found.principal, limits::PRINCIPAL_BYTES_MAX),
        ("violations.verb", &found.verb, limits::LABEL_BYTES_MAX),
        ("violations.resource", &found.resource, limits::RESOURCE_BYTES_MAX),
        ("violations.request_id", &found.request_id, limits::REQUEST_ID_BYTES_MAX),
    ] {
        length("VIOLATION_TOO_LONG", field, text.len(), max)?;
    }
    Ok(())
}

pub(super) fn acknowledge(r: &AcknowledgeEscalations) -> Check {
    name("handler", &r.handler)?;
    id("up_to", &r.up_to)
}

fn bundle(environment: &str, bundle: &str) -> Check {
    name("environment", environment)?;
    name("name", bundle)
}

fn expected(text: Option<&str>) -> Check {
    match text {
        None | Some("") => Ok(()),
        Some(text) => version("expected", text),
    }
}

/// A semantic version 2.0.0: three numbers without leading zeros, then perhaps a pre-release and build metadata.
fn version(field: &str, text: &str) -> Check {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let is_number = |part: &str| {
        let digits = !part.is_empty() && part.len() <= 9 && part.bytes().all(|b| b.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_pre = |part: &str| is_word(part) && (is_number(part) || part.bytes().any(|b| !b.is_ascii_digit()));
    let valid = text.len() <= limits::NAME_BYTES_MAX
        && core.split('.').count() == 3
        && core.split('.').all(is_number)
        && pre.is_none_or(|pre| pre.split('.').all(is_pre))
        && build.is_none_or(|build| build.split('.').all(is_word));
    if valid {
        return Ok(());
    }
    let message = format!("{field} must be a semantic version, such as \"1.4.0\" or \"2.0.0-rc.1\"");
    Err(too_large("INVALID_VERSION", field, limits::NAME_BYTES_MAX as u64, message))
}

fn severity(field: &str, value: i32) -> Check {
    let severity = PolicySeverity::try_from(value);
    known(field, severity.is_ok_and(|severity| severity != PolicySeverity::Unspecified))
}

fn url(field: &str, text: &str) -> Check {
    length("URL_TOO_LONG", field, text.len(), limits::URL_BYTES_MAX)?;
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = host.and_then(|rest| rest.split(['/', '?', '#']).next());
    // A name or password in a URL would be shown to whoever lists the handlers.
    if is_plain(text) && host.is_some_and(|host| !host.is_empty() && !host.contains('@')) {
        return Ok(());
    }
    let message = format!("{field} must be an http:// or https:// URL in plain ASCII, without a user name or password");
    Err(invalid("INVALID_URL", field, message))
}

/// So many bytes, or none.
pub(super) fn exactly(field: &str, found: usize, wanted: usize) -> Check {
    if found == 0 || found == wanted {
        return Ok(());
    }
    let message = format!("{field} is {found} bytes long: it has {wanted}");
    Err(too_large("INVALID_LENGTH", field, wanted as u64, message))
}
