//! What the README says of speed and size.
//!
//! `rollout`, `brake` and `answers` run the real store on `SQLite` with `synchronous=FULL` and the real
//! engine, with drivers that do nothing but note when they were called. `idle` and `resume` run the real
//! binary with the fleet of its demo.
//!
//! `cargo bench --bench rollout` measures everything. Parts can be named and sizes of the rollout given:
//! `cargo bench --bench rollout -- rollout brake 1000 4000`.

mod answers;
mod fleet;
mod process;
mod recorder;
mod speed;

use anyhow::bail;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [u32; 3] = [1000, 4000, 10_000];
const PARTS: [&str; 5] = ["rollout", "brake", "answers", "idle", "resume"];

fn main() -> anyhow::Result<()> {
    let (mut parts, mut sizes) = (Vec::new(), Vec::new());
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
    for part in PARTS.into_iter().filter(|part| parts.is_empty() || parts.iter().any(|p| p == part))
    {
        measure(part, &sizes)?;
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
        other => bail!("{other:?} is no part of this benchmark"),
    }
}

/// Each part has a runtime of its own, so that none waits for what another left behind.
fn run(part: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(part)
}
