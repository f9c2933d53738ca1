//! One binary, a module per promise, on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod agent_backup;
mod agent_crash;
mod agent_rig;
mod agent_store;
mod cli_backup;
mod crd_admission;
mod crds;
mod driver_conformance;
mod engine_crash;
mod engine_model;
mod engine_pool;
mod engine_snapshots;
mod engine_volumes;
mod golden;
mod layering;
mod manager_jobs;
mod manager_rig;
mod manager_targets;
mod manager_teardown;
mod s3_minio;
mod s3_strict;
mod store_local;
mod store_verify;
mod support_selftest;
mod system_crash;
mod system_jobs;
mod system_rig;
mod system_swap;
