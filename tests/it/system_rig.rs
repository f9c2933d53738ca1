//! All of Drover at once: a manager and an agent as processes of their own, with everything they work with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::agent_rig::{LOCKS, Rig, SOON, TRANSFER};
use crate::support::eventually_blocking;
use crate::support::roles::{self, Role};

/// Dropped in this order.
pub struct System {
    pub manager: Role,
    pub rig: Rig,
}

impl System {
    /// A cluster, a MinIO, and a node whose pool has `pool` bytes.
    pub fn start(pool: u64) -> Self {
        let rig = Rig::start(pool);
        let manager = roles::manager(&rig.cluster, "manager", &[LOCKS]);
        let system = Self { manager, rig };
        eventually_blocking(SOON, "the target is available", || {
            let target = system.rig.get("BackupTarget", "default");
            // The rig says that it is available; only the manager knows which store it is.
            if target["status"]["available"] == true && target["status"]["storeID"].is_string() {
                Ok(())
            } else {
                Err(target["status"].to_string())
            }
        });
        system
    }

    /// Applies a Volume that is to be attached, as a user writes it; its device.
    pub fn attached_volume(&self, name: &str, size: u64, job: Option<&str>, from_backup: &str) -> PathBuf {
        let mut labels = BTreeMap::new();
        if let Some(job) = job {
            labels.insert(format!("recurring-job.longhorn.io/{job}"), "enabled");
        }
        let volume = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Volume", "metadata": { "name": name, "labels": labels },
            "spec": { "size": size.to_string(), "numberOfReplicas": 1, "nodeID": self.rig.node, "fromBackup": from_backup },
        });
        self.rig.apply(&volume.to_string());
        self.rig.wait("Volume", name, "state", "attached", TRANSFER);
        self.rig.device(name)
    }

    /// Applies a job of backups.
    pub fn job(&self, name: &str, cron: &str, retain: usize) {
        let job = json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "RecurringJob", "metadata": { "name": name },
            "spec": { "task": "backup", "cron": cron, "retain": retain },
        });
        self.rig.apply(&job.to_string());
    }

    /// Lets the job's next time be `at`, a past minute: its run begins at once.
    pub fn make_due(&self, job: &str, at: Timestamp) {
        let wall = at.to_zoned(jiff::tz::TimeZone::UTC);
        self.rig.patch(
            "recurringjobs",
            job,
            &[],
            &json!({ "spec": { "cron": format!("{} {} * * *", wall.minute(), wall.hour()) } }),
        );
        eventually_blocking(SOON, "the job was seen with its new schedule", || {
            let object = self.rig.get("RecurringJob", job);
            let next: Option<Timestamp> = object["status"]["nextScheduleAt"].as_str().and_then(|time| time.parse().ok());
            let minute = next.map(|next| next.to_zoned(jiff::tz::TimeZone::UTC).minute());
            if minute == Some(wall.minute()) { Ok(()) } else { Err(object["status"].to_string()) }
        });
        self.rig.patch("recurringjobs", job, &["--subresource=status"], &json!({ "status": { "nextScheduleAt": at } }));
    }

    /// Waits until the run of `at` is over; the job's status.
    pub fn run_over(&self, job: &str, at: Timestamp, within: Duration) -> Value {
        eventually_blocking(within, &format!("the run of {at} is over"), || {
            let status = self.rig.get("RecurringJob", job)["status"].take();
            let run = &status["lastRun"];
            let is_it = run["scheduledAt"].as_str().and_then(|time| time.parse().ok()) == Some(at);
            if is_it && run["finishedAt"].is_string() { Ok(status) } else { Err(status.to_string()) }
        })
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let objects = self.rig.cluster.list(&format!("{kind}.longhorn.io"));
        objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}
