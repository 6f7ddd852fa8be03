//! Short names for the kinds of columns that the tables are made of.

use sea_orm_migration::prelude::{
    Alias, ColumnDef, Expr, ExprTrait, ForeignKey, ForeignKeyCreateStatement, Index,
    IndexCreateStatement, IntoIden, TableCreateStatement,
};
use sea_orm_migration::sea_orm::DbBackend;

/// An id.
pub(crate) fn id(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).uuid().not_null().take()
}

/// An id that may be absent.
pub(crate) fn id_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).uuid().null().take()
}

/// A word of Capstan's own.
pub(crate) fn word(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).string_len(40).not_null().take()
}

/// A word of Capstan's own that may be absent.
pub(crate) fn word_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).string_len(40).null().take()
}

/// A name that comes from outside and may be part of an index.
pub(crate) fn name(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).string_len(255).not_null().take()
}

/// A name from outside that may be absent.
pub(crate) fn name_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).string_len(255).null().take()
}

/// Text of any length.
pub(crate) fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

/// Text of any length that may be absent.
pub(crate) fn text_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().null().take()
}

/// Bytes that may be absent.
pub(crate) fn bytes_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).blob().null().take()
}

/// A small number.
pub(crate) fn number(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).integer().not_null().take()
}

/// A small number that may be absent.
pub(crate) fn number_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).integer().null().take()
}

/// A number that grows, or an instant.
pub(crate) fn big(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

/// A large number or an instant that may be absent.
pub(crate) fn big_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

/// Yes or no.
pub(crate) fn flag(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).boolean().not_null().take()
}

/// Keeps a table's rows in the order of its primary key, in one tree with it: rows that are written
/// with every stage of a release then cost one search each. MySQL does so by itself, PostgreSQL has
/// no such thing.
pub(crate) fn by_key(mut table: TableCreateStatement, backend: DbBackend) -> TableCreateStatement {
    if backend == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
    table
}

/// A CHECK that a column holds one of these words.
pub(crate) fn one_of(column: &'static str, words: &[&'static str]) -> Expr {
    Expr::col(column).is_in(words.iter().copied())
}

/// A reference to the id of another table.
pub(crate) fn refers(
    table: &'static str,
    column: &'static str,
    to: &'static str,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(format!("fk_{table}_{column}"))
        .from(Alias::new(table), column.into_iden())
        .to(Alias::new(to), "id".into_iden())
        .take()
}

/// A primary key over several columns.
pub(crate) fn key(columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    for column in columns {
        index.col(*column);
    }
    index.primary().take()
}

/// An index, and the table that it is over.
pub(crate) type NamedIndex = (&'static str, IndexCreateStatement);

/// An index whose name says what it is over.
pub(crate) fn index(table: &'static str, columns: &[&'static str]) -> NamedIndex {
    (table, over("ix", table, columns))
}

/// A unique index whose name says what it is over.
pub(crate) fn unique(table: &'static str, columns: &[&'static str]) -> NamedIndex {
    (table, over("ux", table, columns).unique().take())
}

fn over(kind: &str, table: &'static str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(format!("{kind}_{table}_{}", columns.join("_"))).table(table);
    for column in columns {
        index.col(*column);
    }
    index.take()
}
