//! Effects belong to one process at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, ServerId, TargetId, Timestamp};
use capstan_services::Database;
use uuid::Uuid;

use super::apply;
use super::records::{application, at, group_state, settings, store};
use crate::Store;
use crate::apply::EffectKey;
use crate::claims::{
    Owed, claim, next_due, overdue, pay, release_all_but, release_owner, wait_for_claims,
};
use crate::processes::Member;
use crate::store::commit;

fn key(effect: &Effect) -> EffectKey {
    (effect.kind.number(), effect.kind.subject())
}

fn effects(state: &GroupState) -> Vec<Effect> {
    let deployment = DeploymentId(Uuid::now_v7());
    let kinds = [
        EffectKind::RunStage(deployment, TargetId(Uuid::now_v7())),
        EffectKind::RunStage(deployment, TargetId(Uuid::now_v7())),
        EffectKind::WakeDeployment(deployment),
        EffectKind::ObserveServers(deployment),
        EffectKind::DrainServer(ServerId(Uuid::now_v7())),
        EffectKind::ReturnServer(ServerId(Uuid::now_v7())),
        EffectKind::AdmitServer(ServerId(Uuid::now_v7())),
    ];
    kinds
        .into_iter()
        .zip(1..)
        .map(|(kind, second)| Effect { kind, group: state.id(), due_at: at(second) })
        .collect()
}

async fn put(store: &Store, state: &mut GroupState, changes: Vec<EffectChange>, mine: &[Effect]) {
    let mut all = Changes::default();
    for change in changes {
        let kind = match change {
            EffectChange::Put(effect) => effect.kind,
            EffectChange::Delete(kind) => kind,
        };
        all.effects.insert((kind.number(), kind.subject()), change);
    }
    let mine: BTreeSet<EffectKey> = mine.iter().map(key).collect();
    let txn = store.begin().await.expect("a transaction begins");
    apply(&txn, state, &all, state.group.version, "me", &mine).await.expect("applied");
    commit(txn).await.expect("committed");
    state.group.version += 1;
}

async fn take(store: &Store, owner: &str, second: i64, limit: u64) -> Vec<(Effect, i32)> {
    let txn = store.begin().await.expect("a transaction begins");
    let owner = Member::alone(owner.to_owned());
    let claimed = claim(&txn, &owner, at(second), limit).await.expect("claimed");
    commit(txn).await.expect("committed");
    claimed
}

async fn next(store: &Store) -> Option<Timestamp> {
    let me = Member::alone("me".to_owned());
    next_due(store.reader(), &me, at(0)).await.expect("read")
}

#[tokio::test]
async fn what_is_due_is_claimed_once_and_in_order() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 0).await;
    let all = effects(&state);
    put(&store, &mut state, all.iter().copied().map(EffectChange::Put).collect(), &all[..1]).await;

    assert_eq!(next(&store).await, Some(at(2)));
    assert_eq!(overdue(store.reader(), at(4)).await.expect("read").effects_due, 3);
    let taken = take(&store, "me", 4, 2).await;
    assert_eq!(taken, [(all[1], 0), (all[2], 0)]);
    assert_eq!(take(&store, "other", 4, 9).await, [(all[3], 0)]);
    assert_eq!(take(&store, "other", 4, 9).await, []);
    assert_eq!(next(&store).await, Some(at(5)));
    assert_eq!(take(&store, "me", 9, 9).await, [(all[4], 0), (all[5], 0), (all[6], 0)]);
    assert_eq!(next(&store).await, None);
}

#[tokio::test]
async fn a_new_effect_replaces_the_old_one_and_its_claim() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 0).await;
    let all = effects(&state);
    put(&store, &mut state, all.iter().copied().map(EffectChange::Put).collect(), &[]).await;
    assert_eq!(take(&store, "me", 9, 9).await.len(), all.len());

    let later = Effect { due_at: at(7), ..all[0] };
    let changes = vec![
        EffectChange::Put(later),
        EffectChange::Delete(all[1].kind),
        EffectChange::Delete(all[2].kind),
        EffectChange::Delete(EffectKind::DrainServer(ServerId(Uuid::now_v7()))),
    ];
    put(&store, &mut state, changes, &[]).await;
    assert_eq!(take(&store, "other", 6, 9).await, []);
    assert_eq!(take(&store, "other", 7, 9).await, [(later, 0)]);
}

