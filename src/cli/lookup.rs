//! Finds what people name: by id, by name, by the beginning of an id.

use capstan_core::plan::label;
use capstan_core::view::{
    ApplicationView, DeploymentBrief, GroupView, Page, ServerView, TargetView, WebhookView,
};
use capstan_core::{DeploymentId, GroupId, TargetId};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::client::Client;
use super::error::Error;
use super::moment;
use super::table::clean;

/// Items of one page.
const PAGE: usize = 500;
/// Pages that are looked through for one name.
const MOST_PAGES: usize = 20;
/// Groups that are looked through for a server.
const MOST_GROUPS: usize = 100;
/// Names that are listed when one stands for several things, or for none.
const MOST_NAMES: usize = 12;
/// The shortest beginning of an id that is looked for.
const SHORTEST_PREFIX: usize = 8;

/// Which deployment: named, or that of a group.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DeploymentArgs {
    /// Id of the deployment, or its beginning (8 letters or more).
    #[arg(value_name = "DEPLOYMENT", required_unless_present = "group")]
    pub(crate) deployment: Option<String>,
    /// Instead: the group's deployment that runs, else its newest one.
    #[arg(long, value_name = "GROUP", conflicts_with = "deployment")]
    pub(crate) group: Option<String>,
}

impl Client {
    /// Every item of a list, up to a number of pages.
    async fn all<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut query = query.to_vec();
            query.push(("limit", PAGE.to_string()));
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.get(path, &query).await?.read()?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// The webhook with this name.
    pub(crate) async fn webhook(&self, named: &str) -> Result<WebhookView, Error> {
        let all: Vec<WebhookView> = self.all(&["webhooks"], &[]).await?;
        let others = all.iter().map(|it| it.name.clone()).collect();
        let found = all.into_iter().filter(|it| it.name == named).collect();
        one("webhook", named, found, others, |it| it.id.to_string())
    }

    /// The application with this id or name.
    pub(crate) async fn application(&self, named: &str) -> Result<ApplicationView, Error> {
        if let Ok(id) = named.parse::<Uuid>() {
            return self.read(&["applications", &id.to_string()]).await;
        }
        let query = [("search", named.to_owned())];
        let near: Vec<ApplicationView> = self.all(&["applications"], &query).await?;
        let others = near.iter().map(|application| application.name.clone()).collect();
        let found = near.iter().filter(|application| application.name == named).cloned().collect();
        one("application", named, found, others, |application: &ApplicationView| {
            format!("{}  {}", application.id, application.name)
        })
    }

    /// The group with this id or name.
    pub(crate) async fn group(&self, named: &str) -> Result<GroupView, Error> {
        if let Ok(id) = named.parse::<Uuid>() {
            return self.read(&["groups", &id.to_string()]).await;
        }
        let query = [("name", named.to_owned())];
        let found: Vec<GroupView> = self.all(&["groups"], &query).await?;
        let is_meant = |group: &GroupView| group.name == named || group.external_id == named;
        let found: Vec<GroupView> = found.into_iter().filter(is_meant).collect();
        let others = if found.is_empty() {
            let query = [("limit", PAGE.to_string())];
            let page: Page<GroupView> = self.get(&["groups"], &query).await?.read()?;
            page.items.into_iter().map(|group| group.name).collect()
        } else {
            Vec::new()
        };
        one("group", named, found, others, |group: &GroupView| {
            let application = &group.application;
            format!(
                "{}  {} ({} of {}, {})",
                group.id, group.name, group.external_id, application.name, application.environment
            )
        })
    }

    /// The servers of a group.
    pub(crate) async fn servers(&self, group: GroupId) -> Result<Vec<ServerView>, Error> {
        self.all(&["groups", &group.to_string(), "servers"], &[]).await
    }

    /// The server with this id, or the one of a group (or of all) with this host name.
    pub(crate) async fn server(
        &self,
        named: &str,
        group: Option<&str>,
    ) -> Result<ServerView, Error> {
        if let Ok(id) = named.parse::<Uuid>() {
            return self.read(&["servers", &id.to_string()]).await;
        }
        let groups = match group {
            Some(group) => vec![self.group(group).await?],
            None => self.all(&["groups"], &[]).await?,
        };
        if groups.len() > MOST_GROUPS {
            return Err(Error::Named(format!(
                "{named}: there are {} groups, too many to look through; name the server's with \
                 --group",
                groups.len()
            )));
        }
        let mut found = Vec::new();
        let mut others = Vec::new();
        for group in groups {
            for server in self.servers(group.id).await? {
                let name = label(&server.hostname, &server.instance);
                if server.hostname == named || name == named {
                    found.push((server, group.name.clone()));
                } else {
                    others.push(name);
                }
            }
        }
        let (server, _) = one("server", named, found, others, |(server, group)| {
            format!("{}  {} in {group}", server.id, label(&server.hostname, &server.instance))
        })?;
        Ok(server)
    }

