//! `tarn auth …`, `tarn role …`, `tarn token …`, `tarn certificate …`: who you are, who may do what, and by which credentials.

use std::time::Duration;

use tarn_client::{ApiToken, Client};
use tarn_machine::limits::TOKEN_MS;
use tarn_proto::v1::{self as proto, Binding, Rule};

use super::connect::{ConnectArgs, parse_duration_in};
use super::exit::Failure;
use super::output::{Printer, time};
use super::rights;

/// See who you are to the cluster, and what you may do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AuthCommand {
    /// Show as whom the cluster knows you, and your roles
    Whoami,
    /// Ask whether something is allowed, and why
    #[command(after_help = "\
Examples:
  tarn auth can-i submit queue/mail                     may I, in my namespace?
  tarn auth can-i update role/mailer --cluster          may I, in the whole cluster?
  tarn auth can-i purge queue/mail --as user/bob        may bob? (needs the right to read bindings)
It exits with 0 if it is allowed, and with 1 if not.")]
    CanI {
        /// The verb: read, submit, work, cancel, requeue, purge, hold, create, update, delete, activate, revoke
        verb: String,
        /// A kind and a name: queue/mail, or a kind for all of it: queue
        resource: String,
        /// In the whole cluster, and not in one namespace
        #[arg(long)]
        cluster: bool,
        /// Somebody else, such as user/bob
        #[arg(long = "as")]
        principal: Option<String>,
    },
}

/// Say what roles allow, and who has them.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RoleCommand {
    /// List the roles and their rules
    List,
    /// Make a role, or replace its rules
    #[command(after_help = "\
Example:
  tarn role put mailer --allow 'submit,cancel:queue/mail-*,task/*' --allow 'read:queue/mail-*'
A rule is verbs, a colon, resources. A * at the end of either stands for anything; * alone for everything.")]
    Put {
        /// Its name
        name: String,
        /// VERBS:RESOURCES
        #[arg(long = "allow", required = true, value_parser = parse_rule)]
        allow: Vec<Rule>,
    },
    /// Delete a role that nobody has
    Delete {
        /// Its name
        name: String,
    },
    /// Give a role to somebody
    #[command(after_help = "\
Examples:
  tarn role bind user/ada developer --in team-a     in one namespace
  tarn role bind jwt/ci worker --in 'build-*'       in all whose names begin so
  tarn role bind user/ops operator --in '*'         everywhere, and for the cluster itself
  tarn role bind 'user/*' viewer --in default       everybody with a certificate")]
    Bind(BindArgs),
    /// Take a role from somebody
    Unbind(BindArgs),
    /// List who has which roles
    Bindings {
        /// Of this principal only
        principal: Option<String>,
    },
}

/// Who, what, where.
#[derive(Clone, Debug, clap::Args)]
pub struct BindArgs {
    /// Such as user/ada
    principal: String,
    /// A role: admin, operator, developer, worker, viewer, auditor, or one of your own
    role: String,
    /// The namespace, or a pattern of namespaces [default: the namespace that the command refers to]
    #[arg(long = "in")]
    namespace: Option<String>,
}

/// Make and end API tokens.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it: it cannot be shown again
    #[command(after_help = "\
Examples:
  tarn token create --name laptop --ttl 7d                               all that you may do
  tarn token create --name ci --scope 'submit,read:queue/build,task/*'    only this much of it
It is for programs in other languages, which send it as `authorization: Bearer TOKEN` to a node's HTTPS port (7611), and trust the
certificate that `tarn cluster web-ca` prints. This command line has no use for it: it speaks with a certificate, on port 7610.")]
    Create {
        /// What you call it
        #[arg(long)]
        name: String,
        /// When it ends by itself
        #[arg(long, default_value = "30d", value_parser = |text: &str| parse_duration_in(text, TOKEN_MS))]
        ttl: Duration,
        /// Only for this, VERBS:RESOURCES; several add up
        #[arg(long = "scope", value_parser = parse_rule)]
        scopes: Vec<Rule>,
        /// For somebody else [default: you]
        #[arg(long = "for")]
        principal: Option<String>,
    },
    /// List your tokens, or everybody's
    List {
        /// Everybody's
        #[arg(long, short = 'A')]
        all: bool,
    },
    /// End a token, on every node
    Revoke {
        /// Its id, as `tarn token list` shows it
        token_id: String,
    },
}

