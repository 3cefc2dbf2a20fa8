//! What a task is granted, as executors want to know it.

use tarn_executor::{CallGrant, ContextAccess, ContextGrant, Grants};
use tarn_proto::v1;

use super::attempt::{Unfit, unfit};

/// The grants in a specification; none where it has none.
pub(super) fn of(given: Option<&v1::Grants>) -> Result<Grants, Unfit> {
    let Some(given) = given else {
        return Ok(Grants::default());
    };
    let bad = |field: &str, error: &dyn std::fmt::Display| unfit("BAD_GRANT", format!("grants.{field}: {error}"));
    let mut http = std::collections::BTreeSet::new();
    for origin in &given.http {
        http.insert(origin.parse().map_err(|error| bad("http", &error))?);
    }
    let mut artifacts = std::collections::BTreeSet::new();
    for artifact in &given.calls {
        artifacts.insert(artifact.parse().map_err(|error| bad("calls", &error))?);
    }
    Ok(Grants {
        clock: given.clock,
        random: given.random,
        scratch_bytes: given.scratch_bytes,
        context: given.context.as_ref().map(|context| ContextGrant {
            name: context.name.clone(),
            access: if context.write { ContextAccess::Write } else { ContextAccess::Read },
        }),
        log: given.log,
        progress: given.progress,
        calls: CallGrant { artifacts, depth: given.call_depth.max(1) },
        http,
        network: given.network,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_by_saying_nothing() {
        let nothing = Grants { calls: CallGrant { depth: 1, ..CallGrant::default() }, ..Grants::default() };
        assert_eq!(of(None).ok(), Some(Grants::default()));
        assert_eq!(of(Some(&v1::Grants::default())).ok(), Some(nothing));
    }

    #[test]
    fn what_is_no_origin_or_no_address_is_refused_by_its_field() {
        let bad = [
            v1::Grants { http: vec!["https://example.com".into(), "example.com/path".into()], ..v1::Grants::default() },
            v1::Grants { calls: vec!["blake3:short".into()], ..v1::Grants::default() },
        ];
        for (grants, field) in bad.iter().zip(["grants.http: ", "grants.calls: "]) {
            let unfit = of(Some(grants)).err().unwrap();
            assert_eq!((unfit.reason, unfit.retryable), ("BAD_GRANT", false));
            assert!(unfit.message.starts_with(field), "{}", unfit.message);
        }
    }
}
