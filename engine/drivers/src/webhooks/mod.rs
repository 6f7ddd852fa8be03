//! Calls webhooks over HTTP: signed, to addresses that may be called, without following redirects.
//!
//! The name of a host is resolved here and nowhere else, and the connection goes to one of the addresses
//! that were looked at: no answer of a name server can change between the look and the call.

mod address;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capstan_core::message::{CONTENT_TYPE, WebhookCall, WebhookCaller};
use capstan_core::order::hex;
use capstan_core::ports::{Call, DriverError};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use reqwest::redirect::Policy;
use sha2::Sha256;

pub use address::{Allowed, Network};

/// The header with the signature: `t=<seconds since 1970>,v1=<hexadecimal HMAC-SHA256>` over the seconds,
/// a full stop, and the body.
pub const SIGNATURE: &str = "capstan-signature";
/// The header with the id of the event.
pub const EVENT: &str = "capstan-event-id";

/// Why the driver cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for webhooks cannot be made")]
pub struct Error(#[source] reqwest::Error);

/// Calls webhooks.
#[derive(Debug)]
pub struct HttpWebhooks {
    http: reqwest::Client,
    allowed: Arc<Allowed>,
}

impl HttpWebhooks {
    /// Webhooks are given `timeout` to answer. Public addresses may be called, and those in `allowed`.
    ///
    /// # Errors
    /// When there is no HTTP client to be had.
    pub fn new(timeout: Duration, allowed: Allowed) -> Result<Self, Error> {
        let allowed = Arc::new(allowed);
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(Resolver(Arc::clone(&allowed))))
            .user_agent(concat!("capstan/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error)?;
        Ok(Self { http, allowed })
    }

    async fn post(&self, call: &WebhookCall) -> Result<u16, DriverError> {
        let url = self.checked(&call.url).map_err(DriverError::Refused)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let signature = signature(&call.secret, seconds, &call.message.body);
        let answer = self
            .http
            .post(url)
            .header(CONTENT_TYPE_HEADER, CONTENT_TYPE)
            .header(SIGNATURE, format!("t={seconds},v1={signature}"))
            .header(EVENT, &call.message.id)
            .body(call.message.body.clone())
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(error) => Err(DriverError::Unknown(causes(&error.without_url()))),
        }
    }

    fn checked(&self, text: &str) -> Result<Url, String> {
        let url: Url = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("it does not begin with http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it must not hold a user or a password".to_owned());
        }
        let host = url.host_str().ok_or("it names no host")?;
        // A host that is an address is not resolved by anybody.
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>()
            && !self.allowed.allows(ip)
        {
            return Err(forbidden(ip));
        }
        Ok(url)
    }
}

impl WebhookCaller for HttpWebhooks {
    fn check(&self, url: &str) -> Result<(), String> {
        self.checked(url).map(drop)
    }

    fn call<'a>(&'a self, call: &'a WebhookCall) -> Call<'a, u16> {
        Box::pin(self.post(call))
    }
}

/// What a body is signed with, as hexadecimal digits.
pub fn signature(secret: &str, seconds: u64, body: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn forbidden(ip: IpAddr) -> String {
    format!("{ip} is not a public address; [webhooks] allow in the configuration can allow it")
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Resolves names to addresses that may be called.
#[derive(Debug)]
struct Resolver(Arc<Allowed>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (good, bad): (Vec<_>, Vec<_>) = found.partition(|it| allowed.allows(it.ip()));
            if good.is_empty() {
                let ips: Vec<String> = bad.iter().map(|it| forbidden(it.ip())).collect();
                return Err(ips.join("; ").into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'whsec_x'
        assert_eq!(
            signature("whsec_x", 1_700_000_000, "{\"a\":1}"),
            "b3438763ab46d9634b9844c8722818eaf523f803db1327484c6067462a5fd6d1"
        );
    }

    #[test]
    fn urls_are_refused_that_reach_inward() {
        let webhooks =
            HttpWebhooks::new(Duration::from_secs(1), Allowed::default()).expect("a client");
        for refused in [
            "ftp://example.com/",
            "http://user@example.com/",
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://10.1.2.3:8080/x",
            "http://169.254.169.254/latest/meta-data",
            "no url",
        ] {
            assert!(webhooks.check(refused).is_err(), "{refused}");
        }
        for good in ["https://example.com/hook", "http://93.184.216.34/", "https://[2606:4700::1]/"]
        {
            assert_eq!(webhooks.check(good), Ok(()), "{good}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_inward_is_not_called() {
        let webhooks =
            HttpWebhooks::new(Duration::from_secs(1), Allowed::default()).expect("a client");
        let call = WebhookCall {
            url: "http://localhost:1/".to_owned(),
            secret: "s".to_owned(),
            message: capstan_core::message::Message {
                id: "x/1".to_owned(),
                key: "deployment.SUCCESS".to_owned(),
                kind: "capstan.deployment.status".to_owned(),
                body: "{}".to_owned(),
            },
        };
        let refused = webhooks.call(&call).await.expect_err("it is not called").to_string();
        assert!(refused.contains("is not a public address"), "{refused}");
        let network: Network = "127.0.0.0/8".parse().expect("a network");
        let loopback: Network = "::1".parse().expect("an address");
        let allowed = Allowed::new(vec![network, loopback]);
        let webhooks = HttpWebhooks::new(Duration::from_secs(1), allowed).expect("a client");
        let tried = webhooks.call(&call).await.expect_err("nobody is there").to_string();
        assert!(!tried.contains("public"), "{tried}");
    }
}
