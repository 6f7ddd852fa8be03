//! A world's record, kept in a database as several processes over it would.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::input::Input;
use capstan_core::record::Group;
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId};
use tokio::runtime::{Builder, Runtime};

use super::super::records::{self, application, deployment, group_state, insert, package};
use super::rows::{begin, check_effects, check_events, check_same};
use super::sim::{Keeper, World};
use crate::apply::{EffectKey, statements};
use crate::bulk::Applied;
use crate::cache::{Copy, fill, forget_ended, take_back};
use crate::changed::{note, since};
use crate::hand_out::{due_now, key};
use crate::merged::run;
use crate::part::{Part, Submit, named};
use crate::store::commit;
use crate::{Store, load};

/// How many decisions are written together: one round after the other has so many.
const ROUNDS: [usize; 5] = [1, 1, 2, 1, 4];
/// In so many rounds a fresh start is compared with what is in memory once, and another process refreshes its copy
/// and loses a comparison.
const COMPARED_EVERY: u32 = 4;
/// So many rounds one after the other note which rows they write, or do not: every third time they do not, as by a
/// process that knows of no other.
const STRETCH: u32 = 8;

/// A store for many scenarios, one after the other.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) store: Store,
    /// Another group beside the world's, to which nothing must happen.
    neighbour: GroupState,
    seen: RefCell<Seen>,
    runtime: Runtime,
    _database: capstan_services::Database,
}

/// How often what is tested has occurred.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) rounds: u32,
    /// Rounds of several decisions.
    pub(super) merged: u32,
    pub(super) crashes: u32,
    /// Refreshes that knew which rows had changed.
    pub(super) noted: u32,
    /// Refreshes that looked at every row.
    pub(super) not_noted: u32,
    /// Lost comparisons after which the copy was brought up to date.
    pub(super) taken_back: u32,
    /// Lost comparisons after which it had to be read anew.
    pub(super) read_anew: u32,
}

impl Place {
    pub(super) fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime begins");
        let (store, database, neighbour) = runtime.block_on(async {
            let (store, database) = records::store().await;
            let shop = application(&store, "shop").await;
            let package = package(&store, &shop, "1.0").await;
            let mut neighbour = group_state(&store, &shop, 3).await;
            let running = deployment(&neighbour, &package);
            let changes = insert(&mut neighbour, running);
            records::write(&store, &mut neighbour, &changes).await;
            (store, database, neighbour)
        });
        Self { store, neighbour, seen: RefCell::default(), runtime, _database: database }
    }

    pub(super) fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// A group as a fresh start reads it, with the deployments that are named.
    async fn fresh(
        &self,
        group: GroupId,
        named: impl IntoIterator<Item = DeploymentId>,
    ) -> GroupState {
        let mut copy = Copy::None;
        let is_there = fill(&mut copy, &self.store.inner, group, named).await;
        assert!(is_there.expect("the group is read"), "the group is there");
        copy.expect("the copy is filled")
    }
}

/// Keeps one world.
#[derive(Debug)]
pub(super) struct Kept {
    place: Rc<Place>,
    group: GroupId,
    /// The group's version in the database.
    version: i64,
    /// What is decided and not written.
    pending: Changes,
    pending_count: usize,
    round: u32,
    /// Effects that were written as claimed.
    claimed: BTreeSet<EffectKey>,
    /// The copy of another process, which is behind.
    older: Copy,
}

impl Kept {
    pub(super) fn new(place: Rc<Place>) -> Self {
        Self {
            group: place.neighbour.id(),
            place,
            version: 0,
            pending: Changes::default(),
            pending_count: 0,
            round: 0,
            claimed: BTreeSet::new(),
            older: None,
        }
    }

    /// What the database must hold when everything is written.
    fn wanted(&self, world: &World) -> GroupState {
        let mut wanted = world.state.clone();
        wanted.group.version = self.version;
        wanted
    }

    /// Writes what is decided in one transaction, as a round does.
    async fn write(&mut self, world: &World) {
        let inner = &self.place.store.inner;
        let changes = std::mem::take(&mut self.pending);
        let claimed = due_now(&changes, world.now, self.round as usize % 3);
        let claimed: BTreeSet<EffectKey> = claimed.iter().map(key).collect();
        let (backend, me) = (inner.backend(), inner.member.id());
        let state = &world.state;
        let mut steps = statements(backend, state, &changes, self.version, me, &claimed)
            .expect("statements are made");
        if self.round / STRETCH % 3 != 1 {
            steps.extend(note(backend, state, &changes, self.version + 1));
        }
        let txn = inner.begin_round().await.expect("a transaction begins");
        assert_eq!(run(&txn, steps).await.expect("a round is written"), Applied::Done);
        commit(txn).await.expect("a transaction commits");

        for (key, change) in &changes.effects {
            let is_ours = matches!(change, EffectChange::Put(_)) && claimed.contains(key);
            if is_ours {
                self.claimed.insert(*key)
            } else {
                self.claimed.remove(key)
            };
        }
        let mut seen = self.place.seen.borrow_mut();
        seen.rounds += 1;
        seen.merged += u32::from(self.pending_count > 1);
        self.version += 1;
        self.round += 1;
        self.pending_count = 0;
    }

