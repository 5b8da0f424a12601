//! Which Redis, and how it is reached.

use std::fmt;
use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult,
    TlsCertificates, TlsMode,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::tier::{TierError, TierErrorKind};

/// What keys begin with unless told otherwise.
pub const PREFIX: &str = "kvcache:";

/// Longest prefix, in bytes.
const MAX_PREFIX_BYTES: usize = 128;

/// Which Redis, and what of it is used.
#[derive(Clone)]
pub struct Settings {
    /// `redis://` or, with TLS, `rediss://`, with `user:password@` and `/database` where needed; `unix:///path` for a socket.
    /// One, or several nodes of a cluster, or several sentinels.
    pub urls: Vec<String>,
    /// Whether they are nodes of a Redis Cluster.
    pub cluster: bool,
    /// The name of the master, where they are sentinels.
    pub sentinel: Option<String>,
    /// The authorities that are trusted in the place of the system's and Mozilla's: PEM, or the path of a file of it.
    pub tls_ca: Option<String>,
    /// What all keys begin with; see [`PREFIX`]. Caches with one prefix on one Redis are one cache.
    pub prefix: String,
    /// Whether leases are given.
    pub lock: bool,
    /// How long a command may take.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            cluster: false,
            sentinel: None,
            tls_ca: None,
            prefix: PREFIX.to_owned(),
            lock: false,
            timeout: crate::tier::TIMEOUT,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may have a password.
        f.debug_struct("Settings")
            .field("urls", &self.urls.len())
            .field("cluster", &self.cluster)
            .field("sentinel", &self.sentinel)
            .field("prefix", &self.prefix)
            .field("lock", &self.lock)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn refused(message: impl Into<Box<str>>) -> TierError {
    TierError::new(TierErrorKind::Refused, message)
}

/// Where connections are made to.
pub enum Place {
    Node(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Sentinels),
}

/// Sentinels, who know which node is the master.
pub struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    name: String,
    login: RedisConnectionInfo,
    certificates: Option<TlsCertificates>,
}

impl Place {
    /// # Errors
    /// [`TierErrorKind::Refused`] for settings that cannot be; the message names which.
    pub fn of(settings: &Settings) -> Result<Self, TierError> {
        check(settings)?;
        let infos = settings.urls.iter().map(|url| info_of(url)).collect::<Result<Vec<_>, _>>()?;
        let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        if infos.iter().any(|info| is_tls(info) != is_tls(&infos[0])) {
            return Err(refused("url must be rediss:// for all or for none"));
        }
        let certificates = if is_tls(&infos[0]) {
            Some(TlsCertificates { client_tls: None, root_cert: Some(roots(settings.tls_ca.as_deref())?) })
        } else if settings.tls_ca.is_some() {
            return Err(refused("tls.ca is of use with rediss:// only"));
        } else {
            None
        };
        // What redis-rs says of a URL may repeat it.
        let unfit = |_| refused("url is none that Redis can be reached by");
        if let Some(name) = &settings.sentinel {
            let login = infos[0].redis_settings().clone();
            let addresses = infos.into_iter().map(|info| info.addr().clone()).collect();
            return Ok(Self::Sentinel(Sentinels { addresses, name: name.clone(), login, certificates }));
        }
        if settings.cluster {
            let mut builder = ClusterClientBuilder::new(infos)
                .use_protocol(ProtocolVersion::RESP3)
                .connection_timeout(settings.timeout)
                .response_timeout(settings.timeout)
                .overall_response_timeout(None)
                .tcp_settings(tcp())
                .retries(4)
                .min_retry_wait(10)
                .max_retry_wait(200);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            return Ok(Self::Cluster(Box::new(builder.build().map_err(unfit)?)));
        }
        let Some(info) = infos.into_iter().next() else { return Err(refused("url must be given")) };
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        Ok(Self::Node(Box::new(client.map_err(unfit)?)))
    }
}

