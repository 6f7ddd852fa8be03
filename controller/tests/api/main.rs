//! Drives every route in-process, over a real database and scripted ports.

mod adoption;
mod auth;
mod bad_input;
mod dependencies;
mod deployments;
mod dump;
mod engine;
mod events;
mod fakes;
mod health;
mod idempotency;
mod inbox;
mod logs;
mod matrix;
mod messages;
mod packages;
mod portal;
mod reads;
mod receiver;
mod releases;
mod scale_out;
mod sync;
mod webhooks;
mod world;
