//! S1 and S12 from the log alone: who is out is counted from the events, and the counts that they tell
//! are compared with that.

use std::collections::BTreeSet;

use crate::ServerId;
use crate::dependency::Traffic;
use crate::event::{Event, EventType, StartingPoint};
use crate::record::{OutBecause, Service};
use crate::slots::{Census, Slots};
use crate::target_status::TargetStatus;

/// How a group stands while a deployment holds it, as far as its log has said.
#[derive(Debug)]
pub(super) struct Standing {
    /// Members when the plan was made.
    planned: u32,
    start: StartingPoint,
    members: u32,
    out: BTreeSet<ServerId>,
    unknown: BTreeSet<ServerId>,
    new: BTreeSet<ServerId>,
    pulled_out: BTreeSet<ServerId>,
    /// Servers that are out because a target took them.
    ours: BTreeSet<ServerId>,
    /// Servers that were taken out of service without a call: they carry no mark of ours.
    never_drained: BTreeSet<ServerId>,
    /// Markdown and Markup are bypassed.
    bypassed: bool,
    /// Servers that are no members any more.
    gone: BTreeSet<ServerId>,
}

/// How one server stood before an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    InService,
    Out,
    Unknown,
    New,
}

impl Standing {
    pub(super) fn new(planned: u32, start: &StartingPoint) -> Self {
        let set = |servers: &Vec<ServerId>| servers.iter().copied().collect();
        Self {
            planned,
            members: start.members,
            out: set(&start.out),
            unknown: set(&start.unknown),
            new: set(&start.new),
            pulled_out: set(&start.pulled_out),
            ours: set(&start.ours),
            never_drained: set(&start.never_drained),
            bypassed: start.bypassed,
            gone: BTreeSet::new(),
            start: start.clone(),
        }
    }

    /// Follows an event. Gives the rules that it breaks, and how.
    pub(super) fn read(&mut self, event: &Event) -> Vec<(&'static str, String)> {
        let before = event.server.map(|server| (server, self.was(server)));
        let was_ours = event.server.is_some_and(|server| self.ours.contains(&server));
        let was_drained = event.server.is_none_or(|server| !self.never_drained.contains(&server));
        if let Some((server, _)) = before {
            self.follow(event, server);
        }
        if event.data.dependency.is_some() {
            self.bypassed = event.data.bypassed.unwrap_or(self.bypassed);
        }
        let slots = self.slots();
        let mut wrong = told(event, slots);
        let is_taken = event.kind == EventType::TargetStatus
            && event.data.to.as_deref() == Some(TargetStatus::MarkdownRunning.word());
        if let Some((_, was)) = before.filter(|_| is_taken) {
            wrong.extend(taken(event, was, slots));
        }
        let mut wrong: Vec<_> = wrong.into_iter().map(|message| ("S1", message)).collect();
        let room = slots.most_ours.is_none_or(|most| was_ours || slots.ours <= most);
        if is_taken && !room {
            let Slots { ours, most_ours, .. } = slots;
            wrong.push((
                "S12",
                format!("a server is taken: {ours} are out by us, of {most_ours:?}"),
            ));
        }
        let was = before.map(|(_, was)| was);
        wrong.extend(self.bypass(event, was, was_drained).map(|message| ("S12", message)));
        wrong
    }

    /// While the load balancer is cut off it is asked for nothing, else nothing is bypassed; what was
    /// bypassed brings only those into service that it had taken out of it; and nobody is told as such
    /// who was not.
    fn bypass(&self, event: &Event, was: Option<Was>, was_drained: bool) -> Option<String> {
        let to = event.data.to.as_deref().and_then(TargetStatus::from_word)?;
        let starts = matches!(to, TargetStatus::MarkdownRunning | TargetStatus::MarkupRunning);
        let told = event.data.bypassed == Some(true);
        let is_status = event.kind == EventType::TargetStatus;
        let is_try = event.kind == EventType::TargetTry;
        if starts && (is_status && told != self.bypassed || is_try && self.bypassed) {
            return Some(format!("{to}, told as bypassed: {told}, is: {}", self.bypassed));
        }
        let serves = event.data.service == Some(Service::In) && was != Some(Was::InService);
        if told && serves && is_status && (was_drained || to == TargetStatus::MarkdownSuccess) {
            return Some(format!("{to} was bypassed and brings a server into service"));
        }
        let is_bypassed = event.data.out_because == Some(OutBecause::Bypassed)
            && event.server.is_some_and(|server| !self.gone.contains(&server));
        (is_bypassed && was_drained && !(told && was == Some(Was::InService)))
            .then(|| format!("{to}: the server is told as never drained, and was {was:?}"))
    }