impl Sentinels {
    /// A client that asks them, another first with each `turn`. Those that want credentials are given those of the URL.
    pub fn client(&self, log_in: bool, turn: usize) -> RedisResult<SentinelClient> {
        let mut addresses = self.addresses.clone();
        // redis-rs asks them in their order, and one that is silent would be all that is asked.
        let first = turn % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut builder = SentinelClientBuilder::new(addresses, self.name.clone(), SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(self.login.db())
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(user) = self.login.username() {
            builder = builder.set_client_to_redis_username(user);
            if log_in {
                builder = builder.set_client_to_sentinel_username(user);
            }
        }
        if let Some(password) = self.login.password() {
            builder = builder.set_client_to_redis_password(password);
            if log_in {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build()
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn check(settings: &Settings) -> Result<(), TierError> {
    if settings.urls.is_empty() {
        return Err(refused("url must be given"));
    }
    if settings.sentinel.is_some() && settings.cluster {
        return Err(refused("sentinel and cluster exclude each other"));
    }
    if settings.sentinel.as_deref().is_some_and(str::is_empty) {
        return Err(refused("sentinel must be the name of a master, and not empty"));
    }
    if settings.urls.len() > 1 && settings.sentinel.is_none() && !settings.cluster {
        return Err(refused("url must be one, but with cluster or sentinel"));
    }
    let fits = |c: char| !c.is_control() && !matches!(c, '{' | '}');
    if settings.prefix.is_empty() || settings.prefix.len() > MAX_PREFIX_BYTES || !settings.prefix.chars().all(fits) {
        let message = format!("prefix must be 1 to {MAX_PREFIX_BYTES} bytes, without braces and control characters");
        return Err(refused(message));
    }
    let dbs = settings.urls.iter().filter_map(|url| info_of(url).ok()).map(|info| info.redis_settings().db());
    if settings.cluster && dbs.into_iter().any(|db| db != 0) {
        return Err(refused("url must not name a database where cluster is set: a cluster has none but 0"));
    }
    Ok(())
}

fn info_of(url: &str) -> Result<ConnectionInfo, TierError> {
    let wrong = || refused("url must be redis://, rediss:// or unix://, with a host or a path");
    let parsed = redis::parse_redis_url(url).ok_or_else(wrong)?;
    if parsed.fragment().is_some() {
        return Err(refused("url must have no fragment: certificates are always verified"));
    }
    let info = parsed.into_connection_info().map_err(|_| wrong())?;
    let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let login = login.set_lib_name("kvcache", env!("CARGO_PKG_VERSION"));
    Ok(info.set_redis_settings(login).set_tcp_settings(tcp()))
}

/// The authorities to trust, as PEM.
fn roots(given: Option<&str>) -> Result<Vec<u8>, TierError> {
    let Some(given) = given else {
        // Mozilla's roots beside those of the system: small containers have none.
        let system = rustls_native_certs::load_native_certs().certs;
        let all = system.iter().chain(webpki_root_certs::TLS_SERVER_ROOT_CERTS);
        // One that cannot be used must not spoil the others.
        return Ok(pem_of(all.filter(|der| RootCertStore::empty().add((*der).clone()).is_ok())));
    };
    let pem = if given.contains("-----BEGIN") {
        given.as_bytes().to_vec()
    } else {
        std::fs::read(given).map_err(|error| refused(format!("tls.ca cannot be read: {}", error.kind())))?
    };
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let fits = |der: &CertificateDer<'static>| RootCertStore::empty().add(der.clone()).is_ok();
    match parsed {
        Ok(list) if !list.is_empty() && list.iter().all(fits) => Ok(pem),
        _ => Err(refused("tls.ca must be certificates in PEM, or the path of a file of them")),
    }
}

fn pem_of<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> Vec<u8> {
    use base64::Engine as _;
    let mut pem = Vec::new();
    for der in certificates {
        pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            pem.extend_from_slice(line);
            pem.push(b'\n');
        }
        pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
    }
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(urls: &[&str]) -> Settings {
        Settings { urls: urls.iter().map(|&url| url.to_owned()).collect(), ..Settings::default() }
    }

    #[test]
    fn what_cannot_be_names_the_option_and_tells_no_secret() {
        let base = settings(&["redis://:s3cret@localhost"]);
        let cases = [
            ("url", settings(&[])),
            ("url", settings(&["http://:s3cret@localhost"])),
            ("url", settings(&["redis://:s3cret@"])),
            ("url", settings(&["redis://:s3cret@localhost/x"])),
            ("url", settings(&["rediss://:s3cret@localhost#insecure"])),
            ("url", settings(&["redis://localhost", "redis://localhost:1"])),
            ("url", Settings { cluster: true, ..settings(&["redis://:s3cret@localhost/3"]) }),
            ("url", Settings { cluster: true, ..settings(&["redis://localhost", "rediss://localhost:1"]) }),
            ("sentinel", Settings { cluster: true, sentinel: Some("m".into()), ..base.clone() }),
            ("sentinel", Settings { sentinel: Some(String::new()), ..base.clone() }),
            ("tls.ca", Settings { tls_ca: Some("/nowhere/s".into()), ..base.clone() }),
            ("tls.ca", Settings { tls_ca: Some("/nowhere/s".into()), ..settings(&["rediss://localhost"]) }),
            ("tls.ca", Settings { tls_ca: Some("-----BEGIN x".into()), ..settings(&["rediss://localhost"]) }),
            ("prefix", Settings { prefix: "a{b}".into(), ..base.clone() }),
            ("prefix", Settings { prefix: String::new(), ..base.clone() }),
        ];
        for (option, settings) in cases {
            let error = Place::of(&settings).err().unwrap();
            assert!(error.kind == TierErrorKind::Refused && error.message.starts_with(option), "{option}: {error}");
            let shown = format!("{error} {error:?} {settings:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert!(Place::of(&base).is_ok());
    }

    #[test]
    fn the_roots_of_the_system_and_of_mozilla_are_there() {
        let pem = roots(None).unwrap();
        let roots = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().unwrap();
        assert!(roots.len() >= webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
    }
}
