//! A certificate authority for tests, in the shape that the cluster's own has.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PKCS_ML_DSA_65, PublicKeyData, SanType,
    SignatureAlgorithm, SigningKey,
};
use tarn_client::Credentials;
use tarn_client::tls::{CaCertificate, Identity, Principal, PrivateKey, ca_uri};

const CLUSTER: &str = "test";

struct Signer(PrivateKey);

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ML_DSA_65
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

pub struct Authority {
    certificate: CaCertificate,
    issuer: Issuer<'static, Signer>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(ca_uri(CLUSTER).try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = Signer(PrivateKey::generate());
        let der = params.self_signed(&key).unwrap().der().clone();
        let certificate = CaCertificate::from_der("root", der).unwrap();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn user(&self) -> Credentials {
        self.issue(&Principal::user(CLUSTER, "ada"), &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    pub fn node(&self) -> Credentials {
        self.issue(&Principal::node(CLUSTER, 1), &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn issue(&self, principal: &Principal, usages: &[ExtendedKeyUsagePurpose]) -> Credentials {
        let key = PrivateKey::generate();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(principal.uri().try_into().unwrap())];
        params.extended_key_usages = usages.to_vec();
        let leaf = params.signed_by(&Signer(key.clone()), &self.issuer).unwrap().der().clone();
        Credentials::new(self.certificate.clone(), Identity::new("leaf", vec![leaf], key).unwrap())
    }
}
