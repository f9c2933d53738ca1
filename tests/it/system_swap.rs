//! A store that is swapped for another one under a running schedule.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::agent_rig::{MI, SOON, TRANSFER, sum, write_random};
use crate::support::eventually_blocking;
use crate::support::minio::BUCKET;
use crate::system_rig::System;

const SIZE: u64 = 64 * MI;
const JOB: &str = "nightly";

/// Puts another store, an empty one, in the place of the target's, or the right one back.
fn swap(system: &mut System, back: bool) {
    let minio = &mut system.rig.minio;
    let (bucket, aside) = (minio.data().join(BUCKET), minio.data().parent().unwrap().join("aside"));
    minio.stop();
    if back {
        fs::remove_dir_all(&bucket).unwrap();
        fs::rename(&aside, &bucket).unwrap();
    } else {
        let owner = fs::metadata(&bucket).unwrap();
        fs::rename(&bucket, &aside).unwrap();
        fs::create_dir(&bucket).unwrap();
        chown(&bucket, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    minio.resume();
}

fn backups(system: &System) -> Vec<Value> {
    let mut backups = system.rig.cluster.list("backups.longhorn.io");
    backups.sort_by_key(|backup| backup["metadata"]["creationTimestamp"].as_str().unwrap().to_owned());
    backups
}

/// The first minute of the hour before the last full one, and a schedule that leaves that hour alone.
fn quiet_hour() -> (Timestamp, String) {
    let now = Timestamp::now().as_second();
    let first = Timestamp::from_second(now - now % 60 - 7200).unwrap();
    let never = (first - SignedDuration::from_hours(1)).to_zoned(jiff::tz::TimeZone::UTC);
    (first, format!("{} {} * * *", never.minute(), never.hour()))
}

#[test]
fn nothing_completes_in_a_foreign_store_and_nothing_is_retired_for_it() {
    let mut system = System::start(1024 * MI);
    let device = system.attached_volume("data", SIZE, Some(JOB), "");
    let (first, never) = quiet_hour();
    system.job(JOB, &never, 1);
    write_random(&device, 0, 16 * MI);
    system.make_due(JOB, first);
    system.run_over(JOB, first, TRANSFER);
    let [before] = backups(&system).try_into().unwrap();
    assert_eq!(before["status"]["state"], "Completed", "{before}");
    let known = system.rig.get("BackupTarget", "default")["status"]["storeID"].as_str().unwrap().to_owned();

    swap(&mut system, false);
    write_random(&device, 16 * MI, 4 * MI);
    let wanted = sum(&device);
    let second = first + SignedDuration::from_mins(1);
    system.make_due(JOB, second);
    let waiting = eventually_blocking(SOON, "the second backup says what is wrong with the store", || {
        let all = backups(&system);
        let words = all.get(1).and_then(|backup| backup["status"]["messages"]["error"].as_str()).unwrap_or_default();
        let named = words.contains(&known) && words.contains("no store id");
        if named { Ok(all[1].clone()) } else { Err(format!("{all:?}")) }
    });
    assert_eq!(system.rig.minio.keys(), Vec::<String>::new(), "nothing goes into the foreign store");
    let kept = &backups(&system)[0];
    assert_eq!(kept["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(kept["metadata"]["deletionTimestamp"].is_null(), "{kept}");
    assert!(system.rig.events(JOB, "Retired").is_empty());

    swap(&mut system, true);
    let status = system.run_over(JOB, second, TRANSFER);
    assert_eq!(status["lastRun"]["outcome"], "Succeeded", "{status}");
    let newest = waiting["metadata"]["name"].as_str().unwrap();
    let done = system.rig.wait("Backup", newest, "state", "Completed", TRANSFER);
    // Incremental: most of its blocks are the first backup's.
    assert_eq!(done["status"]["bytesTotal"], 4 * MI, "{done}");
    let url = done["status"]["url"].as_str().unwrap();
    assert_eq!(sum(&system.attached_volume("restored", SIZE, None, url)), wanted);
    assert_eq!(system.rig.get("BackupTarget", "default")["status"]["storeID"], known.as_str());
}