#[tokio::test]
async fn what_was_started_is_known_to_the_next_and_what_was_not_is_as_new() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 0).await;
    let all = effects(&state);
    put(&store, &mut state, all.iter().copied().map(EffectChange::Put).collect(), &all[..1]).await;
    assert_eq!(take(&store, "me", 9, 1).await, [(all[1], 0)]);
    assert_eq!(take(&store, "other", 9, 9).await.len(), 5);

    // `me` had begun one and not the other; what is not `me`'s is passed over.
    let given = [all[1], all[2]];
    pay(store.writer(), "me", &given, Owed::Release).await.expect("released");
    assert_eq!(take(&store, "me", 9, 9).await, [(all[1], 0)]);
    // An effect that was put in place of another is not what was claimed before.
    let older = Effect { due_at: at(8), ..all[1] };
    for owed in [Owed::Release, Owed::Free, Owed::Delete] {
        pay(store.writer(), "me", &[older], owed).await.expect("passed over");
    }
    assert_eq!(take(&store, "me", 9, 9).await, []);
    assert_eq!(release_all_but(store.writer(), "me").await.expect("released"), 5);
    assert_eq!(release_owner(store.writer(), "me").await.expect("released"), 2);
    let taken = take(&store, "third", 9, 9).await;
    assert_eq!(taken.len(), all.len());
    assert!(taken.iter().all(|(_, before)| *before == 1), "{taken:?}");
}

/// Two processes that both work on one group would lose comparisons to each other all the time.
#[tokio::test]
async fn a_group_stays_with_the_process_that_works_on_it_unless_work_lies_too_long() {
    let database = Database::shared();
    let store = Store::open(&settings(&database)).await.expect("the store opens");
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 0).await;
    let all = effects(&state);
    put(&store, &mut state, all.iter().copied().map(EffectChange::Put).collect(), &[]).await;
    let mut other = group_state(&store, &shop, 0).await;
    let others = effects(&other)[..1].to_vec();
    put(&store, &mut other, others.iter().copied().map(EffectChange::Put).collect(), &[]).await;

    let length = Duration::from_mins(1);
    let me = Member::among_others("me".to_owned(), length);
    let you = Member::among_others("you".to_owned(), length);
    let take = async |member: &Member, second: i64, limit: u64| {
        let txn = store.begin().await.expect("a transaction begins");
        let claimed = claim(&txn, member, at(second), limit).await.expect("claimed");
        commit(txn).await.expect("committed");
        claimed.into_iter().map(|(effect, _)| effect).collect::<Vec<_>>()
    };
    let due = async |member: &Member, second: i64| {
        next_due(store.reader(), member, at(second)).await.expect("read")
    };
    let mine = take(&me, 2, 1).await;
    assert_eq!(mine.len(), 1);
    let (first, second) =
        if mine[0].group == state.id() { (&all, &others) } else { (&others, &all) };
    // The rest of that group is mine, the other group is free.
    let yours = take(&you, 2, 9).await;
    assert!(yours.iter().all(|effect| second.contains(effect)), "{yours:?}");
    assert!(!yours.is_empty());
    for (member, group) in [(&me, first), (&you, second)] {
        let left = group.iter().filter(|it| !mine.contains(it) && !yours.contains(it));
        assert_eq!(due(member, 2).await, left.map(|it| it.due_at).min());
    }
    // What has been due for more than five seconds is anybody's.
    let late = take(&you, 9, 9).await;
    assert!(late.iter().any(|effect| effect.group == state.id()), "{late:?}");
}

/// A commit whose answer is given up on may be done all the same, later. What is owed to its claims is not
/// paid before that, when they cannot be seen.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_to_a_claim_waits_for_its_commit() {
    let (store, database) = store().await;
    if database.kind() == "sqlite" {
        return; // One writer: nothing is paid while anything else is written.
    }
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 0).await;
    let all = effects(&state);
    put(&store, &mut state, all.iter().copied().map(EffectChange::Put).collect(), &[]).await;
    // Other tests use other databases of the same server, whose locks by name are the server's.
    let me = Member::alone(Uuid::now_v7().to_string());
    let txn = store.begin().await.expect("a transaction begins");
    wait_for_claims(&txn, me.id()).await.expect("nobody else claims");
    assert_eq!(claim(&txn, &me, at(9), 99).await.expect("claimed").len(), all.len());
    let payment = {
        let (store, all, owner) = (store.clone(), all.clone(), me.id().to_owned());
        tokio::spawn(async move {
            let txn = store.begin().await.expect("a transaction begins");
            pay(&txn, &owner, &all, Owed::Release).await.expect("paid");
            commit(txn).await.expect("committed");
        })
    };
    // Time enough to be paid, if it did not wait.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!payment.is_finished(), "it does not wait for the claims");
    commit(txn).await.expect("committed");
    payment.await.expect("it ends");
    assert_eq!(take(&store, "other", 9, 99).await.len(), all.len(), "all of it is free");
}
