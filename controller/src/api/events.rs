//! What happened: as a list, or as a live stream that misses nothing and repeats nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use capstan_core::DeploymentId;
use capstan_core::event::{Event, EventType};
use capstan_core::view::Page;
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::IntoParams;

use crate::app::App;
use crate::extract::{Answered, Id, Params, limit_of, parsed};
use crate::problem::{Problem, Problems, chain};

/// Events that are read at once.
const CHUNK: u32 = 500;
/// Another process may commit without this one being told; so look this often.
const LOOK: Duration = Duration::from_secs(2);
/// A comment keeps connections open that would be taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only events with a higher sequence number; 0 when left out.
    #[param(value_type = Option<i64>)]
    after: Option<String>,
    /// For the list: how many, 1 to 500; 100 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    limit: Option<String>,
}

/// The events of a deployment in order. With `Accept: text/event-stream` a live stream: `id` is the
/// sequence number, `event` the type, `data` the event; it goes on after `Last-Event-ID` and ends
/// with `event: end` when the deployment is final and everything was sent. In the list,
/// `next_cursor` is what to give as `after`.
#[utoipa::path(
    get,
    path = "/deployments/{id}/events",
    tag = "events",
    params(("id" = DeploymentId, Path), Query, ("Last-Event-ID" = Option<i64>, Header)),
    responses(
        (status = 200, content(
            (Page<Event> = "application/json"),
            (String = "text/event-stream")
        )),
        Problems
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<DeploymentId>,
    Params(query): Params<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = position("after", query.after.as_deref())?.unwrap_or(0);
    let limit = limit_of(query.limit.as_deref())?;
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/event-stream") {
        let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
        let after =
            position("Last-Event-ID", last.filter(|text| !text.is_empty()))?.unwrap_or(after);
        app.group_of(id).await?;
        return live(app, id, after);
    }
    app.group_of(id).await?;
    let items = app.store.events(id, after, limit).await?;
    let is_full = items.len() == limit as usize;
    let next_cursor = items.last().filter(|_| is_full).map(|event| event.seq.to_string());
    Ok(Answered(Page { items, next_cursor }).into_response())
}

fn position(field: &str, text: Option<&str>) -> Result<Option<i64>, Problem> {
    let allowed = "the seq of an event, a whole number from 0";
    let position: Option<i64> = parsed(field, text, allowed)?;
    match position {
        Some(seq) if seq < 0 => Err(Problem::invalid(field, seq, allowed)),
        position => Ok(position),
    }
}

fn live(app: Arc<App>, id: DeploymentId, after: i64) -> Result<Response, Problem> {
    let permit = app.streams.clone().try_acquire_owned().map_err(|_| {
        let text = format!("{} live streams are open, which is the most", app.settings.max_streams);
        Problem::unavailable("too_many_streams", text).retry_after(5)
    })?;
    // Subscribed before the first read: what is committed in between is seen by one of the two.
    let watch = app.store.watch(id);
    let follower = Follower {
        app,
        id,
        last: after,
        ready: VecDeque::new(),
        watch,
        step: Step::Ask,
        _permit: permit,
    };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    // A proxy that collects what it passes on would hold events back.
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(follower.stream()).keep_alive(keep_alive)).into_response())
}

/// What a follower does when nothing is left to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Asks whether the deployment is final: it just began, or a status has changed.
    Ask,
    /// Waits for the next event.
    Wait,
    /// Nothing: it has ended.
    Ended,
}

/// One reader of a deployment's log.
struct Follower {
    app: Arc<App>,
    id: DeploymentId,
    /// The last event that was sent or is ready to be.
    last: i64,
    ready: VecDeque<Event>,
    watch: watch::Receiver<i64>,
    step: Step,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    /// The next event to send; none: the stream ends, and a reader that comes again goes on where
    /// this one stopped.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(written(&event));
            }
            if self.step == Step::Ended || self.app.stopping.is_cancelled() {
                return None;
            }
            // Marked as seen before the read, so that a later commit wakes the wait below.
            self.watch.mark_unchanged();
            if self.read().await.ok()? {
                continue;
            }
            if self.step == Step::Ask {
                if self.is_over().await.ok()? {
                    self.step = Step::Ended;
                    return Some(sse::Event::default().event("end").data("{}"));
                }
                self.step = Step::Wait;
            }
            self.wait().await;
        }
    }

    /// Reads on; whether anything came.
    async fn read(&mut self) -> Result<bool, ()> {
        let events = self.app.store.events(self.id, self.last, CHUNK).await;
        let events = events.map_err(|error| {
            tracing::warn!(deployment = %self.id, error = chain(&error), "a live stream ends");
        })?;
        let Some(last) = events.last() else { return Ok(false) };
        self.last = last.seq;
        if events.iter().any(|event| event.kind == EventType::DeploymentStatus) {
            self.step = Step::Ask;
        }
        self.ready.extend(events);
        Ok(true)
    }

    /// Whether the deployment is final and all of its log was read.
    async fn is_over(&self) -> Result<bool, ()> {
        let view = self.app.store.deployment_view(self.id).await.map_err(|error| {
            tracing::warn!(deployment = %self.id, error = chain(&error), "a live stream ends");
        })?;
        Ok(view.is_none_or(|view| view.status.is_final() && view.last_seq <= self.last))
    }

    async fn wait(&mut self) {
        tokio::select! {
            changed = self.watch.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(LOOK).await;
                }
            }
            () = tokio::time::sleep(LOOK) => {}
            () = self.app.stopping.cancelled() => {}
        }
    }
}

fn written(event: &Event) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.seq.to_string()).event(event.kind.word()).data(data)
}
