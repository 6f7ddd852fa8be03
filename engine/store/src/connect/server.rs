//! A database server: PostgreSQL, MySQL or MariaDB.
//!
//! Many processes write at once. What keeps their decisions about one group apart is the version in
//! the group's row, compared and raised by every change: whoever comes second waits for the row, finds
//! another version and decides anew. Rows that stand for one thing are taken with `SKIP LOCKED` where
//! several want any of them (due effects). Transactions see the last commit of others (READ COMMITTED
//! on both, which is not MySQL's default): the version is compared anyway, and locks on gaps between
//! rows, which MySQL takes above that level, would make strangers wait for each other.

use std::str::FromStr;
use std::time::Duration;

use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection};
use sea_orm::sqlx::{self, Executor, Row};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend};

use super::{ACQUIRE_TIMEOUT, Opened, bring_up_to_date, version};
use crate::Error;
use crate::bulk::sql;

/// Connections of one process for requests.
const CONNECTIONS: u32 = 8;
/// Those for what is decided: a round is written while the next one reads.
const DECIDING: u32 = 3;
/// Those on which it tells that it lives. One that hangs is given up, and another takes its place.
const BEATING: u32 = 4;
/// How long a connection that is given back may take to answer; one whose server is gone never does.
const ANSWER: Duration = Duration::from_secs(2);
/// An idle connection is asked whether it still lives before it is used again after so long.
const IDLE: Duration = Duration::from_secs(5);
/// How long a server may take to let a connection in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A process that is frozen, or gone without a word, in the middle of a transaction must not keep others
/// from its rows: the server ends its transaction, and nobody waits for long. What is dead at the other
/// end of the line is noticed in seconds and not in hours.
const POSTGRES_BOUNDS: [(&str, &str); 6] = [
    ("idle_in_transaction_session_timeout", "2s"),
    ("lock_timeout", "2s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
];
/// What is decided is written by key, many rows at once. A plan for just these rows would be made anew each time, and
/// one that is made while a table is small reads all of it, also once it is large: from its pages, or from an index
/// that it joins with the rows at hand.
const BY_KEY: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];
/// Statements kept ready per connection. On MySQL the number of rows is part of a statement's text.
const STATEMENTS: usize = 256;

/// Connects to PostgreSQL.
pub(super) async fn open_postgres(url: &str) -> Result<Opened, Error> {
    let parsed = PgConnectOptions::from_str(url).map_err(|_| Error::url(CANNOT_BE_READ))?;
    let database = parsed.get_database().ok_or_else(|| Error::url(NO_DATABASE))?;
    let database = format!("{database} at {}:{}", parsed.get_host(), parsed.get_port());
    opened(postgres(url, &[]), postgres(url, BY_KEY), database).await
}

fn postgres(url: &str, more: &'static [(&str, &str)]) -> ConnectOptions {
    let mut options = options(url);
    options
        .map_sqlx_postgres_opts(move |options| {
            options
                .application_name("capstan")
                .statement_cache_capacity(STATEMENTS)
                .options(POSTGRES_BOUNDS)
                .options(more.iter().copied())
        })
        .map_sqlx_postgres_pool_opts(|options| {
            options.after_release(|connection, _| Box::pin(is_free(connection)))
        });
    options
}

/// A session of MySQL that hears nothing for so long ends, and with it the lock that it may have
/// ([`crate::claims::wait_for_claims`]): a line that is cut without a word would keep it for hours.
const MYSQL_SILENCE: &str = "SET SESSION wait_timeout = 60";
/// Connections that nobody uses are closed before their server does it.
const MYSQL_IDLE: Duration = Duration::from_secs(20);

/// Connects to MySQL or MariaDB.
pub(super) async fn open_mysql(url: &str) -> Result<Opened, Error> {
    let parsed = MySqlConnectOptions::from_str(url).map_err(|_| Error::url(CANNOT_BE_READ))?;
    let database = parsed.get_database().ok_or_else(|| Error::url(NO_DATABASE))?;
    let database = format!("{database} at {}:{}", parsed.get_host(), parsed.get_port());
    let mut options = options(url);
    options
        .idle_timeout(MYSQL_IDLE)
        .map_sqlx_mysql_opts(|options| options.statement_cache_capacity(STATEMENTS))
        .map_sqlx_mysql_pool_opts(|options| {
            let options = options.after_release(|connection, _| Box::pin(ends_all(connection)));
            options.after_connect(|connection, _| {
                Box::pin(async move {
                    let level = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
                    connection.execute(level).await?;
                    let wait = "SET SESSION innodb_lock_wait_timeout = 2";
                    connection.execute(wait).await?;
                    connection.execute(MYSQL_SILENCE).await?;
                    // MariaDB has it, MySQL does not: there a frozen process can keep its locks for
                    // as long as its session may be silent.
                    let idle = "SET SESSION idle_transaction_timeout = 2";
                    if let Err(error) = connection.execute(idle).await {
                        tracing::debug!(%error, "the server ends no idle transactions");
                    }
                    Ok(())
                })
            })
        });
    let decider = options.clone();
    opened(options, decider, database).await
}

