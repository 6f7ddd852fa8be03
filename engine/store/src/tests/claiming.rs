//! Effects belong to one process at a time.

use std::collections::BTreeSet;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, ServerId, TargetId};
use uuid::Uuid;

use super::apply;
use super::records::{application, at, group_state, store};
use crate::Store;
use crate::apply::EffectKey;
use crate::claims::{Owed, claim, next_due, overdue, pay, release_all_but, release_owner};
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
    let claimed = claim(&txn, owner, at(second), limit).await.expect("claimed");
    commit(txn).await.expect("committed");
    claimed
}

#[tokio::test]
async fn what_is_due_is_claimed_once_and_in_order() {
    let (store, _folder) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 0).await;
    let all = effects(&state);
    put(&store, &mut state, all.iter().copied().map(EffectChange::Put).collect(), &all[..1]).await;

    assert_eq!(next_due(store.reader()).await.expect("read"), Some(at(2)));
    assert_eq!(overdue(store.reader(), at(4)).await.expect("read").effects_due, 3);
    let taken = take(&store, "me", 4, 2).await;
    assert_eq!(taken, [(all[1], 0), (all[2], 0)]);
    assert_eq!(take(&store, "other", 4, 9).await, [(all[3], 0)]);
    assert_eq!(take(&store, "other", 4, 9).await, []);
    assert_eq!(next_due(store.reader()).await.expect("read"), Some(at(5)));
    assert_eq!(take(&store, "me", 9, 9).await, [(all[4], 0), (all[5], 0), (all[6], 0)]);
    assert_eq!(next_due(store.reader()).await.expect("read"), None);
}

#[tokio::test]
async fn a_new_effect_replaces_the_old_one_and_its_claim() {
    let (store, _folder) = store().await;
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
    let (store, _folder) = store().await;
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
