//! HTTP: the calls of the REST API, each one request and one answer. Nothing is tried again here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::limits::Limiter;
use crate::codec::envelope;
use crate::tier::{TierError, TierErrorKind};

/// Where Cloudflare's API is.
const BASE_URL: &str = "https://api.cloudflare.com/client/v4";

/// Most bytes of an answer.
const MAX_ANSWER: usize = 4 * envelope::MAX_BYTES;

/// How long a bulk write may take: nobody waits for it, and it may be of 100 MB.
const LONGEST_WRITE: Duration = Duration::from_secs(30);

/// Patience, where a 429 does not say how much, and the most that is granted.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(300);

/// Which namespace, and who asks.
#[derive(Clone)]
pub struct Settings {
    pub account_id: String,
    pub namespace_id: String,
    /// A token with the right to edit Workers KV storage.
    pub api_token: String,
    /// None for Cloudflare's own. `https`, or `http` to this machine.
    pub base_url: Option<String>,
    /// How long one read may take.
    pub timeout: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("account_id", &self.account_id)
            .field("namespace_id", &self.namespace_id)
            .finish_non_exhaustive()
    }
}

/// The REST API of one namespace.
pub struct Client {
    http: reqwest::Client,
    /// How long a read may take.
    timeout: Duration,
    /// Ends without a slash.
    base: String,
    pub limiter: Limiter,
}

/// Any answer but that to a value's bytes.
#[derive(Deserialize)]
struct Reply<T> {
    success: bool,
    #[serde(default = "Vec::new")]
    errors: Vec<Told>,
    result: Option<T>,
    result_info: Option<ResultInfo>,
}

#[derive(Deserialize)]
struct Told {
    code: i64,
}

#[derive(Deserialize)]
struct ResultInfo {
    cursor: Option<String>,
}

/// `key not found`.
const KEY_NOT_FOUND: i64 = 10009;

fn refused(message: impl Into<Box<str>>) -> TierError {
    TierError::new(TierErrorKind::Refused, message)
}

impl Client {
    /// # Errors
    /// [`TierErrorKind::Refused`] for settings that cannot be; the message names which.
    pub fn new(settings: &Settings) -> Result<Self, TierError> {
        for (name, id) in [("accountId", &settings.account_id), ("namespaceId", &settings.namespace_id)] {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if id.is_empty() || !id.bytes().all(allowed) {
                return Err(refused(format!("{name} must be letters, digits, '-' and '_'")));
            }
        }
        let url = base_url(settings.base_url.as_deref().unwrap_or(BASE_URL))?;
        let plain = url.scheme() == "http";
        let token = refused("apiToken must be a token: visible ASCII characters");
        if settings.api_token.is_empty() || !settings.api_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(token);
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", settings.api_token)).map_err(|_| token)?;
        bearer.set_sensitive(true);
        // Another provider that was installed before does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .user_agent(concat!("kvcache/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(LONGEST_WRITE)
            .connect_timeout(settings.timeout)
            .pool_idle_timeout(Duration::from_secs(90));
        if plain {
            // The token goes to this machine or nowhere.
            builder = builder.no_proxy();
        } else {
            // Mozilla's roots beside those of the system: small containers have none.
            let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
            builder = builder.tls_certs_merge(roots.filter_map(|der| Certificate::from_der(der).ok())).https_only(true);
        }
        let http = builder
            .build()
            .map_err(|_| TierError::new(TierErrorKind::Unavailable, "the HTTP client could not be started"))?;
        let base = format!(
            "{}/accounts/{}/storage/kv/namespaces/{}",
            url.as_str().trim_end_matches('/'),
            settings.account_id,
            settings.namespace_id
        );
        Ok(Self { http, timeout: settings.timeout, base, limiter: Limiter::new() })
    }

    /// Makes one call, if there is leave for it.
    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response, TierError> {
        if let Err(wait) = self.limiter.take() {
            let message = format!("Workers KV may not be called for another {} ms", wait.as_millis());
            return Err(TierError::new(TierErrorKind::Unavailable, message));
        }
        let is_write = path.starts_with("bulk") && path != "bulk/get";
        let mut request = self.http.request(method, format!("{}/{path}", self.base));
        if !is_write {
            request = request.timeout(self.timeout);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body);
        }
        let response = request.send().await.map_err(failed)?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            let told = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            self.limiter.pause(told.map_or(PATIENCE, Duration::from_secs).min(MOST_PATIENCE));
        }
        Ok(response)
    }

    /// A call whose answer is JSON.
    async fn call<T: for<'a> Deserialize<'a>>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(Option<T>, Option<String>), TierError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let bytes = bytes_of(response).await?;
        if !status.is_success() {
            return Err(told(status, &bytes));
        }
        let reply: Reply<T> = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
        if !reply.success {
            return Err(told(status, &bytes));
        }
        let cursor = reply.result_info.and_then(|info| info.cursor).filter(|cursor| !cursor.is_empty());
        Ok((reply.result, cursor))
    }

    /// `POST bulk/get`.
    pub async fn bulk_get<T: for<'a> Deserialize<'a>>(&self, keys: &[&str]) -> Result<T, TierError> {
        let body = serde_json::json!({ "keys": keys, "type": "text", "withMetadata": true });
        let (result, _) = self.call(Method::POST, "bulk/get", Some(body.to_string().into_bytes())).await?;
        result.ok_or_else(malformed)
    }

    /// `PUT bulk`, `POST bulk/delete`: the keys that failed.
    pub async fn bulk_write(&self, delete: bool, body: Vec<u8>) -> Result<Vec<String>, TierError> {
        #[derive(Deserialize)]
        struct Outcome {
            #[serde(default)]
            unsuccessful_keys: Vec<String>,
        }
        let (method, path) = if delete { (Method::POST, "bulk/delete") } else { (Method::PUT, "bulk") };
        let (outcome, _) = self.call::<Outcome>(method, path, Some(body)).await?;
        Ok(outcome.map_or_else(Vec::new, |outcome| outcome.unsuccessful_keys))
    }

    /// `GET values/{key}`: none where there is none.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, TierError> {
        let response = self.send(Method::GET, &format!("values/{}", escape(key)), None).await?;
        let status = response.status();
        let bytes = bytes_of(response).await?;
        if status.is_success() {
            return Ok(Some(bytes));
        }
        if status == StatusCode::NOT_FOUND && codes(&bytes).contains(&KEY_NOT_FOUND) {
            return Ok(None);
        }
        Err(told(status, &bytes))
    }

    /// `GET keys`.
    pub async fn keys<T: for<'a> Deserialize<'a>>(
        &self,
        prefix: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<(T, Option<String>), TierError> {
        let mut path = format!("keys?limit={limit}&prefix={}", escape(prefix));
        if let Some(cursor) = cursor {
            path.push_str("&cursor=");
            path.push_str(&escape(cursor));
        }
        let (result, cursor) = self.call(Method::GET, &path, None).await?;
        Ok((result.ok_or_else(malformed)?, cursor))
    }

    /// `GET metadata/{key}`: none where there is none, or no key.
    pub async fn metadata(&self, key: &str) -> Result<Option<Box<RawValue>>, TierError> {
        let response = self.send(Method::GET, &format!("metadata/{}", escape(key)), None).await?;
        let status = response.status();
        let bytes = bytes_of(response).await?;
        if status == StatusCode::NOT_FOUND && codes(&bytes).contains(&KEY_NOT_FOUND) {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(told(status, &bytes));
        }
        let reply: Reply<Box<RawValue>> = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
        Ok(reply.result)
    }
}

