//! Roles that are killed, or frozen for longer than a lock lives, at random moments of backup, restore, deletion and retention.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drover::backupstore::lock::Timings;
use drover::backupstore::progress::Progress;
use drover::backupstore::restore::RestoreRequest;
use drover::backupstore::{Store, driver};
use drover::crd::names;
use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::agent_rig::{MI, SOON, TRANSFER, sum, write_random};
use crate::support::eventually_blocking;
use crate::support::image::Image;
use crate::support::proxy::{Fault, Verb};
use crate::support::random::Random;
use crate::system_rig::System;

const SIZE: u64 = 64 * MI;
const VOLUMES: [&str; 2] = ["va", "vb"];
const JOB: &str = "crash";
const RETAIN: usize = 3;
/// The locks of these tests live three seconds.
const FROZEN: Duration = Duration::from_secs(4);
/// Frozen roles and expired locks are waited for.
const RUN: Duration = Duration::from_secs(240);

/// What there should be.
struct Rounds {
    system: System,
    random: Random,
    devices: BTreeMap<&'static str, PathBuf>,
    /// Of each volume the backups, oldest first, with the sum of what they hold.
    kept: BTreeMap<&'static str, Vec<(String, String)>>,
    made: BTreeSet<String>,
    first_minute: Timestamp,
}

/// What goes on beside the run of a round.
#[derive(Default)]
struct Beside {
    /// A volume that is being restored, with the sum it must have.
    restoring: Option<(String, String)>,
}

