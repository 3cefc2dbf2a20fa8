//! Why a connection was refused, in words that tell the operator what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::verify::VerifyError;

/// Defines the kinds once: variant, label for metrics, sentence for people.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $label:literal, $sentence:literal;)*) => {
        /// The kinds of refusal. Each has a stable label, for metrics and for logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RefusalKind {
            $($(#[$doc])* $kind,)*
        }

        impl RefusalKind {
            /// Every kind, in the order of declaration.
            pub const ALL: &[RefusalKind] = &[$(RefusalKind::$kind,)*];

            /// A stable label: lower case, underscores.
            pub fn label(self) -> &'static str {
                match self {
                    $(RefusalKind::$kind => $label,)*
                }
            }

            /// What happened, as a sentence without subject: the subject is "the peer".
            pub fn sentence(self) -> &'static str {
                match self {
                    $(RefusalKind::$kind => $sentence,)*
                }
            }
        }
    };
}

kinds! {
    /// No certificate at all.
    NoCertificate, "no_certificate", "presented no certificate";
    /// Issued by somebody else than the cluster.
    UnknownIssuer, "unknown_issuer", "presented a certificate from an unknown issuer: it was not issued by this cluster's root";
    /// Past its end.
    Expired, "expired", "presented an expired certificate";
    /// Before its beginning.
    NotYetValid, "not_yet_valid", "presented a certificate that is not valid yet: compare the clocks";
    /// For another use.
    WrongPurpose, "wrong_purpose", "presented a certificate that may not be used for this end of a connection";
    /// Names no principal, or one of another cluster, or another node, or a user where a node is wanted.
    WrongIdentity, "wrong_identity", "presented a certificate of somebody else than is accepted here";
    /// Revoked by the cluster.
    Revoked, "revoked", "presented a certificate that is revoked";
    /// A join token that is unknown, used up or expired.
    TokenNotOutstanding, "token_not_outstanding", "used a join token that is unknown, used up or expired";
    /// Not a certificate, or the peer does not hold its key.
    BadCertificate, "bad_certificate", "presented a malformed certificate or does not hold its key";
    /// Offers no post-quantum key exchange.
    ClassicalKeyExchange, "classical_key_exchange", "offers only classical key exchange: X25519MLKEM768 is required";
    /// Offers no ML-DSA-65 signatures.
    ClassicalSignatures, "classical_signatures", "offers only classical signatures: ML-DSA-65 is required";
    /// Offers none of the ciphers.
    WeakCiphers, "weak_ciphers", "offers none of the accepted ciphers";
    /// Offers TLS 1.2 or older.
    OldTls, "old_tls", "does not offer TLS 1.3";
    /// Speaks another protocol, or noise.
    NotTls, "not_tls", "does not speak TLS";
    /// TLS, but for something else than gRPC.
    NotHttp2, "not_http2", "wants another protocol than HTTP/2";
    /// Has more connections than one address may have.
    TooMany, "too_many_connections", "has too many connections";
    /// This side has no certificate to present yet.
    NotReady, "not_ready", "came before this side had a certificate to present";
    /// The other side refused first and sent an alert.
    RefusedByPeer, "refused_by_peer", "refused this side";
    /// Took too long.
    TimedOut, "timed_out", "did not finish the handshake in time";
    /// Went away in the middle.
    Closed, "closed", "closed the connection during the handshake";
    /// Anything else.
    Other, "other", "failed the handshake";
}

/// Why one connection was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, for counting and for deciding.
    pub kind: RefusalKind,
    /// What is particular to this case; may be empty.
    pub detail: String,
}

impl Refusal {
    /// A refusal without particulars.
    pub fn of(kind: RefusalKind) -> Self {
        Self { kind, detail: String::new() }
    }

