//! Refreshes a group because a person asks for it.

use std::sync::Arc;

use capstan_core::GroupId;
use capstan_core::view::GroupView;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::sync::Removal;

impl App {
    /// Refreshes a group from the CMDB. One that would remove too many servers is held, and the
    /// answer's `refresh_held` says so.
    pub(crate) async fn sync_group(
        self: &Arc<Self>,
        caller: &Caller,
        group: GroupId,
        removal: Removal,
    ) -> Result<GroupView, Problem> {
        let result = match self.refresh(group, removal).await {
            Ok(()) => {
                self.adopt_later(group);
                self.scale_out_later(group);
                self.group(group).await
            }
            Err(problem) => Err(problem),
        };
        let confirmed = removal == Removal::Confirmed;
        let deed = Deed {
            actor: &caller.name,
            action: "group.sync",
            kind: "group",
            subject: group.to_string(),
            deployment: None,
            detail: if confirmed { "removal confirmed".into() } else { String::new() },
        };
        self.audited(deed, result).await
    }
}
