//! Messages that hold a secret, as they are printed: without it.

use std::fmt;

use crate::v1::FederationIdentity;

impl fmt::Debug for FederationIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FederationIdentity { federation_id, card, secret_seed, inviter, scope } = self;
        f.debug_struct("FederationIdentity")
            .field("federation_id", federation_id)
            .field("card", card)
            .field("secret_seed", &if secret_seed.is_empty() { "" } else { "redacted" })
            .field("inviter", inviter)
            .field("scope", scope)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ClusterCard, Command, StartFederation, command};

    #[test]
    fn a_seed_is_printed_nowhere() {
        let card = ClusterCard { name: "north".to_owned(), ..Default::default() };
        let identity = FederationIdentity { secret_seed: vec![173; 32].into(), card: Some(card), ..Default::default() };
        let start = StartFederation { identity: Some(identity), ..Default::default() };
        let printed = format!("{:?}", Command { body: Some(command::Body::StartFederation(start)), ..Default::default() });
        assert!(printed.contains("north") && printed.contains("redacted"), "{printed}");
        assert!(!printed.contains("173") && !printed.contains("\\xad"), "{printed}");
    }
}
