//! The use cases by name: labels of the metric `store_operation_seconds`.

use std::future::Future;
use std::time::{Duration, Instant};

use metrics::histogram;

use crate::Error;

macro_rules! operations {
    ($($name:ident => $word:literal)+) => {
        /// A use case of the store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Operation { $($name,)+ }

        impl Operation {
            fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

operations! {
    Check              => "check"
    ApplicationPut     => "application_put"
    Applications       => "applications"
    Application        => "application"
    Groups             => "groups"
    Group              => "group"
    GroupIdByExternal  => "group_id_by_external"
    Servers            => "servers"
    Server             => "server"
    Versions           => "versions"
    Endpoints          => "endpoints"
    History            => "history"
    PackageRegister    => "package_register"
    Package            => "package"
    Packages           => "packages"
    PackageMark        => "package_mark"
    Dependencies       => "dependencies"
    DependenciesNote   => "dependencies_note"
    DependencySwitch   => "dependency_switch"
    DependenciesCutOff => "dependencies_cut_off"
    DependenciesExpire => "dependencies_expire"
    DependenciesImpaired => "dependencies_impaired"
    Deployments        => "deployments"
    DeploymentGroup    => "deployment_group"
    Targets            => "targets"
    Target             => "target"
    TargetLog          => "target_log"
    Events             => "events"
    Audit              => "audit"
    Audits             => "audits"
    ScriptsPut         => "scripts_put"
    Script             => "script"
    TokenCreate        => "token_create"
    TokenFind          => "token_find"
    TokensExist        => "tokens_exist"
    SessionCreate      => "session_create"
    SessionFind        => "session_find"
    SessionDelete      => "session_delete"
    LoginLinkCreate    => "login_link_create"
    LoginLinkTake      => "login_link_take"
    IdempotencyBegin   => "idempotency_begin"
    IdempotencyFinish  => "idempotency_finish"
    IdempotencyForget  => "idempotency_forget"
    RefreshWish        => "refresh_wish"
    RefreshBegin       => "refresh_begin"
    RefreshEnd         => "refresh_end"
    OutputAppend       => "output_append"
    MetricsSnapshot    => "metrics_snapshot"
    ConsumerTake       => "consumer_take"
    ConsumerIsMine     => "consumer_is_mine"
    FeedNext           => "feed_next"
    FeedSent           => "feed_sent"
    Webhooks           => "webhooks"
    Webhook            => "webhook"
    WebhookCreate      => "webhook_create"
    WebhookChange      => "webhook_change"
    WebhookDelete      => "webhook_delete"
    WebhookNote        => "webhook_note"
    WebhookReplay      => "webhook_replay"
    Deliveries         => "deliveries"
    GroupRevision      => "group_revision"
}

/// How long a use case may take. A database whose machine is gone says nothing at all.
const LIMIT: Duration = Duration::from_secs(15);

/// Waits for the database no longer than this.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    // What waits for a database may be large, and is part of all who wait for it.
    let work = Box::pin(work);
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::NoAnswer { limit }))
}

/// Does `work`, within [`LIMIT`], and records how long it took.
pub(crate) async fn timed<T>(
    operation: Operation,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let start = Instant::now();
    let result = within(LIMIT, work).await;
    histogram!("capstan_store_operation_seconds", "operation" => operation.word())
        .record(start.elapsed().as_secs_f64());
    result
}
