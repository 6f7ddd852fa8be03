//! Pulls servers out by hand and puts them back.

use capstan_core::ServerId;
use capstan_core::input::Input;
use capstan_core::view::ServerView;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::extract::sentence;
use crate::problem::Problem;

impl App {
    /// A server that the path names.
    pub(crate) async fn server(&self, id: ServerId) -> Result<ServerView, Problem> {
        let server = self.store.server(id).await?;
        server.ok_or_else(|| Problem::unknown("server", "server_unknown", id))
    }

    /// Pulls a server out.
    pub(crate) async fn pull_out(
        &self,
        caller: &Caller,
        server: ServerId,
        reason: Option<String>,
    ) -> Result<ServerView, Problem> {
        let detail = reason.clone().unwrap_or_default();
        let deed = deed(caller, "server.pull_out", server, detail);
        let result = match sentence("reason", reason) {
            Ok(reason) => {
                let actor = caller.name.clone();
                let input = Input::PullOut { server, actor, reason };
                self.set_by_hand(&deed, caller, server, input).await
            }
            Err(problem) => Err(problem),
        };
        self.audited_unless_accepted(deed, result).await
    }

    /// Puts a server back.
    pub(crate) async fn put_back(
        &self,
        caller: &Caller,
        server: ServerId,
    ) -> Result<ServerView, Problem> {
        let deed = deed(caller, "server.put_back", server, String::new());
        let input = Input::PutBack { server, actor: caller.name.clone() };
        let result = self.set_by_hand(&deed, caller, server, input).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn set_by_hand(
        &self,
        deed: &Deed<'_>,
        caller: &Caller,
        server: ServerId,
        input: Input,
    ) -> Result<ServerView, Problem> {
        let group = self.server(server).await?.group;
        self.submit_for(deed.asked(caller), group, input).await?;
        self.server(server).await
    }
}

fn deed<'a>(caller: &'a Caller, action: &'a str, server: ServerId, detail: String) -> Deed<'a> {
    Deed {
        actor: &caller.name,
        action,
        kind: "server",
        subject: server.to_string(),
        deployment: None,
        detail,
    }
}
