//! What messages cost a release that is in progress.
//!
//! A release of one group, and meanwhile 200 messages a second about 200 groups, one in twenty of them about
//! the group that is released; half are repeats, and most are out of order. Each release is measured
//! without and with them, in turn, five times: so what else the machine does hits both. Afterwards
//! the cache is compared with what the CMDB says.
//!
//! `cargo bench --bench messages -- 60` makes each measurement last about 60 s, which is the default. `paced`
//! is a release whose hosts take their time, as hosts do; `full` one after the other on hosts that answer
//! at once, so that the engine, the database, the broker and the messages fight for the machine. `backlog`
//! measures the way out instead: releases while the broker is away, and what waits for it when it is back. Named
//! alone (`cargo bench --bench messages -- 60 full`), the others are left out. A paced release that messages slow by
//! more than a tenth is an error.
//!
//! The engine is a process of its own, over `PostgreSQL` with durable commits. The controller, with the real
//! inbox over a real `RabbitMQ`, is this process, and so are the sender and the CMDB, which is in
//! memory.

mod backlog;
#[path = "../shared/create.rs"]
mod create;
mod engine;
mod fleet;
mod metrics;
mod release;
mod run;
mod sender;

use std::time::Duration;

use anyhow::{bail, ensure};
use metrics_exporter_prometheus::PrometheusBuilder;

use metrics::Metrics;
use run::{Ran, Services};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measurements of each kind.
const RUNS: usize = 5;
const SECONDS: u64 = 60;
/// What messages may cost a release whose hosts take their time.
const LIMIT: f64 = 0.10;

/// How fast hosts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// So slow that one release lasts about as long as is measured.
    Paced,
    /// They answer at once; releases follow each other as long as is measured.
    Full,
}

/// Whether messages come meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Messages {
    Sent,
    None,
}

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some(engine::ENGINE) {
        return runtime()?.block_on(engine::run(std::env::args().skip(2).collect()));
    }
    let (mut lasts, mut paces, mut is_backlog) = (Duration::from_secs(SECONDS), Vec::new(), false);
    // Cargo adds `--bench`.
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        match (argument.as_str(), argument.parse()) {
            ("paced", _) => paces.push(Pace::Paced),
            ("full", _) => paces.push(Pace::Full),
            ("backlog", _) => is_backlog = true,
            (_, Ok(seconds)) if seconds > 0 => lasts = Duration::from_secs(seconds),
            _ => bail!(
                "{argument:?} is neither a number of seconds nor `paced`, `full` or `backlog`"
            ),
        }
    }
    if paces.is_empty() && !is_backlog {
        (paces, is_backlog) = (vec![Pace::Paced, Pace::Full], true);
    }
    let metrics = Metrics(PrometheusBuilder::new().install_recorder()?);
    if !paces.is_empty() {
        let services = Services::start(metrics.clone());
        for pace in paces {
            measure(&services, pace, lasts)?;
        }
    }
    if is_backlog {
        runtime()?.block_on(backlog::run(&metrics))?;
    }
    Ok(())
}

fn measure(services: &Services, pace: Pace, lasts: Duration) -> anyhow::Result<()> {
    match pace {
        Pace::Paced => println!("\na release whose hosts take their time"),
        Pace::Full => println!("\nreleases at full speed, on hosts that answer at once"),
    }
    println!(
        "messages  releases  seconds  stage jobs/s  messages/s  late  refreshes  behind at the end"
    );
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for (messages, rates) in [(Messages::None, &mut without), (Messages::Sent, &mut with)] {
            // A runtime of its own, so that none waits for what another left behind.
            let ran = runtime()?.block_on(run::run(services, pace, messages, lasts))?;
            show(messages, &ran);
            rates.push(ran.stages_per_second());
        }
    }
    let (without, with) = (median(without), median(with));
    let ratio = with / without;
    println!(
        "medians of {RUNS}: {without:.1} stage jobs/s without messages, {with:.1} with them: ratio \
         {ratio:.3}. The cache was right each time."
    );
    match pace {
        Pace::Paced => ensure!(ratio >= 1.0 - LIMIT, "messages have slowed it by more than 10 %"),
        // Whatever one does at full speed takes from the other: that is told, and no limit.
        Pace::Full => {}
    }
    Ok(())
}

fn show(messages: Messages, ran: &Ran) {
    let (took, rate) = (ran.took.as_secs_f64(), ran.stages_per_second());
    let what = match messages {
        Messages::Sent => "sent",
        Messages::None => "none",
    };
    print!("{what:8}  {:8}  {took:7.2}  {rate:12.1}", ran.releases);
    match &ran.told {
        None => println!(),
        Some(told) => println!(
            "  {:10.1}  {:3.0}%  {:9}  {:.2} s",
            told.per_second,
            told.late_share * 100.0,
            told.refreshes,
            told.behind.as_secs_f64()
        ),
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
