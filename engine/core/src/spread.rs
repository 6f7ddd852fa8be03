//! The order of servers in a plan: shuffled by a seed, pools spread as far apart as can be.
//!
//! 1. Each server gets the number `sha256(seed ‖ 0 ‖ server id)`. A server's number depends on no
//!    other server, so a host more or less moves no other in the shuffle.
//! 2. Servers of one IDC and pool stand in the order of their numbers. With `k` servers in the pool,
//!    the one of rank `r` (from 0) gets the position `(2r + 1) / 2k`, the middle of its part of the
//!    unit interval; so the pool's servers lie at equal distances over the whole plan.
//! 3. All are sorted by position; equal positions by number, then by id.
//!
//! Positions are compared as fractions with integers, so the order is the same on every machine.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::ServerId;
use crate::record::Server;

/// A server's place in the shuffle; see the module's text.
pub fn number(seed: &str, server: ServerId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.as_bytes());
    hash.update([0]);
    hash.update(server.0.as_bytes());
    hash.finalize().into()
}

/// The servers of one IDC and pool, each with its number.
type Pool<'a> = Vec<([u8; 32], &'a Server)>;

/// Sorts servers as the module's text says.
pub fn spread<'a>(seed: &str, servers: impl IntoIterator<Item = &'a Server>) -> Vec<&'a Server> {
    let mut pools: BTreeMap<(&str, &str), Pool<'_>> = BTreeMap::new();
    for server in servers {
        pools
            .entry((&server.idc, &server.pool))
            .or_default()
            .push((number(seed, server.id), server));
    }
    let mut placed = Vec::new();
    for pool in pools.values_mut() {
        pool.sort_by_key(|(number, server)| (*number, server.id));
        let size = pool.len() as u128;
        for (rank, (number, server)) in pool.iter().enumerate() {
            placed.push(((2 * rank as u128 + 1, 2 * size), *number, *server));
        }
    }
    placed.sort_by(|(left, left_number, left_server), (right, right_number, right_server)| {
        (left.0 * right.1)
            .cmp(&(right.0 * left.1))
            .then(left_number.cmp(right_number))
            .then(left_server.id.cmp(&right_server.id))
    });
    placed.into_iter().map(|(_, _, server)| server).collect()
}