fn malformed() -> TierError {
    TierError::new(TierErrorKind::Unavailable, "the answer of Workers KV cannot be read")
}

/// The base, if it may be called with a token.
fn base_url(text: &str) -> Result<Url, TierError> {
    let url = Url::parse(text).map_err(|_| refused("baseUrl must be a URL"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(refused("baseUrl must have neither credentials nor a query"));
    }
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost"
        || bare.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(refused("baseUrl must be https; plain http only to this machine: 127.0.0.0/8, ::1, localhost")),
    }
}

/// Everything but what RFC 3986 calls unreserved, percent-encoded.
fn escape(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte.into());
        } else {
            // A string takes everything.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The body of an answer, up to a limit.
async fn bytes_of(mut response: Response) -> Result<Vec<u8>, TierError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_ANSWER {
            let message = format!("the answer of Workers KV is beyond {MAX_ANSWER} bytes");
            return Err(TierError::new(TierErrorKind::TooLarge, message));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What reqwest says, without the address: it has the account's number.
fn failed(error: reqwest::Error) -> TierError {
    if error.is_timeout() {
        return TierError::new(TierErrorKind::Timeout, "Workers KV gave no answer in time");
    }
    let what = if error.is_connect() { "could not be reached" } else { "broke off" };
    TierError::new(TierErrorKind::Unavailable, format!("Workers KV {what}"))
}

fn codes(body: &[u8]) -> Vec<i64> {
    let reply: Option<Reply<serde::de::IgnoredAny>> = serde_json::from_slice(body).ok();
    reply.map_or_else(Vec::new, |reply| reply.errors.iter().map(|error| error.code).collect())
}

/// What an answer that is no success says: by its status and codes. Its words are the server's, and left out.
fn told(status: StatusCode, body: &[u8]) -> TierError {
    let codes = codes(body);
    let kind = match status.as_u16() {
        401 | 403 => TierErrorKind::Auth,
        413 | 414 => TierErrorKind::TooLarge,
        408 | 425 | 429 | 500.. => TierErrorKind::Unavailable,
        // A namespace that is not there is not a matter of one key.
        404 => TierErrorKind::Unavailable,
        _ => TierErrorKind::Refused,
    };
    let codes: Vec<_> = codes.iter().map(i64::to_string).collect();
    let more = if codes.is_empty() { String::new() } else { format!(", code {}", codes.join(", ")) };
    TierError::new(kind, format!("Workers KV answered {}{more}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(base_url: &str) -> Settings {
        Settings {
            account_id: "acc".into(),
            namespace_id: "ns".into(),
            api_token: "s3cret-token".into(),
            base_url: Some(base_url.into()),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for good in [
            "https://x.example/v4",
            "http://127.0.0.1:8787",
            "http://127.9.9.9/a",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(Client::new(&settings(good)).is_ok(), "{good}");
        }
        for bad in [
            "http://x.example",
            "http://127.0.0.1.example",
            "http://localhost.example",
            "http://0.0.0.0",
            "ftp://localhost",
            "https://u:p@x.example",
            "https://x.example/?a",
            "x",
        ] {
            let error = Client::new(&settings(bad)).err().unwrap();
            assert!(error.kind == TierErrorKind::Refused && error.message.contains("baseUrl"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_token_is_told_to_nobody() {
        let good = settings("https://x.example");
        let bad = Settings { api_token: "s3cret\ntoken".into(), ..good.clone() };
        let error = Client::new(&bad).err().unwrap();
        for shown in [format!("{good:?}"), format!("{bad:?}"), format!("{error:?} {error}")] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        let odd = Settings { account_id: "a/../b".into(), ..good };
        assert!(Client::new(&odd).err().unwrap().message.contains("accountId"));
    }

    #[test]
    fn keys_are_one_segment_of_the_path() {
        assert_eq!(escape("a/b?é*.~"), "a%2Fb%3F%C3%A9%2A.~");
    }
}
