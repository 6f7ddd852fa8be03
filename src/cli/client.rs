//! Calls of the REST API: the token, retries that are safe, answers as they came.

use std::path::Path;
use std::time::Duration;

use capstan_core::view::ReadinessView;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::error::{Error, Refusal};

/// How long one call may take: a new deployment looks at every server first.
const CALL: Duration = Duration::from_mins(2);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long Capstan may take to say whether it is ready.
const READY: Duration = Duration::from_secs(10);
/// Waits before the tries after the first.
const WAITS: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// The longest wait that Capstan may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A client of one Capstan.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

/// An answer that is a success, as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its body.
    pub(crate) text: String,
}

impl Answer {
    /// What it says.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(&self.text).map_err(|error| {
            Error::Strange(format!(
                "the answer is not what this version of the client expects: {error}; \
                 --output json shows it unchanged"
            ))
        })
    }
}

impl Client {
    /// A client of the Capstan at this URL.
    pub(crate) fn new(server: &str, token: Option<&str>) -> Result<Self, Error> {
        let base = base(server)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Error::Usage("the token holds letters that none has".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            // A redirect would turn a write into a read, and carry the token elsewhere.
            .redirect(Policy::none())
            .user_agent(concat!("capstan-cli/", env!("CARGO_PKG_VERSION")));
        if is_this_machine(&base) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|source| Error::NoAnswer { server: server.to_owned(), source })?;
        Ok(Self { http, base })
    }

    /// Reads something.
    pub(crate) async fn get(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Answer, Error> {
        let url = self.url(path, query);
        self.call(|| self.http.get(url.clone()).timeout(CALL)).await
    }

    /// Reads something as what it stands for.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        self.get(path, &[]).await?.read()
    }

    /// Asks for something to be done, once, however often it must be tried.
    pub(crate) async fn post(&self, path: &[&str], body: Option<Value>) -> Result<Answer, Error> {
        self.write(Method::POST, path, body).await
    }

    /// Changes something.
    pub(crate) async fn patch(&self, path: &[&str], body: Value) -> Result<Answer, Error> {
        self.write(Method::PATCH, path, Some(body)).await
    }

    /// Sets something as a whole.
    pub(crate) async fn put(&self, path: &[&str], body: Value) -> Result<Answer, Error> {
        self.write(Method::PUT, path, Some(body)).await
    }

    /// Removes something.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Answer, Error> {
        self.write(Method::DELETE, path, None).await
    }

    async fn write(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<Answer, Error> {
        let url = self.url(path, &[]);
        let key = Uuid::now_v7().to_string();
        self.call(|| {
            let request = self.http.request(method.clone(), url.clone()).timeout(CALL);
            let request = request.header("Idempotency-Key", &key);
            match &body {
                Some(body) => request.json(body),
                None => request,
            }
        })
        .await
    }

    /// Uploads a file. Its content is its own key: the same again is accepted.
    pub(crate) async fn put_file(
        &self,
        path: &[&str],
        file: &Path,
        sha256: &str,
    ) -> Result<Answer, Error> {
        let url = self.url(path, &[]);
        let failed = || Error::local(format!("cannot read {}", file.display()));
        let mut tries = Tries::default();
        loop {
            let content = tokio::fs::File::open(file).await.map_err(failed())?;
            let size = content.metadata().await.map_err(failed())?.len();
            let request = self
                .http
                .put(url.clone())
                .header("X-Capstan-Sha256", sha256)
                .header(CONTENT_LENGTH, size)
                .body(Body::wrap_stream(ReaderStream::with_capacity(content, 128 * 1024)));
            if let Some(answer) = tries.again(self, attempt(request).await).await {
                return answer;
            }
        }
    }

    /// Opens an answer that is read piece by piece; tried once.
    pub(crate) async fn open(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        headers: &[(&'static str, String)],
    ) -> Result<Response, Error> {
        let mut request = self.http.get(self.url(path, query));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.map_err(|source| self.no_answer(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|source| self.no_answer(source))?;
        Err(Error::Refused(Box::new(Refusal::new(status, text))))
    }

    /// What Capstan says of its own state: an answer also when it is not ready. Asked once.
    pub(crate) async fn readiness(&self) -> Result<Answer, Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("readyz");
        }
        match attempt(self.http.get(url).timeout(READY)).await {
            Tried::Answer(StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE, text, _)
                if serde_json::from_str::<ReadinessView>(&text).is_ok() =>
            {
                Ok(Answer { text })
            }
            Tried::Answer(status, text, _) => {
                Err(Error::Refused(Box::new(Refusal::new(status.as_u16(), text))))
            }
            Tried::Nothing(error) => Err(self.no_answer(error)),
        }
    }

    async fn call(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, Error> {
        let mut tries = Tries::default();
        loop {
            let request = request().header(ACCEPT, "application/json");
            if let Some(answer) = tries.again(self, attempt(request).await).await {
                return answer;
            }
        }
    }

    /// The URL of a call.
    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The error for a call that got no answer.
    pub(crate) fn no_answer(&self, source: reqwest::Error) -> Error {
        let server = self.base.as_str().trim_end_matches('/').to_owned();
        Error::NoAnswer { server, source }
    }
}

fn base(server: &str) -> Result<Url, Error> {
    let refuse = |reason: &str| {
        let text = "it must be a URL like https://capstan.example:7070, with http or https";
        Error::Usage(format!("--server {server}: {reason}; {text}"))
    };
    let url: Url = server.parse().map_err(|_| refuse("it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(refuse("its scheme is another"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it has a query"));
    }
    Ok(url)
}

/// Whether no proxy can be meant to stand in between.
fn is_this_machine(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "[::1]"))
        || url.host_str().is_some_and(|host| host.starts_with("127."))
}

/// What came of one try.
enum Tried {
    Answer(StatusCode, String, Option<Duration>),
    Nothing(reqwest::Error),
}

/// Sends a request and reads the whole answer: one that breaks off is no answer.
async fn attempt(request: RequestBuilder) -> Tried {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Tried::Nothing(error),
    };
    let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = wait.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let status = response.status();
    match response.text().await {
        Ok(text) => Tried::Answer(status, text, wait),
        Err(error) => Tried::Nothing(error),
    }
}

/// Counts the tries of one call.
#[derive(Debug, Default)]
struct Tries(usize);

impl Tries {
    /// The end of the call, or none after a wait: it is to be tried again. That is safe since a
    /// write carries its key, and Capstan answers a key that it knows with its first answer.
    async fn again(&mut self, client: &Client, tried: Tried) -> Option<Result<Answer, Error>> {
        let wait = WAITS.get(self.0).copied();
        self.0 += 1;
        let (wait, end) = match tried {
            Tried::Answer(status, text, _) if status.is_success() => {
                return Some(Ok(Answer { text }));
            }
            // Retry-After comes with what is over soon: busy, or this very key under way.
            Tried::Answer(status, text, asked) => {
                let wait = wait.zip(asked).map(|(wait, asked)| asked.max(wait).min(LONGEST_WAIT));
                (wait, Error::Refused(Box::new(Refusal::new(status.as_u16(), text))))
            }
            Tried::Nothing(error) => {
                let is_lost = error.is_connect() || error.is_request() || error.is_body();
                let is_lost = is_lost || error.is_timeout() || error.is_decode();
                (wait.filter(|_| is_lost), client.no_answer(error))
            }
        };
        match wait {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                None
            }
            None => Some(Err(end)),
        }
    }
}