    /// The deployment that is meant.
    pub(crate) async fn deployment_id(&self, args: &DeploymentArgs) -> Result<DeploymentId, Error> {
        match (&args.deployment, &args.group) {
            (Some(named), _) => self.deployment_named(named).await,
            (None, Some(group)) => {
                let group = self.group(group).await?;
                self.deployment_of(&group).await
            }
            (None, None) => Err(Error::Usage("name a deployment, or its --group".to_owned())),
        }
    }

    /// The deployment with this id, or with the only id that begins like this.
    pub(crate) async fn deployment_named(&self, named: &str) -> Result<DeploymentId, Error> {
        if let Ok(id) = named.parse() {
            return Ok(id);
        }
        let is_prefix = named.chars().all(|letter| letter.is_ascii_hexdigit() || letter == '-');
        if named.len() < SHORTEST_PREFIX || !is_prefix {
            return Err(Error::Usage(format!(
                "{named}: a deployment is named by its id, by the first {SHORTEST_PREFIX} letters \
                 of it or more, or by --group"
            )));
        }
        let prefix = named.to_ascii_lowercase();
        let all: Vec<DeploymentBrief> = self.all(&["deployments"], &[]).await?;
        let begins = |brief: &DeploymentBrief| brief.id.to_string().starts_with(&prefix);
        let found: Vec<DeploymentBrief> = all.into_iter().filter(begins).collect();
        let found = one("deployment", named, found, Vec::new(), |brief: &DeploymentBrief| {
            let (group, version) = (&brief.group_name, &brief.package.version);
            let at = moment::instant(brief.created_at);
            format!("{}  {group} {version} {} {at}", brief.id, brief.shown_status)
        })?;
        Ok(found.id)
    }

    /// The deployment of a group that runs, else its newest.
    async fn deployment_of(&self, group: &GroupView) -> Result<DeploymentId, Error> {
        if let Some(running) = group.running_deployment {
            return Ok(running);
        }
        let query = [("group", group.id.to_string()), ("limit", "1".to_owned())];
        let page: Page<DeploymentBrief> = self.get(&["deployments"], &query).await?.read()?;
        let newest = page.items.first().map(|brief| brief.id);
        newest.ok_or_else(|| Error::Named(format!("group {} has no deployment yet", group.name)))
    }

    /// The targets of a deployment.
    pub(crate) async fn targets(&self, id: DeploymentId) -> Result<Vec<TargetView>, Error> {
        self.all(&["deployments", &id.to_string(), "targets"], &[]).await
    }

    /// The target with this id, or the one of a deployment on this host.
    pub(crate) async fn target_id(
        &self,
        named: &str,
        deployment: Option<&DeploymentArgs>,
    ) -> Result<TargetId, Error> {
        if let Ok(id) = named.parse() {
            return Ok(id);
        }
        let Some(deployment) = deployment else {
            return Err(Error::Usage(format!(
                "{named}: a target is named by its id, or by its host name together with --group \
                 or --deployment"
            )));
        };
        let id = self.deployment_id(deployment).await?;
        let targets = self.targets(id).await?;
        let name = |target: &TargetView| label(&target.hostname, &target.instance);
        let others = targets.iter().map(name).collect();
        let is_meant = |target: &TargetView| target.hostname == named || name(target) == named;
        let found: Vec<TargetView> = targets.into_iter().filter(is_meant).collect();
        let target = one("target", named, found, others, |target: &TargetView| {
            format!("{}  {} in batch {}", target.id, name(target), target.batch)
        })?;
        Ok(target.id)
    }
}

/// The only one that was found; else what there is.
fn one<T>(
    what: &str,
    named: &str,
    mut found: Vec<T>,
    others: Vec<String>,
    line: impl Fn(&T) -> String,
) -> Result<T, Error> {
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            found.push(last);
            let mut text =
                format!("there are {} {what}s {named}; name one by its id:", found.len());
            for item in found.iter().take(MOST_NAMES) {
                text.push_str("\n  ");
                text.push_str(&clean(&line(item)));
            }
            Err(Error::Named(text))
        }
        (None, _) => {
            let more = if others.len() > MOST_NAMES { ", …" } else { "" };
            let others = others.into_iter().take(MOST_NAMES);
            let shown: Vec<String> = others.map(|other| clean(&other)).collect();
            let there = if shown.is_empty() { String::new() } else { "; there are: ".to_owned() };
            let list = shown.join(", ");
            Err(Error::Named(format!("there is no {what} {named}{there}{list}{more}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_must_be_one() {
        let find = |found: Vec<&'static str>, others: &[&str]| {
            let others = others.iter().map(|name| (*name).to_owned()).collect();
            one("group", "web", found, others, |it| (*it).to_owned()).map_err(|it| it.to_string())
        };
        assert_eq!(find(vec!["a"], &[]), Ok("a"));
        let several = "there are 2 groups web; name one by its id:\n  a\n  b";
        assert_eq!(find(vec!["a", "b"], &[]), Err(several.to_owned()));
        assert_eq!(find(vec![], &[]), Err("there is no group web".to_owned()));
        let others = "there is no group web; there are: x, y";
        assert_eq!(find(vec![], &["x", "y"]), Err(others.to_owned()));
    }
}