    fn with(kind: RefusalKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string() }
    }

    /// What a failed handshake means.
    pub fn of_handshake(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(tls) = tls {
            return Self::of_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::of(RefusalKind::TimedOut),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::of(RefusalKind::Closed),
            _ => Self::with(RefusalKind::Other, error),
        }
    }

    /// What a TLS error means.
    pub fn of_tls(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::of(RefusalKind::NoCertificate),
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::PeerIncompatible(error) => of_incompatible(error),
            Error::AlertReceived(alert) => Self::with(RefusalKind::RefusedByPeer, describe_alert(*alert)),
            Error::InvalidMessage(reason) => Self::with(RefusalKind::NotTls, format_args!("{reason:?}")),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } | Error::PeerSentOversizedRecord => {
                Self::with(RefusalKind::NotTls, error)
            }
            Error::NoApplicationProtocol => Self::of(RefusalKind::NotHttp2),
            // The words of rustls for a resolver without a certificate.
            Error::General(what) if what == "no server certificate chain resolved" => Self::of(RefusalKind::NotReady),
            other => Self::with(RefusalKind::Other, other),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer {}", self.kind.sentence())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

fn of_certificate(error: &CertificateError) -> Refusal {
    use CertificateError as Bad;

    match error {
        Bad::Expired => Refusal::of(RefusalKind::Expired),
        Bad::ExpiredContext { time, not_after } => {
            Refusal::with(RefusalKind::Expired, format_args!("{} seconds ago", time.as_secs().saturating_sub(not_after.as_secs())))
        }
        Bad::NotValidYet => Refusal::of(RefusalKind::NotYetValid),
        Bad::NotValidYetContext { time, not_before } => {
            Refusal::with(RefusalKind::NotYetValid, format_args!("for {} seconds", not_before.as_secs().saturating_sub(time.as_secs())))
        }
        Bad::Revoked => Refusal::of(RefusalKind::Revoked),
        Bad::UnknownIssuer => Refusal::of(RefusalKind::UnknownIssuer),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => Refusal::of(RefusalKind::WrongPurpose),
        Bad::BadEncoding | Bad::BadSignature => Refusal::with(RefusalKind::BadCertificate, error),
        Bad::UnsupportedSignatureAlgorithmContext { .. } | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            Refusal::of(RefusalKind::ClassicalSignatures)
        }
        Bad::Other(other) => match other.0.downcast_ref::<VerifyError>() {
            Some(error) => of_verify(error),
            None => Refusal::with(RefusalKind::BadCertificate, format_args!("{other:?}")),
        },
        other => Refusal::with(RefusalKind::BadCertificate, other),
    }
}

fn of_verify(error: &VerifyError) -> Refusal {
    match error {
        VerifyError::TokenNotOutstanding { .. } => Refusal::with(RefusalKind::TokenNotOutstanding, error),
        VerifyError::Revoked(_) => Refusal::with(RefusalKind::Revoked, error),
        VerifyError::FingerprintMismatch | VerifyError::StrangeCluster(_) => Refusal::with(RefusalKind::UnknownIssuer, error),
        VerifyError::NotAnIdentity(_)
        | VerifyError::OtherCluster { .. }
        | VerifyError::NotANode(_)
        | VerifyError::NotAGateway(_)
        | VerifyError::OtherNode { .. }
        | VerifyError::TokenMismatch => Refusal::with(RefusalKind::WrongIdentity, error),
    }
}

fn of_incompatible(error: &PeerIncompatible) -> Refusal {
    use PeerIncompatible as Lacks;

    match error {
        Lacks::NoKxGroupsInCommon | Lacks::KeyShareExtensionRequired | Lacks::NamedGroupsExtensionRequired => {
            Refusal::of(RefusalKind::ClassicalKeyExchange)
        }
        Lacks::NoSignatureSchemesInCommon
        | Lacks::NoCertificateRequestSignatureSchemesInCommon
        | Lacks::SignatureAlgorithmsExtensionRequired => Refusal::of(RefusalKind::ClassicalSignatures),
        Lacks::NoCipherSuitesInCommon => Refusal::of(RefusalKind::WeakCiphers),
        Lacks::SupportedVersionsExtensionRequired
        | Lacks::ServerDoesNotSupportTls12Or13
        | Lacks::ServerTlsVersionIsDisabledByOurConfig
        | Lacks::Tls12NotOffered
        | Lacks::Tls12NotOfferedOrEnabled => Refusal::of(RefusalKind::OldTls),
        other => Refusal::with(RefusalKind::Other, format_args!("{other:?}")),
    }
}

