//! A client of the second listener, as other languages have one: ordinary TLS with the web authority's certificate, and a bearer's token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tarn_client::ApiToken;
use tarn_proto::v1;
use tarn_raft::Instant;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::common::{Node, PATIENCE, eventually};

/// What a client offers.
pub const HYBRID: &[&dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768];
pub const CLASSICAL: &[&dyn SupportedKxGroup] = &[kx_group::X25519, kx_group::SECP256R1];

/// Adds a bearer's token to each request, if there is one.
#[derive(Clone)]
pub struct Bearer(pub Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub type WebChannel = InterceptedService<Channel, Bearer>;

impl Node {
    pub fn https(&self) -> SocketAddr {
        self.running.addresses().https.unwrap()
    }

    /// The web authority's certificate, as any user gets it; waits until the listener presents one of its certificates.
    pub async fn web_ca(&self) -> String {
        let ends = r#"tarn_certificate_expiry_seconds{certificate="web"}"#;
        eventually(|| async { self.metric(ends).await > 0.0 }).await;
        let answer = self.cluster().get_cluster(v1::GetClusterRequest::default()).await;
        answer.unwrap().into_inner().web_ca_certificate
    }

    /// A TLS connection to the second listener.
    pub async fn web_tls(&self, groups: &[&'static dyn SupportedKxGroup]) -> std::io::Result<TlsStream<TcpStream>> {
        let config = tls(&self.web_ca().await, groups);
        connect(self.https(), config).await
    }

    /// A channel to the second listener, with this token on every request.
    pub async fn web(&self, token: Option<&str>) -> WebChannel {
        let (address, config) = (self.https(), tls(&self.web_ca().await, HYBRID));
        let channel = Endpoint::from_shared(format!("https://localhost:{}", address.port()))
            .unwrap()
            .timeout(PATIENCE)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let config = config.clone();
                async move { connect(address, config).await.map(TokioIo::new) }
            }));
        InterceptedService::new(channel, Bearer(token.map(str::to_owned)))
    }

    /// An API token for a principal, as `tarn token create` makes them.
    pub async fn token(&self, principal: &str, ttl: Duration) -> (ApiToken, String) {
        self.raise_version().await;
        let token = ApiToken::generate();
        let request = v1::PutTokenRequest {
            request_id: hex(&token.secret_hash()),
            secret_hash: token.secret_hash().to_vec().into(),
            principal: principal.into(),
            ttl_ms: ttl.as_millis() as u64,
            ..v1::PutTokenRequest::default()
        };
        let outcome = self.propose(v1::command::Body::PutToken(request)).await;
        let Some(v1::outcome::Body::PutToken(answer)) = outcome else {
            panic!("{outcome:?}");
        };
        (token, answer.token.unwrap().token_id)
    }

    /// Proposes past the gate, as the cluster's founder.
    pub async fn propose(&self, body: v1::command::Body) -> Option<v1::outcome::Body> {
        let command = v1::Command { principal: "user/admin".into(), body: Some(body), ..v1::Command::default() };
        let deadline = Instant::now() + PATIENCE;
        self.running.consensus().propose(command, deadline).await.unwrap().body
    }

    /// Tokens and revocations need the machine's version 2.
    pub async fn raise_version(&self) {
        let version = || self.running.consensus().applied().borrow().version;
        if version() < 2 {
            let deadline = Instant::now() + PATIENCE;
            // Somebody else may be faster.
            let _ = self.running.consensus().raise_version(2, deadline).await;
        }
        eventually(|| async { version() >= 2 }).await;
    }
}

/// Trusts the web authority, and offers these key exchanges.
pub fn tls(ca: &str, groups: &[&'static dyn SupportedKxGroup]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}

pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Takes any server certificate, for looking at what is presented.
pub fn trusting_anybody() -> Arc<ClientConfig> {
    use rustls::DigitallySignedStruct;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{Error, SignatureScheme};
    use rustls_pki_types::UnixTime;

    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
