//! When jobs run and what they keep: pure functions of (spec, history, now).
//!
//! Knows no Kubernetes and no clock: the present is an argument.

pub mod cron;
mod cron_fields;
pub mod retention;

pub use cron::{CronError, Schedule};
pub use retention::{Decision, Item, ItemState, Reason, retain};
