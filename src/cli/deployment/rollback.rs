//! `capstan group rollback` and `capstan deployment rollback`: one call, named in two ways.

use capstan_core::view::DeploymentView;
use capstan_core::{DeploymentId, GroupId};
use serde::Deserialize;
use serde_json::json;

use super::super::context::Context;
use super::super::error::Error;
use super::super::strategy::StrategyArgs;
use super::super::watch::{self, Begin, WatchArgs};
use super::text;

/// Where back to, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// The deployment whose package comes back [default: the newest good one before].
    #[arg(long, value_name = "DEPLOYMENT")]
    to: Option<String>,
    #[command(flatten)]
    strategy: StrategyArgs,
    /// Follows the rollback until it ends, as `deployment watch`.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    options: WatchArgs,
}

/// What Capstan answers to a rollback.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answered {
    Created(Box<DeploymentView>),
    Nothing {
        #[serde(rename = "answer")]
        _answer: NothingWord,
        revoked: Option<DeploymentId>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NothingWord {
    NothingToRollBack,
}

/// Rolls a group back; gives the exit code.
pub(crate) async fn roll_back(
    context: &Context,
    group: GroupId,
    args: &RollbackArgs,
) -> Result<u8, Error> {
    let mut body = json!({"config": args.strategy.request()});
    if let Some(to) = &args.to {
        body["to"] = json!(context.client.deployment_named(to).await?);
    }
    let path = ["groups", &group.to_string(), "rollback"];
    let answer = context.client.post(&path, Some(body)).await?;
    let follows = args.watch || args.options.until_click;
    if let (true, Answered::Created(view)) = (follows, answer.read()?) {
        return watch::run(context, view.id, Begin::WithTheFirst, &args.options).await;
    }
    context.show(&answer, told)?;
    Ok(0)
}

fn told(answered: Answered) -> String {
    match answered {
        Answered::Created(view) => {
            format!("{}Next: capstan deployment watch {}\n", text(&view), view.id)
        }
        Answered::Nothing { revoked: Some(id), .. } => format!(
            "Nothing to roll back: every server already runs the earlier package. The deployment {id} \
             is revoked.\n"
        ),
        Answered::Nothing { revoked: None, .. } => {
            "Nothing to roll back: every server already runs the earlier package.\n".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::summary::tests::sample;
    use super::*;

    #[test]
    fn both_answers_are_understood() {
        let id = "018bcfe5-687b-7000-8000-000000000001";
        let nothing = json!({"answer": "nothing_to_roll_back", "revoked": id});
        let nothing = serde_json::from_value(nothing).expect("an answer");
        assert!(told(nothing).ends_with("000000000001 is revoked.\n"));
        let created = sample("ROLLING_OUT", "ROLLING_OUT");
        let created = serde_json::from_value(created).expect("an answer");
        assert!(told(created).contains("Next: capstan deployment watch 018bcfe5"));
    }
}
