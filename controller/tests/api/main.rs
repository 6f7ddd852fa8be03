//! Drives every route in-process, over a real database and scripted ports.

mod adoption;
mod auth;
mod bad_input;
mod deployments;
mod dump;
mod events;
mod fakes;
mod idempotency;
mod matrix;
mod packages;
mod portal;
mod reads;
mod sync;
mod world;
