//! What is done to a database that was restored from a backup, before anything works on it again.

use capstan_core::GroupId;
use capstan_core::decide::RESTORED_FENCES;
use capstan_core::input::Input;
use sea_orm::{EntityTrait, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::entities::groups;
use crate::operation::{Operation, timed};
use crate::{Asked, Error, NewAudit, Store, SubmitError, processes};

impl Store {
    /// Raises every fence past what was given out after the backup, and doubts what the record calls
    /// proven; see [`Input::Restored`]. Each group is one transaction with an entry of the audit; whoever
    /// is interrupted does it again. Gives the number of groups.
    ///
    /// # Errors
    /// [`Error::HasOthers`] when other processes work on the database; when it does not answer.
    pub async fn fences_raise(&self, actor: &str) -> Result<usize, SubmitError> {
        processes::wait_until_alone(&self.inner).await.map_err(SubmitError::Store)?;
        // First: what is written below has numbers that others had.
        self.epoch_begin().await.map_err(SubmitError::Store)?;
        let groups = self.group_ids().await.map_err(SubmitError::Store)?;
        for group in &groups {
            let audit = NewAudit {
                actor: actor.to_owned(),
                action: "fence raise".to_owned(),
                subject_kind: "group",
                subject: group.to_string(),
                deployment: None,
                answer: "accepted".to_owned(),
                detail: format!("restored from a backup; fences rise by {RESTORED_FENCES}"),
            };
            let asked = Asked { audit: Some(audit), ..Asked::default() };
            let input = Input::Restored { actor: actor.to_owned() };
            self.submit_for(asked, *group, input).await?;
        }
        Ok(groups.len())
    }

    async fn group_ids(&self) -> Result<Vec<GroupId>, Error> {
        timed(Operation::Groups, async {
            let ids: Vec<Uuid> = groups::Entity::find()
                .select_only()
                .column(groups::Column::Id)
                .order_by_asc(groups::Column::Id)
                .into_tuple()
                .all(self.reader())
                .await
                .map_err(Error::database("list groups"))?;
            Ok(ids.into_iter().map(GroupId).collect())
        })
        .await
    }
}