    /// A fresh start finds what is in memory, and so do effects. Gives all of it.
    async fn compare(&self, world: &World) -> GroupState {
        let (place, mut wanted) = (&self.place, self.wanted(world));
        let all: Vec<_> = wanted.deployments().map(|row| row.deployment.id).collect();
        let found = place.fresh(self.group, all).await;
        check_same(&found, &wanted);
        forget_ended(&mut wanted);
        check_same(&place.fresh(self.group, []).await, &wanted);
        check_effects(place, world, &self.claimed).await;
        found
    }

    /// Another process brings its copy up to date before it decides.
    async fn refresh(&mut self, world: &World) {
        let mut state = match self.older.take() {
            Some(state) => state,
            None => self.place.fresh(self.group, []).await,
        };
        let conn = self.place.store.inner.snapshot().await.expect("it is begun to read");
        let known = state.group.version;
        let changed = since(&conn, self.group, known, self.version).await.expect("it is read");
        load::refresh(&conn, &mut state, known).await.expect("the copy is refreshed");
        drop(conn);
        forget_ended(&mut state);
        let mut wanted = self.wanted(world);
        forget_ended(&mut wanted);
        check_same(&state, &wanted);
        self.older = Some(state);
        let mut seen = self.place.seen.borrow_mut();
        if changed.is_some() { seen.noted += 1 } else { seen.not_noted += 1 }
    }

    /// Another process decides on a copy that is behind: it loses, nothing is written, and the copy is brought up to
    /// date. It refreshes where that cannot be: when what it needs is not in the copy, or nothing follows.
    async fn lose(&mut self, world: &World, input: &Input) {
        let lacks = |id| self.older.as_ref().is_none_or(|state| state.deployment(id).is_none());
        let is_current =
            self.older.as_ref().is_none_or(|state| state.group.version == self.version);
        if is_current || named(input).is_some_and(lacks) {
            return self.refresh(world).await;
        }
        let input = Box::new(self.other_input().unwrap_or_else(|| input.clone()));
        let submit = Submit { group: self.group, input, asked: None, reply: None };
        // The world counts a version for each decision and the database for each round: at the same instant a deployment
        // of the world's could have the id that this process derives for one of its own.
        let later = world.now + Duration::from_millis(1);
        let Ok(part) = Part::decide(&mut self.older, vec![submit], later) else {
            panic!("a decision on a copy that is behind panicked");
        };
        if part.changes.is_empty() {
            return self.refresh(world).await;
        }
        let inner = &self.place.store.inner;
        let state = self.older.as_ref().expect("it was decided on");
        let steps = part.statements(inner.backend(), state, inner.member.id(), &BTreeSet::new());
        let txn = inner.begin_round().await.expect("a transaction begins");
        let applied = run(&txn, steps.expect("statements are made")).await;
        assert_eq!(applied.expect("it is answered"), Applied::Lost);
        txn.rollback().await.expect("a transaction is given up");
        take_back(&mut self.older, inner, std::iter::once(&part)).await;
        let is_taken_back = self.older.is_some();
        {
            let mut seen = self.place.seen.borrow_mut();
            if is_taken_back { seen.taken_back += 1 } else { seen.read_anew += 1 }
        }
        if let Some(state) = &self.older {
            let mut wanted = self.wanted(world);
            forget_ended(&mut wanted);
            check_same(state, &wanted);
        } else {
            self.older = Some(self.place.fresh(self.group, []).await);
        }
    }

    /// What another process decides in place of the same: every other time something else, so that it spoils other
    /// rows of its copy than those that were written meanwhile.
    fn other_input(&self) -> Option<Input> {
        let servers = self.older.as_ref().map(GroupState::servers)?;
        let place = (self.round as usize).checked_rem(servers.len())?;
        let is_turn = (self.round / COMPARED_EVERY).is_multiple_of(2);
        let server = servers[place].id;
        let (actor, reason) = ("eve".to_owned(), "a fan".to_owned());
        is_turn.then_some(Input::PullOut { server, actor, reason })
    }

    /// Writes what is left, and compares all that is kept. Gives the group as a fresh start reads it.
    async fn all(&mut self, world: &World) -> GroupState {
        if self.pending_count > 0 {
            self.write(world).await;
        }
        check_events(&self.place, world).await;
        self.compare(world).await
    }
}

impl Keeper for Kept {
    fn begin(&mut self, group: &Group) {
        (self.group, self.version) = (group.id, group.version);
        let place = Rc::clone(&self.place);
        place.runtime.block_on(begin(&place.store, group));
    }

    fn decided(&mut self, world: &World, input: &Input, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        self.pending.merge(changes.clone());
        self.pending_count += 1;
        if self.pending_count < ROUNDS[self.round as usize % ROUNDS.len()] {
            return;
        }
        let place = Rc::clone(&self.place);
        place.runtime.block_on(async {
            self.write(world).await;
            match self.round % COMPARED_EVERY {
                0 => drop(self.compare(world).await),
                1 => self.refresh(world).await,
                3 => self.lose(world, input).await,
                _ => {}
            }
        });
    }

    fn read(&mut self, world: &World) -> GroupState {
        let place = Rc::clone(&self.place);
        let mut state = place.runtime.block_on(self.all(world));
        place.seen.borrow_mut().crashes += 1;
        // The world counts a version for each decision.
        state.group.version = world.state.group.version;
        state
    }

    fn end(&mut self, world: &World) {
        let place = Rc::clone(&self.place);
        place.runtime.block_on(async {
            self.all(world).await;
            let neighbour = &place.neighbour;
            let ids = neighbour.deployments().map(|row| row.deployment.id);
            check_same(&place.fresh(neighbour.id(), ids).await, neighbour);
        });
    }
}
