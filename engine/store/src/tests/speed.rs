use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use capstan_core::changes::*;
use capstan_core::effect::*;
use super::records::*;
use crate::apply::apply;
use crate::store::commit;
#[tokio::test(flavor = "multi_thread")]
async fn speed() {
    let (store, _folder) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 2000).await;
    let new = deployment(&state, &package);
    let id = new.id;
    let mut changes = insert(&mut state, new);
    write(&store, &mut state, &changes).await;
    let rounds = 400_usize;
    let mut seq = 0;
    let t = Instant::now();
    let mut in_apply = 0.0;
    for r in 0..rounds {
        let lo = (r * 64) % 1900;
        let targets: BTreeSet<usize> = (lo..lo + 64).collect();
        let rows: Vec<_> = targets.iter().map(|p| state.deployment(id).unwrap().targets()[*p].clone()).collect();
        changes = Changes {
            servers: rows.iter().map(|t| t.server).collect(),
            deployments: BTreeMap::from([(id, DeploymentChanges { created: false, batches: BTreeSet::new(), targets })]),
            ..Changes::default()
        };
        for row in &rows {
            for _ in 0..2 { seq += 1; changes.events.push(event(&state, Some(id), seq)); }
            let effect = Effect { kind: EffectKind::RunStage(id, row.id), group: state.id(), due_at: at(r as i64) };
            changes.effects.insert((1, row.id.0), EffectChange::Put(effect));
        }
        let keys = changes.effects.keys().copied().collect();
        let txn = store.begin().await.unwrap();
        let a = Instant::now();
        apply(&txn, &state, &changes, state.group.version, Some("me"), &keys).await.unwrap();
        in_apply += a.elapsed().as_secs_f64();
        commit(txn).await.unwrap();
        state.group.version += 1;
    }
    let s = t.elapsed().as_secs_f64();
    println!("{:.0} outcomes/s, {:.2} ms per txn, apply {:.2} ms", (rounds * 64) as f64 / s, s * 1000.0 / rounds as f64, in_apply * 1000.0 / rounds as f64);
}