const CANNOT_BE_READ: &str = "cannot be read";
const NO_DATABASE: &str = "names no database";

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(CONNECTIONS)
        .connect_timeout(CONNECT_TIMEOUT)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire_if_idle_for(IDLE)
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    options
}

async fn opened(
    options: ConnectOptions,
    decider: ConnectOptions,
    database: String,
) -> Result<Opened, Error> {
    let connect = async |options: &ConnectOptions, connections: u32| {
        let mut options = options.clone();
        options.max_connections(connections);
        let failed = |source| Error::Connect { database: database.clone(), source };
        Database::connect(options).await.map_err(failed)
    };
    let writer = connect(&options, CONNECTIONS).await?;
    let decider = connect(&decider, DECIDING).await?;
    let beats = connect(&options, BEATING).await?;
    // Its lock is not let go of between two statements.
    let mut keeps_lock = options.clone();
    keeps_lock.idle_timeout(None).map_sqlx_mysql_pool_opts(|options| options);
    let turn = connect(&keeps_lock, 1).await?;
    version::check(&turn, &database).await?;
    wait_for_turn(&turn).await?;
    let migrated = bring_up_to_date(&writer, &database).await?;
    turn.close().await.map_err(Error::database("say that the schema is up to date"))?;
    let reader = writer.clone();
    Ok(Opened { writer, reader, decider, migrated, beats: Some(beats), lock: None })
}

/// Whether a connection of PostgreSQL that is given back answers and is in no transaction, which its driver may not
/// know of: in one, a statement is later than its transaction.
async fn is_free(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let text = "SELECT now() = statement_timestamp()";
    let answer = tokio::time::timeout(ANSWER, connection.fetch_one(text)).await;
    answer.unwrap_or(Err(sqlx::Error::PoolTimedOut))?.try_get(0)
}

/// A transaction whose caller went away while it began is open at the server, and the driver, which counts
/// it once it has begun, does not know: what the next user of the connection writes would be in it, and be
/// lost with it. (Most begin to their end, see `inner`; what a library begins may not.) Locks by name outlive
/// transactions.
async fn ends_all(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    let text = "ROLLBACK; DO RELEASE_ALL_LOCKS()";
    answers(async { connection.execute(text).await.map(|_| ()) }).await
}

/// Whether a connection that is given back may be used again. The pool asks as well, and would wait for the
/// answer as long as the network lets it.
async fn answers(
    asked: impl Future<Output = Result<(), sqlx::Error>>,
) -> Result<bool, sqlx::Error> {
    let answer = tokio::time::timeout(ANSWER, asked).await;
    answer.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut)).map(|()| true)
}

/// Processes that start at the same time bring the schema up to date one after the other. The turn belongs to
/// the connection, and ends with it.
async fn wait_for_turn(turn: &DatabaseConnection) -> Result<(), Error> {
    let waited = || Error::database("wait until the schema is up to date");
    if turn.get_database_backend() == DbBackend::Postgres {
        // The number is "capstan" in bytes.
        for statement in ["SET lock_timeout = '300s'", "SELECT pg_advisory_lock(27973158295593326)"]
        {
            turn.execute_unprepared(statement).await.map_err(waited())?;
        }
        return Ok(());
    }
    // Such locks are the server's: other databases on it have their own.
    let text = "SELECT GET_LOCK(LEFT(CONCAT('capstan.', DATABASE()), 64), 300) AS taken";
    let row = turn.query_one_raw(sql(turn, text, [])).await.map_err(waited())?;
    let taken: Option<i64> =
        row.map(|row| row.try_get("", "taken")).transpose().map_err(waited())?.flatten();
    if taken == Some(1) { Ok(()) } else { Err(Error::Contended) }
}
