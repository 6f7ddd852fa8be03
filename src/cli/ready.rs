//! `capstan ready`

use capstan_core::view::ReadinessView;

use super::context::Context;
use super::error::{Error, FAILED};
use super::moment;
use super::summary::field;
use super::table::clean;

/// Runs the command; gives the exit code.
pub(crate) async fn run(context: &Context) -> Result<u8, Error> {
    let answer = context.client.readiness().await?;
    let view: ReadinessView = answer.read()?;
    let code = if view.ready { 0 } else { FAILED };
    context.show(&answer, |view| text(&view))?;
    Ok(code)
}

fn text(view: &ReadinessView) -> String {
    let mut lines = vec![if view.ready { "ready" } else { "not ready" }.to_owned()];
    for missing in &view.missing {
        lines.push(field("missing", &format!("{}: {}", missing.what, missing.reason)));
    }
    lines.extend(view.warnings.iter().map(|warning| field("warning", warning)));
    let synced = view.synced_at.map(|at| moment::ago(at, moment::now()));
    let synced = synced.unwrap_or_else(|| "not since this process started".to_owned());
    lines.push(field("CMDB read", &synced));
    lines.iter().map(|line| clean(line) + "\n").collect()
}
