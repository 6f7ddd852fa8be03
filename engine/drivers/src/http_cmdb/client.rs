//! Questions over HTTP: each with a time limit, a bounded answer and a few more tries. They change
//! nothing on the other side, so they may be asked again.

use std::fmt;
use std::time::Duration;

use capstan_core::ports::DriverError;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, DATE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use tokio::time::Instant;

/// How often one question is asked at most.
const TRIES: u32 = 3;
/// Longest wait before the second try; each later one may be three times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Why the driver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client cannot be made.
    #[error("the HTTP client for the CMDB cannot be made")]
    Client(#[source] reqwest::Error),
    /// The token cannot be sent.
    #[error("the token holds characters that cannot be sent in a header")]
    Token,
}

/// How questions are asked.
#[derive(Clone)]
pub struct Asking {
    /// The whole value of the header `Authorization`; none: it is not sent. It is never logged.
    pub authorization: Option<String>,
    /// How long the other side may take for one answer.
    pub answer: Duration,
    /// The largest answer, in bytes.
    pub largest: usize,
}

impl Default for Asking {
    fn default() -> Self {
        Self { authorization: None, answer: Duration::from_secs(3), largest: 64 * 1024 * 1024 }
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorization = self.authorization.as_ref().map(|_| "***");
        f.debug_struct("Asking")
            .field("authorization", &authorization)
            .field("answer", &self.answer)
            .field("largest", &self.largest)
            .finish()
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A body.
    Body {
        bytes: Vec<u8>,
        etag: Option<HeaderValue>,
        /// The clock of the other side.
        date: Option<HeaderValue>,
    },
    /// It is as it was when it had the `ETag` that was given.
    Unchanged {
        /// The clock of the other side.
        date: Option<HeaderValue>,
    },
    /// There is no such thing.
    Absent,
}

/// Asks.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    largest: usize,
}

/// Why a try gave nothing.
struct Failed {
    error: DriverError,
    again: Again,
}

/// Whether another try makes sense.
enum Again {
    /// Yes, after this time at the earliest.
    After(Duration),
    No,
}

impl Client {
    pub(crate) fn new(asking: &Asking) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &asking.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .timeout(asking.answer)
            // The token goes to the address that is configured and to no other.
            .redirect(Policy::none())
            .no_proxy()
            .default_headers(headers)
            .user_agent(concat!("capstan/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Client)?;
        Ok(Self { http, largest: asking.largest })
    }

    /// Asks until there is an answer, tries are used up, or it is `until`.
    pub(crate) async fn get(
        &self,
        url: &Url,
        etag: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<Answer, DriverError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let failed = match tokio::time::timeout_at(until, self.once(url, etag)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failed)) => failed,
                Err(_) => return Err(DriverError::Unknown(format!("{url}: no answer in time"))),
            };
            let Again::After(least) = failed.again else { return Err(failed.error) };
            // Spread out: many who fail at once must not come back at once.
            let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0).max(least);
            if tries == TRIES || Instant::now() + wait >= until {
                return Err(failed.error);
            }
            tracing::debug!(%url, error = %failed.error, ?wait, "asking the CMDB again");
            tokio::time::sleep(wait).await;
            tries += 1;
            pause *= 3;
        }
    }

    async fn once(&self, url: &Url, etag: Option<&HeaderValue>) -> Result<Answer, Failed> {
        let mut request = self.http.get(url.clone());
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(|error| lost(url, error))?;
        let status = response.status();
        match status {
            StatusCode::OK => self.body(url, response).await,
            StatusCode::NOT_MODIFIED if etag.is_some() => {
                Ok(Answer::Unchanged { date: response.headers().get(DATE).cloned() })
            }
            StatusCode::NOT_MODIFIED => {
                Err(never(url, "it answers 304 Not Modified to a question without an ETag"))
            }
            StatusCode::NOT_FOUND => Ok(Answer::Absent),
            StatusCode::TOO_MANY_REQUESTS => Err(later(url, &response)),
            _ if status.is_server_error() => Err(later(url, &response)),
            _ if status.is_redirection() => {
                let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
                let to = place.map(|place| format!(" to {place}")).unwrap_or_default();
                Err(never(url, &format!("it answers {status}{to}; give the address itself")))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(never(url, &format!("it answers {status}; is the token right?")))
            }
            _ => Err(never(url, &format!("it answers {status}"))),
        }
    }

    async fn body(&self, url: &Url, mut response: Response) -> Result<Answer, Failed> {
        let too_large = || never(url, &format!("the answer is larger than {} bytes", self.largest));
        let header = |name| response.headers().get(name).cloned();
        let (etag, date) = (header(ETAG), header(DATE));
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).unwrap_or(usize::MAX) > self.largest {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| lost(url, error))? {
            if bytes.len() + chunk.len() > self.largest {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer::Body { bytes, etag, date })
    }
}

fn lost(url: &Url, error: reqwest::Error) -> Failed {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    let error = DriverError::Unknown(format!("{url}: {text}"));
    Failed { error, again: Again::After(Duration::ZERO) }
}

fn later(url: &Url, response: &Response) -> Failed {
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = asked.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let error = DriverError::Busy(format!("{url}: it answers {}", response.status()));
    Failed { error, again: Again::After(Duration::from_secs(seconds)) }
}

fn never(url: &Url, reason: &str) -> Failed {
    Failed { error: DriverError::Refused(format!("{url}: {reason}")), again: Again::No }
}
