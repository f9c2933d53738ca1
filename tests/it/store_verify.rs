//! Proof that a backup restores, without restoring it: what is good is said to be, what is lost is named to the byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::scratch::Scratch;
use crate::support::{run, try_run};

const MI: usize = 1 << 20;

fn drover(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command.args(args);
    command
}

/// A store with two backups of one volume of four blocks; the second differs in the last block.
fn store() -> (Scratch, String) {
    let folder = Scratch::new("verify");
    let target = format!("file://{}/store/", folder.display());
    fs::create_dir(folder.join("store")).unwrap();
    let image = folder.join("image");
    let mut data: Vec<u8> = (0..8 * MI).map(|i| (i / (2 * MI) + 1) as u8).collect();
    // The second block is the first one again.
    data.copy_within(0..2 * MI, 2 * MI);
    for name in ["backup-one", "backup-two"] {
        fs::write(&image, &data).unwrap();
        let image = image.display().to_string();
        run(&mut drover(&["backup", "create", "--target", &target, "--volume", "vol-1", "--name", name, &image]));
        data[8 * MI - 1] = 99;
    }
    (folder, target)
}

fn blocks(folder: &Path) -> Vec<PathBuf> {
    let found = run(Command::new("find").arg(folder.join("store")).args(["-name", "*.blk"]));
    let mut found: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    found.sort();
    found
}

/// The rows of `verify -o json`, and whether the command called everything good.
fn verify(target: &str, more: &[&str]) -> (Value, bool) {
    let output = drover(&[&["backup", "verify", "-o", "json"], more, &[target]].concat()).output().unwrap();
    let rows = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (rows, output.status.success())
}

#[test]
fn a_store_is_listed_and_inspected_without_a_cluster() {
    let (_folder, target) = store();
    let table = run(&mut drover(&["backup", "ls", &target]));
    assert!(table.starts_with("VOLUME"), "{table}");
    assert_eq!(table.matches("Completed").count(), 2, "{table}");
    let rows: Value = serde_json::from_str(&run(&mut drover(&["backup", "ls", "-o", "json", &target]))).unwrap();
    assert_eq!(rows[0]["backup"], "backup-one");
    assert_eq!(rows[1]["volumeSize"], 8 * MI);
    let url = rows[1]["url"].as_str().unwrap();
    assert_eq!(url, format!("{target}?backup=backup-two&volume=vol-1"));
    let yaml = run(&mut drover(&["backup", "inspect", "-o", "yaml", url]));
    assert!(yaml.contains("incremental: true") && yaml.contains("backup: backup-two"), "{yaml}");
}

#[test]
fn what_is_lost_is_named_to_the_byte_and_only_where_it_is_needed() {
    let (folder, target) = store();
    for depth in [&[][..], &["--read-data"]] {
        let (rows, good) = verify(&target, depth);
        assert!(good && rows.as_array().unwrap().iter().all(|row| row["good"] == true), "{rows}");
    }
    // The block that both need, in two places.
    let shared = blocks(&folder);
    assert_eq!(shared.len(), 4);
    let needed_by = |block: &PathBuf| {
        let config =
            run(Command::new("find").arg(folder.join("store")).args(["-name", "backup_*.cfg", "-exec", "cat", "{}", ";"]));
        config.matches(block.file_stem().unwrap().to_str().unwrap()).count()
    };
    let twice = shared.iter().find(|block| needed_by(block) == 4).unwrap();
    let once = shared.iter().find(|block| needed_by(block) == 1).unwrap();

    // A flipped byte is seen by reading only, a missing block at once.
    let mut bytes = fs::read(twice).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(twice, &bytes).unwrap();
    assert!(verify(&target, &[]).1);
    let (rows, good) = verify(&target, &["--read-data"]);
    assert!(!good);
    for row in rows.as_array().unwrap() {
        assert_eq!(row["damage"][0]["ranges"], serde_json::json!([[0, 4 * MI]]), "{row}");
    }
    fs::remove_file(once).unwrap();
    let (rows, good) = verify(&target, &["--volume", "vol-1"]);
    assert!(!good);
    let damaged: Vec<&Value> = rows.as_array().unwrap().iter().filter(|row| row["good"] == false).collect();
    assert_eq!(damaged.len(), 1, "{rows}");
    assert_eq!(damaged[0]["damage"][0]["ranges"], serde_json::json!([[6 * MI, 8 * MI]]));
    assert_eq!(damaged[0]["damage"][0]["fault"], "missing from the store");

    // The table says the same, and the exit code is not 0.
    let words = try_run(&mut drover(&["backup", "verify", "--read-data", &target])).unwrap_err();
    assert!(words.contains("2 of 2 backups cannot be restored whole"), "{words}");
}

#[test]
fn a_damaged_config_is_said_and_the_others_are_still_looked_at() {
    let (folder, target) = store();
    let config = run(Command::new("find").arg(folder.join("store")).args(["-name", "backup_backup-one.cfg"]));
    fs::write(config.trim(), "{not json").unwrap();
    let (rows, good) = verify(&target, &["--read-data"]);
    assert!(!good);
    assert!(rows[0]["unreadable"].is_string(), "{rows}");
    assert_eq!((&rows[1]["backup"], &rows[1]["good"]), (&"backup-two".into(), &true.into()));
    assert!(run(&mut drover(&["backup", "ls", &target])).contains("Damaged: "));
}
