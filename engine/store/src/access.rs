//! Tokens, sessions and login links. Only SHA-256 hashes of secrets come here.

use capstan_core::{Timestamp, TokenId};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QuerySelect,
};
use uuid::Uuid;

use crate::entities::{login_links, sessions, tokens};
use crate::operation::{Operation, timed};
use crate::store::commit;
use crate::{Error, NewAudit, SessionRow, Store, TokenRow, audit, crash};

impl Store {
    /// Keeps a new access token.
    ///
    /// # Errors
    /// When the database does not answer, or the hash is known.
    pub async fn token_create(&self, name: &str, hash: &str) -> Result<TokenId, Error> {
        timed(Operation::TokenCreate, async {
            let id = Uuid::now_v7();
            let row = tokens::Model {
                id,
                name: name.to_owned(),
                hash: hash.to_owned(),
                created_at: self.now().as_micros(),
            };
            crash::point("token.before");
            row.into_active_model()
                .reset_all()
                .insert(self.writer())
                .await
                .map_err(Error::database("write a token"))?;
            crash::point("token.done");
            Ok(TokenId(id))
        })
        .await
    }

    /// The token whose secret has this hash.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn token_find(&self, hash: &str) -> Result<Option<TokenRow>, Error> {
        timed(Operation::TokenFind, async {
            let row = tokens::Entity::find()
                .filter(tokens::Column::Hash.eq(hash))
                .one(self.reader())
                .await
                .map_err(Error::database("find a token"))?;
            Ok(row.map(token_row))
        })
        .await
    }

    /// Whether there is any token.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tokens_exist(&self) -> Result<bool, Error> {
        timed(Operation::TokensExist, async {
            let any: Option<Uuid> = tokens::Entity::find()
                .select_only()
                .column(tokens::Column::Id)
                .into_tuple()
                .one(self.reader())
                .await
                .map_err(Error::database("look for tokens"))?;
            Ok(any.is_some())
        })
        .await
    }

    /// Keeps a new session, and removes those that have ended.
    ///
    /// # Errors
    /// When the database does not answer, or there is no such token.
    pub async fn session_create(
        &self,
        hash: &str,
        token: TokenId,
        csrf: &str,
        expires_at: Timestamp,
        audit: Option<NewAudit>,
    ) -> Result<(), Error> {
        timed(Operation::SessionCreate, async {
            let txn = self.begin().await?;
            sessions::Entity::delete_many()
                .filter(sessions::Column::ExpiresAt.lte(self.now().as_micros()))
                .exec(&txn)
                .await
                .map_err(Error::database("remove ended sessions"))?;
            let row = sessions::Model {
                hash: hash.to_owned(),
                token_id: token.0,
                csrf: csrf.to_owned(),
                expires_at: expires_at.as_micros(),
            };
            row.into_active_model()
                .reset_all()
                .insert(&txn)
                .await
                .map_err(Error::database("write a session"))?;
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await
        })
        .await
    }

    /// The session with this hash; `None` also when it has ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn session_find(&self, hash: &str) -> Result<Option<SessionRow>, Error> {
        timed(Operation::SessionFind, async {
            let conn = self.reader();
            let row = sessions::Entity::find_by_id(hash.to_owned())
                .filter(sessions::Column::ExpiresAt.gt(self.now().as_micros()))
                .one(conn)
                .await
                .map_err(Error::database("find a session"))?;
            let Some(row) = row else { return Ok(None) };
            let token = token_by_id(conn, row.token_id).await?;
            Ok(token.map(|token| SessionRow {
                token,
                csrf: row.csrf,
                expires_at: Timestamp::from_micros(row.expires_at),
            }))
        })
        .await
    }

    /// Ends a session, if there is one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn session_delete(&self, hash: &str, audit: Option<NewAudit>) -> Result<(), Error> {
        timed(Operation::SessionDelete, async {
            let txn = self.begin().await?;
            let done = sessions::Entity::delete_by_id(hash.to_owned()).exec(&txn).await;
            if done.map_err(Error::database("end a session"))?.rows_affected == 0 {
                return Ok(());
            }
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await
        })
        .await
    }

    /// Keeps a new login link, and removes those that have expired.
    ///
    /// # Errors
    /// When the database does not answer, or there is no such token.
    pub async fn login_link_create(
        &self,
        hash: &str,
        token: TokenId,
        expires_at: Timestamp,
    ) -> Result<(), Error> {
        timed(Operation::LoginLinkCreate, async {
            let txn = self.begin().await?;
            login_links::Entity::delete_many()
                .filter(login_links::Column::ExpiresAt.lte(self.now().as_micros()))
                .exec(&txn)
                .await
                .map_err(Error::database("remove expired login links"))?;
            let row = login_links::Model {
                hash: hash.to_owned(),
                token_id: token.0,
                expires_at: expires_at.as_micros(),
            };
            row.into_active_model()
                .reset_all()
                .insert(&txn)
                .await
                .map_err(Error::database("write a login link"))?;
            commit(txn).await
        })
        .await
    }

    /// Uses up a login link; `None`: there is none, it has expired, or it was used before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn login_link_take(&self, hash: &str) -> Result<Option<TokenRow>, Error> {
        timed(Operation::LoginLinkTake, async {
            let txn = self.begin().await?;
            let Some(link) = login_links::Entity::find_by_id(hash.to_owned())
                .one(&txn)
                .await
                .map_err(Error::database("find a login link"))?
            else {
                return Ok(None);
            };
            // Of two who have read it, only one deletes it.
            let deleted = login_links::Entity::delete_by_id(hash.to_owned())
                .exec(&txn)
                .await
                .map_err(Error::database("use up a login link"))?;
            let good = deleted.rows_affected == 1 && link.expires_at > self.now().as_micros();
            let token = if good { token_by_id(&txn, link.token_id).await? } else { None };
            commit(txn).await?;
            Ok(token)
        })
        .await
    }
}

async fn token_by_id(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<TokenRow>, Error> {
    let row =
        tokens::Entity::find_by_id(id).one(conn).await.map_err(Error::database("read a token"))?;
    Ok(row.map(token_row))
}

fn token_row(row: tokens::Model) -> TokenRow {
    TokenRow { id: TokenId(row.id), name: row.name }
}
