//! What messages about changes in the CMDB cost a release that is in progress.
//!
//! A release of one group, and meanwhile 200 messages a second about 200 groups, one in twenty of them about
//! the group that is released; half are repeats, and most are out of order. Each release is measured
//! without and with them, in turn, five times: so what else the machine does hits both. Afterwards
//! the cache is compared with what the CMDB says.
//!
//! `cargo bench --bench messages -- 60` makes each measurement last about 60 s, which is the default. `paced`
//! is a release whose hosts take their time, as hosts do; `full` one after the other on hosts that answer
//! at once, so that the engine, the database, the broker and the messages fight for the machine. Named alone
//! (`cargo bench --bench messages -- 60 full`), the other is left out.
//!
//! The engine is a process of its own, over `PostgreSQL` with durable commits. The controller, with the real
//! inbox over a real `RabbitMQ`, is this process, and so are the sender and the CMDB, which is in
//! memory.

#[path = "../shared/create.rs"]
mod create;
mod engine;
mod fleet;
mod release;
mod run;
mod sender;

use std::time::Duration;

use anyhow::bail;
use metrics_exporter_prometheus::PrometheusBuilder;

use run::{Ran, Services};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measurements of each kind.
const RUNS: usize = 5;
const SECONDS: u64 = 60;
/// What messages may cost.
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
    let (mut lasts, mut paces) = (Duration::from_secs(SECONDS), Vec::new());
    // Cargo adds `--bench`.
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        match (argument.as_str(), argument.parse()) {
            ("paced", _) => paces.push(Pace::Paced),
            ("full", _) => paces.push(Pace::Full),
            (_, Ok(seconds)) if seconds > 0 => lasts = Duration::from_secs(seconds),
            _ => bail!("{argument:?} is neither a number of seconds nor `paced` or `full`"),
        }
    }
    if paces.is_empty() {
        paces = vec![Pace::Paced, Pace::Full];
    }
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let services = Services::start(metrics);
    for pace in paces {
        measure(&services, pace, lasts)?;
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
    let slower = 1.0 - with / without;
    println!(
        "medians of {RUNS}: {without:.1} stage jobs/s without messages, {with:.1} with them: ratio \
         {:.3}, {} 10 %. The cache was right each time.",
        with / without,
        if slower <= LIMIT { "slower by less than" } else { "SLOWER BY MORE THAN" }
    );
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
