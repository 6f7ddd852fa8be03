//! What the README says of speed and size.
//!
//! `rollout`, `brake` and `answers` run the real store on `SQLite` with `synchronous=FULL` and the real
//! engine, with drivers that do nothing but note when they were called. `idle` and `resume` run the real
//! binary with the fleet of its demo. `postgres` and `mariadb` run the rollout over a database server that
//! makes each commit durable, with engines in processes of their own; `celery` runs the same shape on
//! Celery, Redis and `PostgreSQL`.
//!
//! `cargo bench --bench rollout` measures everything up to `resume`. Parts can be named and sizes of the
//! rollout given: `cargo bench --bench rollout -- rollout brake 1000 4000`.

mod answers;
#[path = "../shared/create.rs"]
mod create;
mod fleet;
mod peer;
mod process;
mod recorder;
mod servers;
mod speed;

use anyhow::bail;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [u32; 3] = [1000, 4000, 10_000];
const PARTS: [&str; 8] =
    ["rollout", "brake", "answers", "idle", "resume", "postgres", "mariadb", "celery"];
/// Those that are measured when none is named.
const USUAL: usize = 5;

fn main() -> anyhow::Result<()> {
    let (mut parts, mut sizes) = (Vec::new(), Vec::new());
    if std::env::args().nth(1).as_deref() == Some(servers::ENGINE) {
        return run(servers::engine(std::env::args().skip(2).collect()));
    }
    // Cargo adds `--bench`.
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        if let Ok(size) = argument.parse::<u32>() {
            sizes.push(size);
        } else if PARTS.contains(&argument.as_str()) {
            parts.push(argument);
        } else {
            bail!("{argument:?} is neither a number of targets nor one of {PARTS:?}");
        }
    }
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    let usual = if parts.is_empty() { USUAL } else { 0 };
    for (place, part) in PARTS.into_iter().enumerate() {
        if place < usual || parts.iter().any(|named| named == part) {
            measure(part, &sizes)?;
        }
    }
    Ok(())
}

fn measure(part: &str, sizes: &[u32]) -> anyhow::Result<()> {
    match part {
        "rollout" => {
            println!("targets  stages/s  µs/target  result→next p50  p99       resident");
            for size in sizes {
                run(speed::rollout(*size))?;
            }
            Ok(())
        }
        "brake" => run(speed::brake(4000)),
        "answers" => run(answers::answers(10_000)),
        "idle" => run(process::idle()),
        "resume" => run(process::resume()),
        "postgres" => run(servers::postgres(sizes)),
        "mariadb" => run(servers::mariadb(sizes)),
        "celery" => run(peer::celery(sizes)),
        other => bail!("{other:?} is no part of this benchmark"),
    }
}

/// Each part has a runtime of its own, so that none waits for what another left behind.
fn run(part: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(part)
}
