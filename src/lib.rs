//! Drover: node-local volumes with snapshots and incremental, deduplicated backups, in Longhorn's API and store format.
//!
//! Imports point one way: `cli` → `controllers`, `agent` → `crd`; `agent` and `controllers` → `backupstore`;
//! `agent` → `engine`. `backupstore`, `engine` and `schedule` know no Kubernetes.

// The volume in memory that unit and integration tests share names this crate from outside.
#[cfg(test)]
extern crate self as drover;

pub mod agent;
pub mod backupstore;
pub mod cli;
pub mod controllers;
pub mod crd;
pub mod engine;
pub mod metrics;
pub mod names;
pub mod schedule;
pub mod telemetry;
pub mod web;
