//! Follows a deployment through its live stream: goes on after lost connections, misses nothing.

use std::time::Duration;

use capstan_core::DeploymentId;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::event::{Event, EventType};
use capstan_core::sentence::Names;
use capstan_core::view::{DeploymentView, WaitKind};
use reqwest::Response;
use tokio::time::{Instant, MissedTickBehavior};

use super::context::{Context, note};
use super::error::Error;
use super::screen::Screen;
use super::sse::{Message, Parser};

/// A stream that says nothing for this long is dead: Capstan sends a sign of life every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// The first wait before the stream is opened again; it doubles from try to try.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// After so long without a connection the watch gives up.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(500);
/// How often the state is read when no event came: times and holds can change without one.
const LOOK: Duration = Duration::from_secs(5);
/// Exit code when a person must click.
const CLICK: u8 = 3;

/// How long a deployment is followed.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct WatchArgs {
    /// Follows no longer than until a person must decide; exit code 3 then.
    #[arg(long)]
    pub(crate) until_click: bool,
}

/// With which event a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the first of the deployment.
    WithTheFirst,
    /// With the one after this.
    After(i64),
    /// With what happens from now on.
    Now,
}

/// Follows a deployment; gives the exit code.
pub(crate) async fn run(
    context: &Context,
    id: DeploymentId,
    begin: Begin,
    args: &WatchArgs,
) -> Result<u8, Error> {
    let view: DeploymentView = context.client.read(&["deployments", &id.to_string()]).await?;
    let names = if context.is_text() {
        Names::of(&context.client.targets(id).await?)
    } else {
        Names::default()
    };
    let last = match begin {
        Begin::WithTheFirst => 0,
        Begin::After(seq) => seq,
        Begin::Now => view.last_seq,
    };
    let mut watch = Watch {
        context,
        id,
        last,
        until_click: args.until_click,
        screen: Screen::new(context),
        view,
        names,
        is_news: false,
        looked_at: Instant::now(),
        wait: FIRST_WAIT,
    };
    watch.run().await
}

/// One who follows a deployment.
struct Watch<'a> {
    context: &'a Context,
    id: DeploymentId,
    /// The last event that was shown.
    last: i64,
    until_click: bool,
    screen: Screen,
    view: DeploymentView,
    names: Names,
    /// Something happened since the state was read.
    is_news: bool,
    looked_at: Instant,
    /// Before the stream is opened again.
    wait: Duration,
}

/// What is left to do after a piece of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Ended(u8),
}