/// What the alert of a peer that refused us means for us.
fn describe_alert(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::CertificateRequired => "it wants a certificate",
        AlertDescription::UnknownCA => "it does not know the issuer of our certificate",
        AlertDescription::CertificateExpired => "our certificate is expired or not valid yet by its clock",
        AlertDescription::UnsupportedCertificate => "our certificate may not be used for this end of a connection",
        AlertDescription::CertificateRevoked => "the cluster has revoked this certificate: ask for a new one from `tarn ca issue`",
        AlertDescription::CertificateUnknown => "our identity or join token is not accepted; its log says why",
        AlertDescription::BadCertificate | AlertDescription::DecryptError => "our certificate or our proof of its key is not accepted",
        AlertDescription::HandshakeFailure => {
            "we have no cryptography in common; certificates are for a node's port 7610, and its HTTPS port, 7611, is for tokens"
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        _ => return format!("alert {alert:?}"),
    };
    format!("{meaning}; alert {alert:?}")
}

/// How rustls words an alert of the other side.
const ALERT: &str = "received fatal alert: ";

/// The alerts that say something about us.
const ALERTS: [AlertDescription; 10] = [
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateUnknown,
    AlertDescription::BadCertificate,
    AlertDescription::DecryptError,
    AlertDescription::HandshakeFailure,
    AlertDescription::ProtocolVersion,
];

/// The refusal in an error's words: where the peer refuses after the handshake, as TLS 1.3 has it, the HTTP/2 layer may hand on those only.
fn refusal_in_words(text: &str) -> Option<Refusal> {
    let (_, name) = text.split_once(ALERT)?;
    let alert = ALERTS.iter().find(|alert| name.starts_with(&format!("{alert:?}")));
    let detail = alert.map_or_else(|| format!("alert {name}"), |alert| describe_alert(*alert));
    Some(Refusal::with(RefusalKind::RefusedByPeer, detail))
}

/// Finds the refusal in the causes of an error, for example of a `tonic::Status` or a transport error: in TLS 1.3 a client learns that
/// its certificate was refused only with its first request.
pub fn refusal_in(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(Refusal::of_tls(tls));
        }
        // An io::Error keeps what it wraps out of its chain of sources.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|inner| refusal_in(inner)) {
            return Some(found);
        }
        if let Some(found) = refusal_in_words(&error.to_string()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_distinct_and_fit_for_metrics() {
        let labels: BTreeSet<_> = RefusalKind::ALL.iter().map(|kind| kind.label()).collect();
        assert_eq!(labels.len(), RefusalKind::ALL.len());
        for label in labels {
            assert!(label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{label}");
        }
    }

    #[test]
    fn a_refusal_is_found_below_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("transport error")]
        struct Outer(#[source] io::Error);

        let tls = Error::AlertReceived(AlertDescription::UnknownCA);
        let error = Outer(io::Error::new(io::ErrorKind::InvalidData, io::Error::new(io::ErrorKind::InvalidData, tls)));
        let refusal = refusal_in(&error).unwrap();
        assert_eq!(refusal.kind, RefusalKind::RefusedByPeer);
        assert!(refusal.to_string().contains("UnknownCA"), "{refusal}");
        assert_eq!(refusal_in(&io::Error::other("something else")), None);
    }

    #[test]
    fn a_refusal_of_which_only_words_are_left_is_told_like_any_other() {
        for alert in ALERTS {
            let error = io::Error::other(Error::AlertReceived(alert).to_string());
            let refusal = refusal_in(&error).expect("rustls words alerts as this expects");
            assert_eq!(refusal, Refusal::of_tls(&Error::AlertReceived(alert)));
        }
        let revoked = refusal_in_words("received fatal alert: CertificateRevoked").unwrap();
        assert!(revoked.detail.contains("tarn ca issue"), "{revoked}");
    }

    #[test]
    fn who_was_revoked_is_told_so_by_the_alert() {
        let error: Error = VerifyError::Revoked(crate::tls::Principal::node("prod", 3)).into();
        assert_eq!(error, Error::InvalidCertificate(CertificateError::Revoked));
        assert_eq!(Refusal::of_tls(&error).kind, RefusalKind::Revoked);
    }

    #[test]
    fn verdicts_keep_their_words() {
        let error: Error = VerifyError::OtherNode { expected: 2, got: crate::tls::Principal::node("prod", 3) }.into();
        let refusal = Refusal::of_tls(&error);
        assert_eq!(refusal.kind, RefusalKind::WrongIdentity);
        assert!(refusal.to_string().contains("node 2 was expected"), "{refusal}");
    }
}
