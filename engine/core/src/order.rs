//! What has to be done for a target's stage: the act, and for orders the environment of the script.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ports::Endpoint;
use crate::record::{Binding, Deployment, Server, Target};
use crate::stage::Stage;
use crate::{DeploymentId, OrderKey, TargetId, Timestamp};

/// Digests of the scripts of one kind of application, as rendered when a deployment was created.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScriptSet {
    /// SHA-256 of each script: `download`, `install`, `verify`, `report`.
    pub digests: BTreeMap<String, String>,
}

impl ScriptSet {
    /// The digest of the script that runs for `stage`. A Check runs `verify`.
    pub fn digest(&self, stage: Stage) -> Option<&str> {
        let name = match stage {
            Stage::Check | Stage::Verify => "verify",
            Stage::Download => "download",
            Stage::Install => "install",
            Stage::Markdown | Stage::Markup => return None,
        };
        self.digests.get(name).map(String::as_str)
    }
}

/// One stage of one target, ready to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The target.
    pub target: TargetId,
    /// The stage.
    pub stage: Stage,
    /// Attempt of the target.
    pub attempt: u32,
    /// Key of the act.
    pub key: OrderKey,
    /// Fence of the server for this act.
    pub fence: i64,
    /// When the stage started.
    pub started_at: Timestamp,
    /// When this act began: the latest of the stage's start, the instant from which its automatic
    /// try was due, and the instant at which an engine took it over from one that died. A drain is
    /// counted from here.
    pub act_at: Timestamp,
    /// When the stage must have ended; a lost answer is asked for until then and
    /// [`crate::stage::UNKNOWN_GRACE`] longer.
    pub deadline_at: Timestamp,
    /// For Markup: when the package was last proven on the server. An engine must not put the
    /// server into traffic when that is longer ago than [`crate::stage::VERIFY_FRESH`] (S5): it ends
    /// the stage as failed, and another try will not help.
    pub verified_at: Option<Timestamp>,
    /// The answer of this act was lost, and that is written.
    pub is_unknown: bool,
    /// Where the server is.
    pub endpoint: Endpoint,
    /// Name of the load-balancer driver.
    pub load_balancer: String,
    /// Names of the executors: the order goes through the first one that no person cut off.
    pub executors: Vec<String>,
    /// Data centre whose package store comes first.
    pub idc: String,
    /// SHA-256 of the package: the store's locations are looked up by it.
    pub package_sha256: String,
    /// For an order: digest of the script.
    pub script: Option<String>,
    /// For an order: the environment, without `CAPSTAN_PACKAGE_URLS` and `CAPSTAN_FENCE`.
    pub environment: BTreeMap<String, String>,
    /// For an order: how long the script may run on the host.
    pub time_limit: Duration,
}

/// How much longer than a script's own limit the host lets it run, so that the script's last
/// sentence is written by the script.
const HOST_MARGIN: Duration = Duration::from_secs(5);

/// The health URL of a server.
pub fn health_url(binding: &Binding, server: &Server) -> String {
    binding
        .health_check_url
        .replace("{ip}", &server.ip_address)
        .replace("{port}", &server.port.to_string())
}

/// Where a server is reached.
pub fn endpoint(binding: &Binding, server: &Server) -> Endpoint {
    Endpoint {
        server: server.id,
        hostname: server.hostname.clone(),
        instance: server.instance.clone(),
        ip_address: server.ip_address.clone(),
        port: server.port,
        root: server.root.clone(),
        idc: server.idc.clone(),
        health_url: health_url(binding, server),
    }
}

/// What has to be done for the stage under way on a target; `None` if none is, or if the server has
/// a later order: the old one may not be given again under the fence of the new one (S7).
pub fn work(deployment: &Deployment, target: &Target, server: &Server) -> Option<Work> {
    let stage = target.status.running()?;
    let key = target.order.filter(|_| server.order == target.order)?;
    let limit = limit(deployment, stage);
    Some(Work {
        deployment: deployment.id,
        target: target.id,
        stage,
        attempt: target.attempt,
        key,
        fence: server.fence,
        started_at: target.status_since,
        act_at: act_at(deployment, target)?,
        deadline_at: target.deadline_at?,
        verified_at: target.verified_at.filter(|_| stage == Stage::Markup),
        is_unknown: target.unknown_since.is_some(),
        endpoint: endpoint(&deployment.frozen, server),
        load_balancer: deployment.frozen.load_balancer.clone(),
        executors: deployment.frozen.executors().map(str::to_owned).collect(),
        idc: server.idc.clone(),
        package_sha256: deployment.package.sha256.clone(),
        script: deployment.scripts.digest(stage).map(str::to_owned),
        environment: if stage.is_order() {
            environment(deployment, server, stage, key, limit)
        } else {
            BTreeMap::new()
        },
        time_limit: limit + HOST_MARGIN,
    })
}

/// How long a stage may take in a deployment.
pub(crate) fn limit(deployment: &Deployment, stage: Stage) -> Duration {
    stage.limit(deployment.config.startup_timeout(), deployment.frozen.settle_time())
}

/// When the act under way on a target began, or will begin if it is a try that is not due yet; see
/// [`Work::act_at`]. The row keeps the instant at which it must have ended.
pub(crate) fn act_at(deployment: &Deployment, target: &Target) -> Option<Timestamp> {
    let stage = target.status.running()?;
    Some(target.deadline_at? - limit(deployment, stage))
}

fn environment(
    deployment: &Deployment,
    server: &Server,
    stage: Stage,
    key: OrderKey,
    limit: Duration,
) -> BTreeMap<String, String> {
    let binding = &deployment.frozen;
    [
        ("STAGE", stage.word().to_owned()),
        ("APPLICATION", binding.application.clone()),
        ("GROUP", binding.group.clone()),
        ("INSTANCE", server.instance.clone()),
        ("VERSION", deployment.package.version.clone()),
        ("PACKAGE_SHA256", deployment.package.sha256.clone()),
        ("ROOT", server.root.clone()),
        ("PORT", server.port.to_string()),
        ("HEALTH_URL", health_url(binding, server)),
        ("TIMEOUT_SECONDS", limit.as_secs().to_string()),
        ("SETTLE_SECONDS", binding.settle_seconds.to_string()),
        ("KEEP_RELEASES", binding.keep_releases.to_string()),
        ("KEY", key.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("CAPSTAN_{name}"), value))
    .collect()
}

/// Digest of an order: it covers the script and its environment (T5). The key, the fence and the
/// time limit name the giving of the order and not its content, so they stay out.
pub fn digest(script: &str, environment: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(script);
    for (name, value) in environment {
        if name != "CAPSTAN_KEY" && name != "CAPSTAN_FENCE" {
            add(name);
            add(value);
        }
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}
