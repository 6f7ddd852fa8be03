//! The store on a real SQLite file.

mod access;
mod applying;
mod claiming;
mod listing;
mod output;
mod packages;
mod records;
mod schema;