/// End certificates before their time.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum CertificateCommand {
    /// Revoke a certificate, on every node
    #[command(
        after_help = "Example:\n  tarn certificate revoke 4f0c…9a --reason 'lost laptop'\n`openssl x509 -in FILE -noout -serial` tells a certificate's serial number."
    )]
    Revoke {
        /// Its serial number, in hexadecimal digits
        serial: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List revoked certificates
    Revoked,
}

/// Runs `tarn auth …`.
pub async fn auth(command: AuthCommand, connect: &ConnectArgs, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        AuthCommand::Whoami => printer.message(&client.who_am_i().await?, whoami),
        AuthCommand::CanI { verb, resource, cluster, principal } => {
            rights::warn(std::slice::from_ref(&verb), std::slice::from_ref(&resource));
            let request = proto::CanIRequest {
                verb,
                resource,
                namespace: if cluster { String::new() } else { connect.namespace()? },
                principal: principal.unwrap_or_default(),
            };
            let answer = client.can_i(request).await?;
            printer.message(&answer, |answer| match answer.allowed {
                true => format!("yes: {}", answer.why),
                false => format!("no: {}", answer.why),
            })?;
            match answer.allowed {
                true => Ok(()),
                false => Err(Failure::No),
            }
        }
    }
}

/// Runs `tarn role …`.
pub async fn role(command: RoleCommand, connect: &ConnectArgs, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        RoleCommand::List => {
            let roles = client.list_roles().await?;
            printer.list(&roles, &["role", "allows"], |role| vec![role.name.clone(), rules(&role.rules)])
        }
        RoleCommand::Put { name, allow } => {
            rights::warn_of_rules(&allow);
            client.put_role(&name, allow).await?;
            done(printer, &format!("the role {name} is as you said"))
        }
        RoleCommand::Delete { name } => {
            client.delete_role(&name).await?;
            done(printer, &format!("the role {name} is gone"))
        }
        RoleCommand::Bind(args) => {
            let binding = args.binding(connect)?;
            client.put_binding(binding.clone()).await?;
            done(printer, &format!("{} has the role {} in {}", binding.principal, binding.role, binding.namespace))
        }
        RoleCommand::Unbind(args) => {
            let binding = args.binding(connect)?;
            client.delete_binding(binding.clone()).await?;
            done(printer, &format!("{} has no role {} in {} any more", binding.principal, binding.role, binding.namespace))
        }
        RoleCommand::Bindings { principal } => {
            let bindings = client.list_bindings(principal.unwrap_or_default()).await?;
            printer.list(&bindings, &["principal", "role", "namespaces"], |binding| {
                vec![binding.principal.clone(), binding.role.clone(), binding.namespace.clone()]
            })
        }
    }
}

impl BindArgs {
    fn binding(self, connect: &ConnectArgs) -> Result<Binding, Failure> {
        Ok(Binding { principal: self.principal, role: self.role, namespace: self.namespace.map_or_else(|| connect.namespace(), Ok)? })
    }
}