    fn was(&self, server: ServerId) -> Was {
        match server {
            _ if self.out.contains(&server) => Was::Out,
            _ if self.unknown.contains(&server) => Was::Unknown,
            _ if self.new.contains(&server) => Was::New,
            _ => Was::InService,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only these change who is a member")]
    fn follow(&mut self, event: &Event, server: ServerId) {
        for set in [
            &mut self.out,
            &mut self.unknown,
            &mut self.new,
            &mut self.ours,
            &mut self.never_drained,
        ] {
            set.remove(&server);
        }
        match event.kind {
            EventType::ServerLeft => {
                self.members = self.members.saturating_sub(1);
                self.gone.insert(server);
            }
            EventType::ServerAppeared => {
                self.members += 1;
                self.gone.remove(&server);
            }
            EventType::ServerPulledOut => {
                self.pulled_out.insert(server);
            }
            EventType::ServerPutBack => {
                self.pulled_out.remove(&server);
            }
            _ => {}
        }
        if self.gone.contains(&server) {
            return;
        }
        let set = match (event.data.service, event.data.out_because) {
            (Some(Service::Unknown), _) => &mut self.unknown,
            (Some(Service::Out), Some(OutBecause::New)) => &mut self.new,
            (Some(Service::Out), because) => {
                if because.is_some_and(OutBecause::is_ours) {
                    self.ours.insert(server);
                }
                if because == Some(OutBecause::Bypassed) {
                    self.never_drained.insert(server);
                }
                &mut self.out
            }
            (Some(Service::In) | None, _) => return,
        };
        set.insert(server);
    }

    /// The bounds of S1 as they follow from the log.
    fn slots(&self) -> Slots {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (out, unknown) = (count(self.out.len()), count(self.unknown.len()));
        let census = Census {
            members: self.members,
            out: out + unknown,
            in_service: self.members.saturating_sub(out + unknown + count(self.new.len())),
            pulled_out: count(self.pulled_out.intersection(&self.out).count()),
            unknown,
            ours: count(self.ours.len()),
        };
        let StartingPoint { max_unavailable, may_go_dark, .. } = self.start;
        let traffic = if self.bypassed { Traffic::Bypassed } else { Traffic::Asked };
        Slots::new(self.planned, census, max_unavailable, may_go_dark).under(traffic)
    }
}

/// The figures that an event tells are those that follow from the log.
fn told(event: &Event, slots: Slots) -> Vec<String> {
    let data = &event.data;
    let figures = [
        ("out", data.out_count, slots.out),
        ("L", data.limit, slots.l),
        ("total", data.total, slots.total),
    ];
    let wrong =
        figures.into_iter().filter(|(_, told, counted)| told.is_some_and(|told| told != *counted));
    wrong
        .map(|(name, told, counted)| {
            format!("{name} is told as {} and is {counted}", told.unwrap_or_default())
        })
        .collect()
}

/// A server in service, or one that may be, is taken only within the limit.
fn taken(event: &Event, was: Was, slots: Slots) -> Vec<String> {
    let mut wrong = Vec::new();
    if event.data.already_out != Some(was != Was::InService) {
        let told = event.data.already_out;
        wrong.push(format!("a server is taken, told as already out: {told:?}, and was {was:?}"));
    }
    let known = slots.out - slots.unknown;
    let over = match was {
        Was::InService => slots.out > slots.l,
        Was::Unknown => known > slots.l,
        Was::Out | Was::New => false,
    };
    if over {
        let Slots { out, l, .. } = slots;
        wrong.push(format!("a server is taken: {out} are out, the limit is {l}"));
    }
    if was == Was::InService && slots.in_service == 0 && !slots.may_take_last {
        wrong.push("the last server in service is taken".to_owned());
    }
    wrong
}
