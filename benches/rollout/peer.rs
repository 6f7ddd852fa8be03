//! The same shape on Celery, Redis and `PostgreSQL`, for comparison on the same machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use capstan_services::{Postgres, Redis};

/// Celery takes minutes for more; it is told so.
const MOST: u32 = 4000;

/// Rollouts on Celery. Its libraries come from the Python package index, into the folder of builds.
pub(crate) async fn celery(sizes: &[u32]) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/celery");
    let python = python(&folder)?;
    let (database, redis) = (Postgres::start_durable(), Redis::start());
    println!("Celery, PostgreSQL with durable commits\ntargets  tasks/s  µs/target");
    for size in sizes {
        if *size > MOST {
            println!("{size:7}  not measured: more than {MOST}");
            continue;
        }
        let mut script = Command::new(&python);
        script.arg(folder.join("rollout.py")).args(["--targets", &size.to_string()]);
        script.args(["--database", &database.database(), "--redis", &redis.url()]);
        let status = tokio::task::spawn_blocking(move || script.status()).await??;
        if !status.success() {
            bail!("benches/celery/rollout.py failed: {status}");
        }
    }
    Ok(())
}

/// The interpreter of an environment with what is needed.
fn python(folder: &Path) -> anyhow::Result<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("celery");
    let run = |program: &Path, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status();
        let status = status.with_context(|| format!("{} cannot be run", program.display()))?;
        anyhow::ensure!(status.success(), "{} {arguments:?} failed", program.display());
        anyhow::Ok(())
    };
    let python = place.join("bin/python");
    if !python.exists() {
        let place = place.to_str().context("the path of the folder of builds")?;
        run(Path::new("python3"), &["-m", "venv", place])?;
    }
    let needed = folder.join("requirements.txt");
    let needed = needed.to_str().context("the path of this repository")?;
    run(&python, &["-m", "pip", "install", "--quiet", "--requirement", needed])?;
    Ok(python)
}