/// Runs `tarn token …`.
pub async fn token(command: TokenCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { name, ttl, scopes, principal } => {
            rights::warn_of_rules(&scopes);
            let principal = match principal {
                Some(principal) => principal,
                None => client.who_am_i().await?.principal,
            };
            // The secret is made here and stays here: the cluster keeps its hash.
            let secret = ApiToken::generate();
            let request = proto::PutTokenRequest {
                request_id: String::new(),
                secret_hash: secret.secret_hash().to_vec().into(),
                name,
                principal,
                scopes,
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            };
            let token = client.put_token(request).await?;
            printer.note(&format!(
                "token {} acts as {} until {}; keep it secret, it cannot be shown again",
                token.token_id,
                token.principal,
                time(token.expires_at_ms)
            ));
            let value = serde_json::json!({
                "token": secret.reveal(),
                "token_id": token.token_id,
                "principal": token.principal,
                "expires_at_ms": token.expires_at_ms.to_string(),
            });
            printer.value(&value, || secret.reveal())
        }
        TokenCommand::List { all } => {
            let of = match all {
                true => String::new(),
                false => client.who_am_i().await?.principal,
            };
            let tokens = client.list_tokens(of).await?;
            printer.list(&tokens, &["token", "name", "acts as", "expires", "made by", "scopes"], |token| {
                vec![
                    token.token_id.clone(),
                    token.name.clone(),
                    token.principal.clone(),
                    time(token.expires_at_ms),
                    token.created_by.clone(),
                    match token.scopes.as_slice() {
                        [] => "all".to_owned(),
                        scopes => rules(scopes),
                    },
                ]
            })
        }
        TokenCommand::Revoke { token_id } => {
            client.revoke_token(&token_id).await?;
            done(printer, &format!("token {token_id} is refused from now on"))
        }
    }
}

/// Runs `tarn certificate …`.
pub async fn certificate(command: CertificateCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        CertificateCommand::Revoke { serial, reason, yes } => {
            // As openssl prints it.
            let serial = serial.replace(':', "").to_ascii_lowercase();
            super::confirm(&format!("Refuse the certificate {serial} on every node, for good?"), yes)?;
            let request = proto::RevokeCertificateRequest { serial: serial.clone(), reason, ..proto::RevokeCertificateRequest::default() };
            client.revoke_certificate(request).await?;
            done(printer, &format!("the certificate {serial} is refused from now on"))
        }
        CertificateCommand::Revoked => {
            let revocations = client.list_revocations().await?;
            printer.list(&revocations, &["serial", "revoked", "by", "reason"], |revocation| {
                vec![revocation.serial.clone(), time(revocation.revoked_at_ms), revocation.revoked_by.clone(), revocation.reason.clone()]
            })
        }
    }
}

fn whoami(answer: &proto::WhoAmIResponse) -> String {
    let mut text = format!("{} (by {})", answer.principal, answer.method);
    if answer.principal == crate::gate::roles::ROOT {
        text += "\nmay do everything";
    } else if answer.bindings.is_empty() {
        text += "\nhas no role, and may do nothing: ask an administrator for one (`tarn role bind`)";
    }
    for binding in &answer.bindings {
        text += &format!("\n{} in {}", binding.role, binding.namespace);
    }
    if !answer.scopes.is_empty() {
        text += &format!("\nonly for {}", rules(&answer.scopes));
    }
    text
}

fn done(printer: Printer, what: &str) -> Result<(), Failure> {
    printer.value(&serde_json::json!({ "done": what }), || what.to_owned())
}

fn rules(rules: &[Rule]) -> String {
    let rule = |rule: &Rule| format!("{}:{}", rule.verbs.join(","), rule.resources.join(","));
    rules.iter().map(rule).collect::<Vec<_>>().join("  ")
}

/// Parses `VERBS:RESOURCES`.
fn parse_rule(text: &str) -> Result<Rule, String> {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    match text.split_once(':') {
        Some((verbs, resources)) if !verbs.is_empty() && !resources.is_empty() => {
            Ok(Rule { verbs: list(verbs), resources: list(resources) })
        }
        _ => Err(format!("{text:?} is no rule: write verbs, a colon and resources, such as submit,read:queue/mail-*")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_verbs_and_resources() {
        let rule = parse_rule("submit,read:queue/mail-*,task/*").unwrap();
        assert_eq!(rule.verbs, ["submit", "read"]);
        assert_eq!(rule.resources, ["queue/mail-*", "task/*"]);
        assert_eq!(rules(&[rule]), "submit,read:queue/mail-*,task/*");
        for bad in ["", "submit", ":queue/x", "submit:"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