impl Watch<'_> {
    async fn run(&mut self) -> Result<u8, Error> {
        self.screen.state(&self.view)?;
        // What was before `last` is not shown, and what ended before has no more to come.
        if let Next::Ended(code) = self.end() {
            return Ok(code);
        }
        let mut alive_at = Instant::now();
        loop {
            let last = self.last;
            match self.follow().await {
                Ok(Next::Ended(code)) => return Ok(code),
                Ok(Next::GoOn) => alive_at = Instant::now(),
                Err(error) if !is_passing(&error) => return Err(error),
                Err(error) if alive_at.elapsed() > PATIENCE => return Err(error),
                Err(error) => {
                    if self.last > last {
                        alive_at = Instant::now();
                    }
                    self.screen.interrupt();
                    let text = error.to_string();
                    let first = text.lines().next().unwrap_or_default();
                    note(&format!("{first}; trying again in {:.1} s", self.wait.as_secs_f32()));
                }
            }
            tokio::time::sleep(self.wait).await;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Reads the stream until it ends or breaks off.
    async fn follow(&mut self) -> Result<Next, Error> {
        let path = ["deployments", &self.id.to_string(), "events"];
        let headers =
            [("accept", "text/event-stream".to_owned()), ("last-event-id", self.last.to_string())];
        let opened = tokio::time::timeout(SILENCE, self.context.client.open(&path, &[], &headers));
        let Ok(opened) = opened.await else { return Ok(Next::GoOn) };
        let mut response = opened?;
        let mut parser = Parser::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        // The state may have changed while there was no stream.
        self.is_news = true;
        loop {
            tokio::select! {
                piece = piece(&mut response, heard_at) => {
                    let Some(piece) = piece.map_err(|error| self.context.client.no_answer(error))?
                    else {
                        return Ok(Next::GoOn);
                    };
                    heard_at = Instant::now();
                    self.wait = FIRST_WAIT;
                    for message in parser.push(&piece) {
                        if let Next::Ended(code) = self.take(&message).await? {
                            return Ok(Next::Ended(code));
                        }
                    }
                    self.wait = parser.retry.unwrap_or(self.wait).min(LONGEST_WAIT);
                }
                _ = tick.tick() => {
                    if self.is_news || self.looked_at.elapsed() > LOOK {
                        self.look().await?;
                        // The stream tells of the end itself, after its last event.
                        if let Next::Ended(code) = self.end() {
                            return Ok(Next::Ended(code));
                        }
                    }
                    self.screen.draw(&self.view)?;
                }
            }
        }
    }

    /// Shows a message of the stream.
    async fn take(&mut self, message: &Message) -> Result<Next, Error> {
        if message.event == "end" {
            self.look().await?;
            self.last = self.last.max(self.view.last_seq);
            return Ok(self.end());
        }
        // A message without a number is none of the log.
        let Ok(seq) = message.id.parse::<i64>() else { return Ok(Next::GoOn) };
        if seq <= self.last {
            return Ok(Next::GoOn);
        }
        if !self.context.is_text() {
            self.screen.raw(&message.data)?;
            self.is_news = true;
        } else if let Ok(event) = serde_json::from_str::<Event>(&message.data) {
            if self.names.lack(&event) {
                self.names = Names::of(&self.context.client.targets(self.id).await?);
            }
            self.screen.event(&event, &self.names)?;
            self.is_news |= self.screen.is_live() || changes_state(event.kind);
        } else {
            // A later Capstan may know more types of events.
            self.screen.raw(&format!("{seq}: {}", message.event))?;
        }
        self.last = seq;
        Ok(Next::GoOn)
    }

    /// Reads the state again.
    async fn look(&mut self) -> Result<(), Error> {
        self.is_news = false;
        self.looked_at = Instant::now();
        self.view = self.context.client.read(&["deployments", &self.id.to_string()]).await?;
        // What is still to be shown comes first: the state is told when its events were.
        if self.last >= self.view.last_seq || self.screen.is_live() {
            self.screen.state(&self.view)?;
        }
        Ok(())
    }

    /// Whether this is the end, once every event up to the state was shown.
    fn end(&mut self) -> Next {
        let code = match self.view.status {
            DeploymentStatus::Success => 0,
            DeploymentStatus::Failure => 1,
            DeploymentStatus::Revoked => 2,
            DeploymentStatus::Pending
            | DeploymentStatus::Smoking
            | DeploymentStatus::SmokeSuccess
            | DeploymentStatus::SmokeFailure
            | DeploymentStatus::Baking
            | DeploymentStatus::BakeSuccess
            | DeploymentStatus::BakeFailure
            | DeploymentStatus::RollingOut
            | DeploymentStatus::RolloutFailure => {
                let mut waits = self.view.waiting_for.iter();
                if !self.until_click || !waits.any(|wait| wait.what == WaitKind::Click) {
                    return Next::GoOn;
                }
                CLICK
            }
        };
        if self.last < self.view.last_seq {
            self.is_news = true;
            return Next::GoOn;
        }
        Next::Ended(code)
    }
}

/// The next piece of a stream; none when it ends, or is silent for too long.
async fn piece(
    response: &mut Response,
    heard_at: Instant,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    match tokio::time::timeout_at(heard_at + SILENCE, response.chunk()).await {
        Ok(piece) => piece.map(|piece| piece.map(|bytes| bytes.to_vec())),
        Err(_) => Ok(None),
    }
}

/// Whether an event can change what a deployment waits for.
fn changes_state(kind: EventType) -> bool {
    matches!(
        kind,
        EventType::DeploymentStatus
            | EventType::HoldSet
            | EventType::HoldCleared
            | EventType::BatchStatus
    )
}

/// Whether another try may help.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::NoAnswer { .. } => true,
        Error::Refused(refusal) => refusal.status >= 500 || refusal.status == 429,
        Error::Usage(_) | Error::Named(_) | Error::Strange(_) | Error::Local { .. } => false,
    }
}
