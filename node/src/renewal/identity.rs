//! The node's own certificate.

use tarn_client::tls::{Identity, PrivateKey};
use tarn_proto::v1::PeerRenewal;

use super::{RENEW_PART, RenewError, Renewal, is_due};
use crate::identity::make_request;

impl Renewal {
    /// Takes over what somebody has put into the files' place, and renews what ends soon.
    pub(super) async fn look_at_identity(&self) -> Result<(), RenewError> {
        let stored = self.store.load()?;
        let info = self.credentials.info();
        if stored.info().serial != info.serial {
            self.put_in_force(stored.identity())?;
            tracing::info!("the node's certificate was replaced on disk and is in force");
        }
        let info = self.credentials.info();
        if !is_due(info.not_before, info.not_after, RENEW_PART) {
            return Ok(());
        }
        let key = PrivateKey::generate();
        let request = PeerRenewal { certificate_request: make_request(&key).into(), ..PeerRenewal::default() };
        let renewed = self.sign(request).await?;
        let identity = Identity::from_pem(renewed.certificate.as_bytes(), key.to_pem().as_bytes())?;
        // Before it is stored: a certificate that is not of this node, or of another authority, must not take the good one's place.
        self.check(&identity)?;
        self.store.replace(&identity)?;
        self.put_in_force(identity)?;
        let serial = self.credentials.info().serial.clone();
        tracing::info!(serial, "the node's certificate is renewed");
        self.ledger.changed(None, "RenewCertificate", format!("certificate/{serial}"), String::new());
        Ok(())
    }

    fn check(&self, identity: &Identity) -> Result<(), RenewError> {
        let candidate = tarn_client::Credentials::new((**self.credentials.ca()).clone(), identity.clone());
        candidate.check_issuer()?;
        match candidate.principal() == self.credentials.principal() {
            true => Ok(()),
            false => Err(RenewError::Refused(format!("the signer made a certificate for {}", candidate.principal()))),
        }
    }

    fn put_in_force(&self, identity: Identity) -> Result<(), RenewError> {
        self.credentials.replace(identity)?;
        self.links.renew();
        Ok(())
    }
}
