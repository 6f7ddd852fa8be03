//! What every load balancer must do.

use capstan_core::ServerId;
use capstan_core::ports::{Endpoint, LoadBalancer, Seen, Sight};
use uuid::Uuid;

pub(crate) fn endpoint(health_url: &str) -> Endpoint {
    Endpoint {
        server: ServerId(Uuid::now_v7()),
        hostname: "web-1".to_owned(),
        instance: String::new(),
        ip_address: "127.0.0.1".to_owned(),
        port: 8080,
        root: "/srv/web".to_owned(),
        idc: "sh".to_owned(),
        health_url: health_url.to_owned(),
    }
}

/// Runs the whole suite; `servers` are at least three that serve.
pub(crate) async fn suite(balancer: &dyn LoadBalancer, servers: &[Endpoint]) {
    answers_for_each_in_order(balancer, servers).await;
    if balancer.can_drain() {
        drains_and_admits(balancer, servers).await;
    } else {
        takes_nothing_away(balancer, servers).await;
    }
    for server in servers {
        assert_eq!(sight(balancer, server).await, Sight::Serving);
    }
}

pub(crate) async fn observe(balancer: &dyn LoadBalancer, servers: &[Endpoint]) -> Vec<Seen> {
    balancer.observe(servers).await.expect("observe answers")
}

pub(crate) async fn sight(balancer: &dyn LoadBalancer, server: &Endpoint) -> Sight {
    observe(balancer, std::slice::from_ref(server)).await[0].sight
}

async fn answers_for_each_in_order(balancer: &dyn LoadBalancer, servers: &[Endpoint]) {
    assert_eq!(observe(balancer, &[]).await, []);
    let backwards: Vec<_> = servers.iter().rev().cloned().collect();
    let seen: Vec<_> =
        observe(balancer, &backwards).await.into_iter().map(|seen| seen.server).collect();
    let expected: Vec<_> = backwards.iter().map(|server| server.server).collect();
    assert_eq!(seen, expected);
}

async fn drains_and_admits(balancer: &dyn LoadBalancer, servers: &[Endpoint]) {
    let (server, neighbour) = (&servers[0], &servers[1]);
    for _ in 0..2 {
        balancer.drain(server).await.expect("drain answers");
        assert_eq!(sight(balancer, server).await, Sight::Drained);
        assert_eq!(sight(balancer, neighbour).await, Sight::Serving);
    }
    for _ in 0..2 {
        balancer.admit(server).await.expect("admit answers");
        assert_eq!(sight(balancer, server).await, Sight::Serving);
    }
}

async fn takes_nothing_away(balancer: &dyn LoadBalancer, servers: &[Endpoint]) {
    balancer.drain(&servers[0]).await.expect("drain answers");
    assert_eq!(sight(balancer, &servers[0]).await, Sight::Serving);
    balancer.admit(&servers[0]).await.expect("admit answers");
}
