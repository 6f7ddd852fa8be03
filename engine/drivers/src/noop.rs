//! Drivers that do nothing and say yes at once, for benchmarks of everything else.

use std::future::ready;

use capstan_core::OrderKey;
use capstan_core::ports::{
    Call, Endpoint, Executor, LoadBalancer, Look, Order, OrderState, Report, Script, Seen, Sight,
};

/// A load balancer that cannot drain and sees every server serving.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopLoadBalancer;

impl LoadBalancer for NoopLoadBalancer {
    fn can_drain(&self) -> bool {
        false
    }

    fn sees_all_at_once(&self) -> bool {
        true
    }

    fn drain<'a>(&'a self, _server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn admit<'a>(&'a self, _server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        let seen = servers
            .iter()
            .map(|server| Seen { server: server.server, sight: Sight::Serving, in_flight: Some(0) })
            .collect();
        Box::pin(ready(Ok(seen)))
    }
}

/// An executor whose orders end at once with success. It remembers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopExecutor;

impl Executor for NoopExecutor {
    fn start<'a>(&'a self, _server: &'a Endpoint, _order: &'a Order) -> Call<'a, OrderState> {
        Box::pin(ready(Ok(OrderState::Ended(0))))
    }

    fn look<'a>(&'a self, _server: &'a Endpoint, _key: OrderKey, _offset: u64) -> Call<'a, Look> {
        Box::pin(ready(Ok(Look { state: OrderState::Ended(0), output: Vec::new() })))
    }

    fn cancel<'a>(
        &'a self,
        _server: &'a Endpoint,
        _key: OrderKey,
        _fence: i64,
    ) -> Call<'a, OrderState> {
        Box::pin(ready(Ok(OrderState::Ended(0))))
    }

    fn report<'a>(
        &'a self,
        _server: &'a Endpoint,
        _script: &'a Script,
    ) -> Call<'a, Option<Report>> {
        Box::pin(ready(Ok(None)))
    }
}
