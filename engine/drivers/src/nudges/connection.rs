//! The connection to Redis, behind a circuit breaker: whatever is asked, by apalis too, goes through it.
//!
//! It is made when it is needed and dropped when an answer is missing, so nothing reaches Redis while
//! its breaker is open or a person has cut it off. A call has 2 s; redis-rs would give it half a second.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    ServerErrorKind, Value,
};
use tokio::time::Instant;

use crate::breaker::{Breaker, Ended};
use crate::guard::{LIMIT, METRIC};

/// Answers count once in this time: a mailbox is asked so often that they would outweigh every silence.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// All clones are one.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

struct Inner {
    client: Client,
    current: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    breaker: Arc<Breaker>,
    counted_at: Mutex<Option<Instant>>,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the password.
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(url: &str, breaker: Arc<Breaker>) -> RedisResult<Self> {
        Ok(Self(Arc::new(Inner {
            client: Client::open(url)?,
            current: tokio::sync::Mutex::default(),
            breaker,
            counted_at: Mutex::default(),
        })))
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.0.breaker
    }

    /// Says whether Redis answers.
    pub(crate) async fn ping(&self) -> RedisResult<()> {
        redis::cmd("PING").query_async(&mut self.clone()).await
    }

    /// Gives the connection up; the next call makes another.
    pub(crate) async fn close(&self) {
        *self.0.current.lock().await = None;
    }

    /// Makes a call, if the breaker lets it through.
    async fn call<T: Answer>(
        &self,
        make: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let refused = |why: capstan_core::ports::DriverError| {
            RedisError::from((ErrorKind::Client, "not called", why.to_string()))
        };
        let permit = self.0.breaker.ask().map_err(refused)?;
        let began = Instant::now();
        let whole = async { make(&mut self.current().await?).await };
        let answer = tokio::time::timeout(LIMIT, whole).await.unwrap_or_else(|_| {
            Err((ErrorKind::Io, "no answer", format!("within {} s", LIMIT.as_secs())).into())
        });
        let lost = T::lost(&answer);
        let outcome = if lost.is_some() { "unknown" } else { "ok" };
        metrics::histogram!(
            METRIC,
            "port" => "queue",
            "driver" => "redis",
            "call" => "command",
            "outcome" => outcome,
        )
        .record(began.elapsed());
        match lost {
            Some(error) => {
                self.close().await;
                permit.end(Ended::Lost(&error), None);
            }
            None if permit.is_probe() || self.counts() => permit.end(Ended::Answered, None),
            None => permit.end(Ended::Idle, None),
        }
        answer
    }

    async fn current(&self) -> RedisResult<MultiplexedConnection> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        let made = self.0.client.get_multiplexed_async_connection_with_config(&settings).await?;
        Ok(current.insert(made).clone())
    }

    fn counts(&self) -> bool {
        let mut counted_at = self.0.counted_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = counted_at.is_none_or(|at| at.elapsed() >= COUNTS_EVERY);
        if is_time {
            *counted_at = Some(Instant::now());
        }
        is_time
    }
}

/// What Redis answers to one command, or to several.
trait Answer: Sized {
    /// The errors that are in it.
    fn errors(&self) -> impl Iterator<Item = RedisError>;

    /// Why this is no answer that helps. A script that fails is one: it says what the mailbox lacks.
    fn lost(answer: &RedisResult<Self>) -> Option<String> {
        let is_lost = |error: &RedisError| {
            !matches!(
                error.kind(),
                ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoScript)
            )
        };
        match answer {
            Ok(values) => values.errors().find(is_lost).map(|error| error.to_string()),
            Err(error) => is_lost(error).then(|| error.to_string()),
        }
    }
}

impl Answer for Value {
    fn errors(&self) -> impl Iterator<Item = RedisError> {
        let error = if let Self::ServerError(error) = self { Some(error) } else { None };
        error.into_iter().map(|error| error.clone().into())
    }
}

impl Answer for Vec<Value> {
    fn errors(&self) -> impl Iterator<Item = RedisError> {
        self.iter().flat_map(Answer::errors)
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.call(async move |connection| connection.req_packed_command(command).await))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.call(async move |connection| {
            connection.req_packed_commands(pipeline, offset, count).await
        }))
    }

    fn get_db(&self) -> i64 {
        self.0.client.get_connection_info().redis_settings().db()
    }
}

/// The connection of a worker: what it is answered shows that nudges would be heard.
#[derive(Clone)]
pub(crate) struct Heard(pub(crate) Connection, pub(crate) Arc<super::Shared>);

impl Heard {
    fn note<T: Answer>(&self, answer: &RedisResult<T>) {
        if answer.as_ref().is_ok_and(|answer| answer.errors().next().is_none()) {
            self.1.hears();
        }
    }
}

impl ConnectionLike for Heard {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.0.req_packed_command(command).await;
            self.note(&answer);
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answer = self.0.req_packed_commands(pipeline, offset, count).await;
            self.note(&answer);
            answer
        })
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}
