//! From flags, environment and context to a client.

use std::path::PathBuf;
use std::time::Duration;

use tarn_client::Client;
use tarn_client::tls::Credentials;

use super::context::{Context, Contexts};
use super::exit::Failure;
use super::output::duration;

/// Where a node on this machine listens unless it was told otherwise.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7610";

/// Where the cluster is and who asks. Flags win over the environment, the environment over the context.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectArgs {
    /// The context to use, instead of the one that `tarn context use` chose
    #[arg(long, global = true, env = "TARN_CONTEXT", help_heading = "Connection")]
    pub context: Option<String>,
    /// Addresses of nodes, host:port, separated by commas; any node will do
    #[arg(long, global = true, env = "TARN_ADDRESS", value_delimiter = ',', help_heading = "Connection")]
    pub address: Vec<String>,
    /// The namespace that the command refers to [default: default]
    #[arg(long, short, global = true, env = "TARN_NAMESPACE", help_heading = "Connection")]
    pub namespace: Option<String>,
    /// The cluster's CA certificate (PEM)
    #[arg(long, global = true, env = "TARN_CACERT", help_heading = "Connection")]
    pub cacert: Option<PathBuf>,
    /// Your certificate (PEM)
    #[arg(long, global = true, env = "TARN_CERT", help_heading = "Connection")]
    pub cert: Option<PathBuf>,
    /// Your key (PEM), readable by you alone
    #[arg(long, global = true, env = "TARN_KEY", help_heading = "Connection")]
    pub key: Option<PathBuf>,
    /// How long a call may take, all its tries together
    #[arg(long, global = true, default_value = "10s", value_parser = parse_duration, help_heading = "Connection")]
    pub deadline: Duration,
}

impl ConnectArgs {
    /// The client that these arguments describe; the first call connects.
    pub fn client(&self) -> Result<Client, Failure> {
        let (credentials, addresses, namespace) = self.resolved()?;
        let builder = Client::builder().credentials(credentials).addresses(addresses).namespace(namespace).deadline(self.deadline);
        Ok(builder.connect_lazy()?)
    }

    /// Who asks, at which addresses, and about which namespace, after flags, environment and context were weighed.
    pub fn resolved(&self) -> Result<(Credentials, Vec<String>, String), Failure> {
        let context = Contexts::load()?.pick(self.context.as_deref())?;
        let [ca, cert, key] = self.files(&context)?;
        let credentials = Credentials::from_files(&ca, &cert, &key).map_err(|error| Failure::Usage(error.to_string()))?;
        let mut addresses = if self.address.is_empty() { context.addresses } else { self.address.clone() };
        if addresses.is_empty() {
            addresses.push(DEFAULT_ADDRESS.to_owned());
        }
        Ok((credentials, addresses, self.namespace()?))
    }

    /// Which namespace the command refers to.
    pub fn namespace(&self) -> Result<String, Failure> {
        let context = Contexts::load()?.pick(self.context.as_deref())?;
        let named = self.namespace.clone().or(context.namespace);
        Ok(named.unwrap_or_else(|| "default".to_owned()))
    }

    /// The cluster's CA certificate, the user's certificate and the user's key.
    fn files(&self, context: &Context) -> Result<[PathBuf; 3], Failure> {
        let first = |flag: &Option<PathBuf>, kept: &Option<PathBuf>| flag.clone().or_else(|| kept.clone());
        match (first(&self.cacert, &context.cacert), first(&self.cert, &context.cert), first(&self.key, &context.key)) {
            (Some(ca), Some(cert), Some(key)) => Ok([ca, cert, key]),
            _ => Err(Failure::Usage(
                "who are you? Name your certificate, its key and the cluster's CA certificate with --cert, --key and --cacert (or TARN_CERT, \
                 TARN_KEY, TARN_CACERT), or choose a context with `tarn context use`. `tarn dev` makes all of them for a first try."
                    .into(),
            )),
        }
    }
}

/// Warns whoever believes to speak with a token: commands would run as somebody else, with other rights.
pub fn warn_of_token() {
    if std::env::var_os("TARN_TOKEN").is_some_and(|token| !token.is_empty()) {
        eprintln!(
            "warning: TARN_TOKEN is not read by this command line: it speaks with a certificate; tokens are for programs that use the \
             HTTPS port, 7611"
        );
    }
}

/// Parses a length of time: a number with one of the units ms, s, m, h, d.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is not a length of time: write a whole number and a unit, such as 30s"))?;
    let ms = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => return Err(format!("{text:?} needs a unit: ms, s, m, h or d")),
    };
    ms.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

/// Parses a length of time in a range of milliseconds, for what takes zero for its default: whoever writes zero does not mean that.
pub fn parse_duration_in(text: &str, (least, most): (u64, u64)) -> Result<Duration, String> {
    let parsed = parse_duration(text)?;
    match (u128::from(least)..=u128::from(most)).contains(&parsed.as_millis()) {
        true => Ok(parsed),
        false => Err(format!("{text:?} is not from {} to {}", duration(least), duration(most))),
    }
}

/// Parses how many, at least one.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a count: write a whole number from 1")),
        Ok(count) => Ok(count),
    }
}

/// Parses a number of bytes: a number, or one with a unit Ki, Mi or Gi.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a number of bytes"))?;
    let factor = match unit.trim_end_matches('B') {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(format!("{text:?} has an unknown unit: use Ki, Mi or Gi, or none")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// Parses a point in time: `2026-01-31T12:00:00Z`, or `+5m` from now.
pub fn parse_time(text: &str) -> Result<std::time::SystemTime, String> {
    if let Some(from_now) = text.strip_prefix('+') {
        return Ok(std::time::SystemTime::now() + parse_duration(from_now)?);
    }
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map(Into::into)
        .map_err(|_| format!("{text:?} is not a time: write it as 2026-01-31T12:00:00Z, or from now on as +5m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_bytes_and_times() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration_in("0s", (1_000, 60_000)).unwrap_err().contains("from 1.0s to 1m00s"));
        assert_eq!(parse_duration_in("1s", (1_000, 60_000)), Ok(Duration::from_secs(1)));
        assert_eq!(parse_bytes("64Mi"), Ok(64 << 20));
        assert_eq!(parse_bytes("256"), Ok(256));
        assert!(parse_bytes("1MB").is_err());
        assert!(parse_time("2026-01-31T12:00:00Z").is_ok());
        assert!(parse_time("+5m").is_ok());
        assert!(parse_time("tomorrow").is_err());
    }
}
