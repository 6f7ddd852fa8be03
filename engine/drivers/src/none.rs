//! Load balancer `none`: nobody takes traffic away, and health is asked of the servers themselves.
//!
//! A server is serving if its health URL answers 2xx within a second, and dead if it answers
//! anything else or does not answer. What this machine cannot even ask (no URL, an unknown name, no
//! free socket, no time left in the call) is unknown: it says nothing about the server.

use std::error::Error as _;
use std::future::ready;
use std::io::ErrorKind;
use std::time::Duration;

use capstan_core::ports::{Call, Endpoint, LoadBalancer, Seen, Sight};
use futures::future::join_all;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::guard::LIMIT;

/// How long one server may take.
const ANSWER: Duration = Duration::from_secs(1);
/// What is left of a call's time when the last server that had a turn has had its time to answer.
const SPARE: Duration = Duration::from_millis(50);
/// How many servers are asked at once.
const CONCURRENCY: usize = 64;
const REDIRECTS: usize = 3;
/// How much of an answer is read; the rest is left.
const BODY: usize = 64 * 1024;

/// Why the driver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client cannot be made.
    #[error("the HTTP client for health checks cannot be made")]
    Client(#[source] reqwest::Error),
}

/// The load balancer that is none.
#[derive(Debug)]
pub struct NoLoadBalancer {
    client: Client,
    turns: Semaphore,
    /// How long a call goes on asking; who has not had a turn by then is unknown.
    asks_for: Duration,
}

impl NoLoadBalancer {
    /// A driver with its own HTTP client; a server has a second to answer.
    pub fn new() -> Result<Self, Error> {
        Self::with_timeout(ANSWER)
    }

    /// The same with another time to answer.
    pub fn with_timeout(answer: Duration) -> Result<Self, Error> {
        let client = Client::builder()
            .timeout(answer)
            .redirect(Policy::limited(REDIRECTS))
            .no_proxy()
            // A connection that is kept would hide that a server takes no new ones.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("capstan/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Client)?;
        let asks_for = LIMIT.saturating_sub(answer + SPARE);
        Ok(Self { client, turns: Semaphore::new(CONCURRENCY), asks_for })
    }

    async fn sight(&self, server: &Endpoint, turn_by: Instant) -> Sight {
        let Some(url) = health_url(server) else {
            return Sight::Unknown;
        };
        let Ok(permit) = tokio::time::timeout_at(turn_by, self.turns.acquire()).await else {
            return Sight::Unknown;
        };
        let _permit = permit.expect("the semaphore is never closed");
        match self.ask(url).await {
            Ok(sight) => sight,
            Err(error) => {
                let sight = if is_our_fault(&error) { Sight::Unknown } else { Sight::Dead };
                tracing::trace!(
                    server = %server.server,
                    url = server.health_url,
                    error = &error as &dyn std::error::Error,
                    ?sight,
                    "health"
                );
                sight
            }
        }
    }

    async fn ask(&self, url: Url) -> Result<Sight, reqwest::Error> {
        let mut response = self.client.get(url).send().await?;
        if !response.status().is_success() {
            return Ok(Sight::Dead);
        }
        let mut read = 0;
        while read < BODY {
            let Some(bytes) = response.chunk().await? else { break };
            read += bytes.len();
        }
        Ok(Sight::Serving)
    }
}

impl LoadBalancer for NoLoadBalancer {
    fn can_drain(&self) -> bool {
        false
    }

    fn sees_all_at_once(&self) -> bool {
        false
    }

    fn drain<'a>(&'a self, _server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn admit<'a>(&'a self, _server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        Box::pin(async move {
            let turn_by = Instant::now() + self.asks_for;
            let looks = servers.iter().map(|server| async move {
                let sight = self.sight(server, turn_by).await;
                Seen { server: server.server, sight, in_flight: None }
            });
            Ok(join_all(looks).await)
        })
    }
}

fn health_url(server: &Endpoint) -> Option<Url> {
    let url: Url = server.health_url.parse().ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// Whether the question never left this machine.
fn is_our_fault(error: &reqwest::Error) -> bool {
    if error.is_builder() || error.is_dns() {
        return true;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            // Too many open files, of the process and of the system.
            let is_short_of_files = matches!(error.raw_os_error(), Some(23 | 24));
            let is_cut_off = matches!(
                error.kind(),
                ErrorKind::NetworkDown
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
                    | ErrorKind::OutOfMemory
            );
            if is_short_of_files || is_cut_off {
                return true;
            }
        }
        source = error.source();
    }
    false
}