#[test]
fn killed_or_frozen_at_random_every_backup_restores_and_no_run_is_doubled_or_lost() {
    let rounds: usize = std::env::var("DROVER_SOAK_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let mut test = Rounds::start(Random::seeded("killed_or_frozen_at_random"));
    for round in 0..rounds {
        test.round(round);
    }
}

impl Rounds {
    fn start(random: Random) -> Self {
        let system = System::start(4096 * MI);
        // Never fires by the clock: `make_due` sets each round's minute, all of them within the hour that began two hours ago.
        let now = Timestamp::now().as_second();
        let first_minute = Timestamp::from_second(now - now % 60 - 7200).unwrap();
        let devices = VOLUMES.map(|volume| (volume, system.attached_volume(volume, SIZE, Some(JOB), ""))).into();
        let never = (first_minute - SignedDuration::from_hours(1)).to_zoned(jiff::tz::TimeZone::UTC);
        system.job(JOB, &format!("{} {} * * *", never.minute(), never.hour()), RETAIN);
        // Slow enough that a backup has a middle to be hit in.
        system.rig.proxy.inject(Fault::Delay(Duration::from_millis(30)), usize::MAX, |_, target| target.contains("/volumes/"));
        Self { system, random, devices, kept: BTreeMap::new(), made: BTreeSet::new(), first_minute }
    }

    fn round(&mut self, round: usize) {
        println!("round {round}");
        let at = self.first_minute + SignedDuration::from_mins(i64::try_from(round % 50).unwrap());
        self.change_volumes();
        self.system.rig.proxy.forget();
        self.system.make_due(JOB, at);
        let beside = self.begin_beside(round);
        self.expect_run(at);
        for _ in 0..=self.random.below(2) {
            self.trouble();
        }
        let status = self.system.run_over(JOB, at, RUN);
        assert_eq!(status["lastRun"]["outcome"], "Succeeded", "{status}");
        assert_eq!(status["executionCount"], round + 1, "{status}");
        self.end_beside(beside);
        self.check();
    }

    fn change_volumes(&mut self) {
        for device in self.devices.values() {
            let (offset, length) = (self.random.below(32) * MI, (8 + self.random.below(24)) * MI);
            write_random(device, offset, length);
        }
    }

    /// What the run of `at` adds, and what retention takes away for it.
    fn expect_run(&mut self, at: Timestamp) {
        let job = self.uid("RecurringJob", JOB);
        for (volume, device) in &self.devices {
            let names = names::run_names(&job, &self.uid("Volume", volume), at);
            let kept = self.kept.entry(volume).or_default();
            kept.push((names.backup.clone(), sum(device)));
            kept.drain(..kept.len().saturating_sub(RETAIN));
            self.made.insert(names.backup);
        }
    }

    fn uid(&self, kind: &str, name: &str) -> String {
        self.system.rig.get(kind, name)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Begins a restore of the newest backup of one volume, and deletes the oldest one of the other.
    fn begin_beside(&mut self, round: usize) -> Beside {
        let mut beside = Beside::default();
        let which = round % VOLUMES.len();
        if let Some((backup, sum)) = self.kept.get(VOLUMES[which]).and_then(|kept| kept.last()) {
            let url = self.system.rig.get("Backup", backup)["status"]["url"].as_str().unwrap().to_owned();
            let name = format!("restored-{round}");
            self.system.rig.apply(&restored_volume(&name, &self.system.rig.node, &url));
            beside.restoring = Some((name, sum.clone()));
        }
        if let Some(kept) = self.kept.get_mut(VOLUMES[1 - which])
            && kept.len() == RETAIN
        {
            let (backup, _) = kept.remove(0);
            self.system.rig.kubectl(&["delete", "backups.longhorn.io", &backup, "--wait=false"]);
        }
        beside
    }

    /// Kills or freezes one role after a random number of requests to the store.
    fn trouble(&mut self) {
        let after = usize::try_from(self.random.below(80)).unwrap();
        let patience = Duration::from_millis(500 + self.random.below(4000));
        let since = std::time::Instant::now();
        eventually_blocking(SOON, "some requests were made, or none for a while", || {
            let made = self.system.rig.proxy.seen().len();
            if made >= after || since.elapsed() >= patience { Ok(()) } else { Err(made) }
        });
        let role = if self.random.below(3) == 0 { &mut self.system.manager } else { &mut self.system.rig.agent };
        if self.random.below(2) == 0 {
            println!("  kill -9 of {} after {after} requests", role.name());
            role.restart();
        } else {
            println!("  SIGSTOP of {} after {after} requests", role.name());
            role.process.signal(Signal::STOP);
            std::thread::sleep(FROZEN);
            role.process.signal(Signal::CONT);
        }
    }

    fn end_beside(&mut self, beside: Beside) {
        let Some((volume, wanted)) = beside.restoring else { return };
        self.system.rig.wait("Volume", &volume, "state", "attached", TRANSFER);
        assert_eq!(sum(&self.system.rig.device(&volume)), wanted, "{volume}");
        self.system.rig.kubectl(&["delete", "volumes.longhorn.io", &volume, "--wait=false"]);
        self.system.rig.wait_gone("Volume", &volume);
    }

    /// The objects and the store hold what they should and nothing else, and every backup in the store has its content.
    fn check(&self) {
        let wanted: BTreeSet<String> = self.kept.values().flatten().map(|(backup, _)| backup.clone()).collect();
        eventually_blocking(RUN, "retention and deletions are done", || {
            let objects: BTreeSet<String> = self.system.names("backups").into_iter().collect();
            let stored = self.stored();
            if objects == wanted && stored == wanted { Ok(()) } else { Err(format!("{wanted:?}: {objects:?}, {stored:?}")) }
        });
        let seen = self.system.rig.proxy.seen();
        let written: BTreeSet<String> =
            seen.iter().filter(|seen| seen.verb() == Verb::Put).filter_map(|seen| backup_of(&seen.target)).collect();
        assert!(written.is_subset(&self.made), "{written:?} and {:?}", self.made);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let store = self.store();
        for (volume, kept) in &self.kept {
            for (backup, sum) in kept {
                let image = Image::blank(usize::try_from(SIZE).unwrap());
                let request = RestoreRequest { volume: volume.parse().unwrap(), backup: backup.parse().unwrap() };
                let restore = store.restore(request, image.clone(), Arc::new(Progress::default()), CancellationToken::new());
                runtime.block_on(restore).unwrap_or_else(|error| panic!("{backup}: {error}"));
                assert_eq!(&hex::encode(Sha256::digest(image.data())), sum, "{backup}");
            }
        }
    }

    fn stored(&self) -> BTreeSet<String> {
        self.system.rig.minio.keys().iter().filter_map(|key| backup_of(key)).collect()
    }

    /// The store, past the slow proxy.
    fn store(&self) -> Store {
        let credentials = self.system.rig.minio.credentials(&[]);
        let driver = driver::open(&"s3://backupbucket@us-east-1/".parse().unwrap(), Some(&credentials)).unwrap();
        let ms = Duration::from_millis;
        Store::new(driver, Timings { settle: ms(50), refresh: ms(1000), fence: ms(2000), expiry: ms(3000) })
    }
}

/// The backup whose config this key or request is about.
fn backup_of(key: &str) -> Option<String> {
    let name = key.split('?').next()?.rsplit('/').next()?;
    name.strip_prefix("backup_")?.strip_suffix(".cfg").map(str::to_owned)
}

fn restored_volume(name: &str, node: &str, url: &str) -> String {
    serde_json::json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Volume", "metadata": { "name": name },
        "spec": { "size": SIZE.to_string(), "numberOfReplicas": 1, "nodeID": node, "fromBackup": url },
    })
    .to_string()
}
