//! What is checked before a command about policies is proposed, because only this side of the log can: that a bundle is one, that its
//! signature fits, that it compiles and passes its own tests.

use tarn_client::tls::ML_DSA_65;
use tarn_policy::{Bundle, Digest, Error, SignedBundle};
use tarn_proto::v1::command::Body;
use tarn_proto::v1::{self, GetBundleRequest, GetBundleResponse, PolicySettings, PutBundleRequest, outcome};
use tokio::time::Instant;
use tonic::Code;

use super::super::{Refusal, driver};
use super::rejection;
use crate::way::Way;

/// Problems and failed tests that a refusal names; a person mends them one after another anyway.
const NAMED_MAX: usize = 5;

/// What was found on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Tests of the bundle that passed.
    pub tests: u32,
}

impl Prepared {
    /// Adds it to the answer.
    #[must_use]
    pub fn told(self, mut answer: outcome::Body) -> outcome::Body {
        if let outcome::Body::ActivateBundle(answer) = &mut answer {
            answer.tests = self.tests;
        }
        answer
    }
}

/// Checks a command that the gate let through, and fills in what only a node can say. Cheap for all that are not about bundles.
///
/// # Errors
/// `POLICY_…`, with what is wrong with the bundle; no leader confirmed the state that it is checked against.
pub async fn prepare(way: &Way, body: &mut Body, deadline: Instant) -> Result<Prepared, Refusal> {
    match body {
        Body::PutBundle(request) => {
            let settings = way.look(|machine| Ok(machine.policies().settings.clone()))?;
            put(request, &settings)?;
            Ok(Prepared::default())
        }
        Body::ActivateBundle(request) => {
            let (environment, name, version) = (&request.environment, &request.name, &request.version);
            let stored = stored(way, environment, name, version, deadline).await?;
            Ok(Prepared { tests: checked(stored.content.into()).await? })
        }
        Body::RollbackBundle(request) => {
            // The version that a rollback leads to judged before, but perhaps on another build.
            let history = history(way, &request.environment, &request.name, deadline).await?;
            if let Some(version) = history.last() {
                let stored = stored(way, &request.environment, &request.name, version, deadline).await?;
                checked(stored.content.into()).await?;
            }
            Ok(Prepared::default())
        }
        Body::InstallDriver(v1::InstallDriverRequest { spec: Some(spec), .. })
        | Body::UpgradeDriver(v1::UpgradeDriverRequest { spec: Some(spec), .. }) => {
            let settings = way.look(|machine| Ok(machine.driver_settings()))?;
            driver::prepare(spec, &settings.signers)?;
            Ok(Prepared::default())
        }
        _ => Ok(Prepared::default()),
    }
}

fn put(request: &mut PutBundleRequest, settings: &PolicySettings) -> Result<(), v1::Rejection> {
    // Whoever asks does not say who signed.
    request.signer = signer(request, settings)?.into();
    let bundle = Bundle::from_bytes(&request.content).map_err(|error| unusable(&error))?;
    let says = [
        ("environment", bundle.environment().to_owned(), &request.environment),
        ("name", bundle.name().to_owned(), &request.name),
        ("version", bundle.version().to_string(), &request.version),
    ];
    for (field, found, asked) in says {
        if found != *asked {
            let message = format!("the bundle's own {field} is {found:?}, and the request says {asked:?}: they must be the same");
            let mut rejection = rejection(Code::InvalidArgument, "BUNDLE_DIFFERS", message);
            rejection.field = field.to_owned();
            return Err(rejection);
        }
    }
    Ok(())
}

/// The hash of the key that signed; empty if nobody did.
fn signer(request: &PutBundleRequest, settings: &PolicySettings) -> Result<Vec<u8>, v1::Rejection> {
    if request.signature.is_empty() {
        return Ok(Vec::new());
    }
    let message = SignedBundle::message(Digest::of(&request.content));
    let fits = |key: &[u8]| ML_DSA_65.verify_signature(key, &message, &request.signature).is_ok();
    let found = settings.signers.iter().find(|signer| fits(&signer.public_key));
    found.map(|signer| blake3::hash(&signer.public_key).as_bytes().to_vec()).ok_or_else(|| {
        let message = "the signature fits none of the keys that this cluster trusts: the bundle was changed after signing, or \
                       another key signed it; `tarn policy settings` lists the keys";
        let mut rejection = rejection(Code::FailedPrecondition, "POLICY_SIGNATURE", message.to_owned());
        rejection.field = "signature".to_owned();
        rejection
    })
}

async fn stored(way: &Way, environment: &str, name: &str, version: &str, deadline: Instant) -> Result<GetBundleResponse, Refusal> {
    // It may have been put by another node a moment ago.
    way.barrier(deadline).await?;
    let question = GetBundleRequest { environment: environment.to_owned(), name: name.to_owned(), version: version.to_owned() };
    way.look(|machine| machine.get_bundle(&question))
}

async fn history(way: &Way, environment: &str, name: &str, deadline: Instant) -> Result<Vec<String>, Refusal> {
    way.barrier(deadline).await?;
    way.look(|machine| Ok(machine.bundle_history(environment, name)))
}

/// Compiles a bundle and runs its tests, off the threads that serve requests. Gives how many there are.
async fn checked(content: Vec<u8>) -> Result<u32, Refusal> {
    let checking = tokio::task::spawn_blocking(move || Bundle::from_bytes(&content)?.check());
    let report = checking.await.map_err(Refusal::internal)?;
    let report = report.map_err(|error| unusable(&error))?;
    if !report.passed() {
        return Err(tests_failed(&report).into());
    }
    Ok(u32::try_from(report.tests.len()).unwrap_or(u32::MAX))
}

fn unusable(error: &Error) -> v1::Rejection {
    let message = match error {
        Error::Compile(problems) => {
            let mut said: Vec<String> = problems.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            if problems.len() > NAMED_MAX {
                said.push(format!("and {} more", problems.len() - NAMED_MAX));
            }
            format!("the bundle does not compile; `tarn policy test` shows all of it:\n{}", said.join("\n"))
        }
        error => error.to_string(),
    };
    let code = match error {
        Error::Unfinished(_) => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let mut rejection = rejection(code, error.reason(), message);
    rejection.field = "content".to_owned();
    rejection
}

fn tests_failed(report: &tarn_policy::Report) -> v1::Rejection {
    let failed = report.tests.iter().filter(|test| !test.passed);
    let mut said: Vec<String> =
        failed.take(NAMED_MAX).map(|test| format!("{} ({}:{}): {}", test.name, test.file, test.line, test.message)).collect();
    if report.failed() > NAMED_MAX {
        said.push(format!("and {} more", report.failed() - NAMED_MAX));
    }
    let message = format!(
        "{} of the bundle's {} tests fail; mend the bundle and put it as a new version:\n{}",
        report.failed(),
        report.tests.len(),
        said.join("\n")
    );
    rejection(Code::FailedPrecondition, "POLICY_TESTS_FAILED", message)
}
