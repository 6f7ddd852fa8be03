//! The real binary with the fleet of its demo: what it needs while nobody asks, and how soon its work goes
//! on after kill -9.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use capstan_core::Timestamp;
use capstan_core::event::Event;
use capstan_core::view::{DeploymentView, GroupView, Page};
use serde_json::{Value, json};

/// Where the instances' ports begin: below those that the kernel gives out, above those of the tests.
const FIRST_PORT: &str = "31000";
const IDLE_FOR: Duration = Duration::from_secs(30);
const KILLS: usize = 11;
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Ticks per second in `/proc/PID/stat`: `USER_HZ`, which is 100 on Linux.
const TICKS: f64 = 100.0;

/// Resident memory and CPU of the process, with twelve instances that nobody releases to.
pub(crate) async fn idle() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let demo = Demo::start(folder.path())?;
    let pid = demo.child.id();
    let (before, started) = (ticks(pid)?, Instant::now());
    tokio::time::sleep(IDLE_FOR).await;
    let used = ticks(pid)? - before;
    println!(
        "idle, {} instances, {} s: {} MiB resident, {:.2} % of a core",
        demo.hosts().await?,
        IDLE_FOR.as_secs(),
        resident_mib(pid)?,
        used / TICKS / started.elapsed().as_secs_f64() * 100.0
    );
    Ok(())
}

/// kill -9 while servers are under way → the first event of the deployment that the next process writes.
pub(crate) async fn resume() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut demo = Demo::start(folder.path())?;
    let (mut from_start, mut from_kill) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let deployment = demo.under_way().await?;
        // Each kill meets the stages elsewhere.
        tokio::time::sleep(Duration::from_millis(130) * u32::try_from(kill)?).await;
        let killed = now()?;
        demo.kill()?;
        let started = now()?;
        demo.run(folder.path())?;
        let resumed = demo.first_event(&deployment, started).await?;
        from_start.push(resumed.since(started));
        from_kill.push(resumed.since(killed));
    }
    for (what, took) in [("start", &mut from_start), ("kill -9", &mut from_kill)] {
        took.sort_unstable();
        println!(
            "{what} → first event of the rollout, {KILLS} kills: median {:.2} s, longest {:.2} s",
            took[KILLS / 2].as_secs_f64(),
            took[KILLS - 1].as_secs_f64()
        );
    }
    Ok(())
}

/// Resident memory of a process, in MiB.
pub(crate) fn resident_mib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024)
}

/// CPU time of a process, all threads, user and system.
fn ticks(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program stands in parentheses; the fields after it begin with the third.
    let (_, fields) = stat.rsplit_once(") ").context("stat")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<f64>);
    let (user, system) = (fields.next().context("utime")??, fields.next().context("stime")??);
    Ok(user + system)
}

fn now() -> anyhow::Result<Timestamp> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_micros(i64::try_from(since.as_micros())?))
}

/// The demo as a process of its own.
struct Demo {
    child: Child,
    /// Open as long as the process lives.
    output: BufReader<ChildStdout>,
    url: String,
    token: String,
    client: reqwest::Client,
}

impl Demo {
    fn start(data: &std::path::Path) -> anyhow::Result<Self> {
        let (child, output) = spawn(data)?;
        let (url, token, client) = (String::new(), String::new(), reqwest::Client::new());
        let mut demo = Self { child, output, url, token, client };
        demo.listen()?;
        Ok(demo)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again.
    fn run(&mut self, data: &std::path::Path) -> anyhow::Result<()> {
        (self.child, self.output) = spawn(data)?;
        self.listen()
    }

    /// Waits until it has told where it listens, and its token.
    fn listen(&mut self) -> anyhow::Result<()> {
        let (mut url, mut token) = (None, None);
        let mut line = String::new();
        while url.is_none() || token.is_none() {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                bail!("the demo ended before it told where it listens");
            }
            if let Some(link) = line.strip_prefix("portal: ") {
                url = link.split("/login").next().map(str::to_owned);
            }
            if let Some(secret) = line.strip_prefix("token: ") {
                token = Some(secret.trim().to_owned());
            }
        }
        (self.url, self.token) = (url.context("the address")?, token.context("the token")?);
        Ok(())
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.client.get(format!("{}/api/v1/{path}", self.url));
        let answer = request.bearer_auth(&self.token).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let request = self.client.post(format!("{}/api/v1/{path}", self.url));
        request.bearer_auth(&self.token).json(body).send().await?.error_for_status()?;
        Ok(())
    }

    async fn group(&self) -> anyhow::Result<GroupView> {
        let groups: Page<GroupView> = self.get("groups").await?;
        groups.items.into_iter().next().context("the demo's group")
    }

    async fn hosts(&self) -> anyhow::Result<usize> {
        let group = self.group().await?.id;
        let servers: Page<Value> = self.get(&format!("groups/{group}/servers")).await?;
        Ok(servers.items.len())
    }

    /// A rollout whose normal batches are under way; a new one, if the last has ended.
    async fn under_way(&self) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let newest: Page<Value> = self.get("deployments?limit=1").await?;
            let id = newest.items[0]["id"].as_str().context("an id")?.to_owned();
            let view: DeploymentView = self.get(&format!("deployments/{id}")).await?;
            let runs = view.counts.keys().any(|status| status.ends_with("_RUNNING"));
            match view.shown_status.as_str() {
                "ROLLING_OUT" if runs => return Ok(id),
                "SUCCESS" => self.release(&view.package.version).await?,
                "SMOKE_SUCCESS" => self.click(&id, "bake").await?,
                "BAKE_SUCCESS" => self.click(&id, "rollout").await?,
                "SMOKING" | "BAKING" | "ROLLING_OUT" => tokio::time::sleep(LOOK_EVERY).await,
                other => bail!("the rollout is {other}"),
            }
        }
        bail!("no rollout came under way");
    }

    async fn click(&self, id: &str, action: &str) -> anyhow::Result<()> {
        self.post(&format!("deployments/{id}/{action}"), &json!({})).await
    }

    /// Releases the one of the two good packages that does not run.
    async fn release(&self, running: &str) -> anyhow::Result<()> {
        let version = if running == "1.0.0" { "1.1.0" } else { "1.0.0" };
        let group = self.group().await?.id;
        let body = json!({"group": group, "package": version, "config": {}, "start": true});
        self.post("deployments", &body).await
    }

    /// When the first event of the deployment was written that is not older than `started`.
    async fn first_event(&self, id: &str, started: Timestamp) -> anyhow::Result<Timestamp> {
        let deadline = Instant::now() + PATIENCE;
        let mut after = 0;
        while Instant::now() < deadline {
            let path = format!("deployments/{id}/events?after={after}&limit=500");
            let events: Page<Event> = self.get(&path).await?;
            if let Some(event) = events.items.iter().find(|event| event.at >= started) {
                return Ok(event.at);
            }
            after = events.items.last().map_or(after, |event| event.seq);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the rollout did not go on");
    }
}

impl Drop for Demo {
    /// Ctrl-C, which ends the instances too.
    fn drop(&mut self) {
        let interrupt = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        if let Err(error) = interrupt.and_then(|_| self.child.wait()) {
            eprintln!("the demo was not stopped: {error}");
        }
    }
}

fn spawn(data: &std::path::Path) -> anyhow::Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_capstan"))
        .args(["demo", "--listen", "127.0.0.1:0", "--first-port", FIRST_PORT, "--data"])
        .arg(data)
        .env("RUST_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().context("its output")?);
    Ok((child, output))
}
