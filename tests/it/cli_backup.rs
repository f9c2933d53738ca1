//! `drover backup` as people call it: images and devices come back bit for bit.

use std::path::Path;
use std::process::Command;

use crate::support::minio::Minio;
use crate::support::random::scramble;
use crate::support::scratch::Scratch;
use crate::support::{command, run, try_run};

const MIB: usize = 1 << 20;

/// The binary, with nothing in its environment.
fn drover(arguments: &[&str]) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_drover"), arguments);
    command.env_clear();
    command
}

fn create(target: &str, image: &Path) -> Command {
    let mut command = drover(&["backup", "create", "--volume", "pvc-1", "--name", "backup-1", "--target", target]);
    command.arg(image);
    command
}

fn restore(target: &str, image: &Path) -> Command {
    let mut command = drover(&["backup", "restore", &format!("{target}?backup=backup-1&volume=pvc-1")]);
    command.arg(image);
    command
}

/// A folder with an empty store in it, and the store's URL.
fn folder_store() -> (Scratch, String) {
    let folder = Scratch::new("cli-backup");
    std::fs::create_dir(folder.join("store")).unwrap();
    let target = format!("file://{}/store/", folder.display());
    (folder, target)
}

/// Bytes that no method compresses.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(8) as u64).flat_map(|i| scramble(seed ^ (i << 20)).to_le_bytes()).take(bytes).collect()
}

fn assert_same(one: &Path, other: &Path) {
    run(command("cmp", &[]).arg(one).arg(other));
}

#[test]
fn an_image_of_any_length_comes_back_bit_for_bit() {
    let (folder, target) = folder_store();
    let (image, back) = (folder.join("image"), folder.join("back"));
    std::fs::write(&image, noise(1, 5_000_001)).unwrap();
    run(&mut create(&target, &image));
    run(&mut restore(&target, &back));
    assert_same(&image, &back);
}

#[test]
fn a_block_device_is_backed_up_whole() {
    let (folder, target) = folder_store();
    let (image, back) = (folder.join("image"), folder.join("back"));
    std::fs::write(&image, noise(2, 9766 * 512)).unwrap();
    let device = run(command("losetup", &["--find", "--show", "--read-only"]).arg(&image));
    run(&mut create(&target, Path::new(device.trim())));
    run(&mut restore(&target, &back));
    assert_same(&image, &back);
}

#[test]
fn a_folder_is_used_whatever_the_shells_environment_says_of_s3() {
    let (folder, target) = folder_store();
    let image = folder.join("image");
    std::fs::write(&image, noise(3, MIB)).unwrap();
    run(create(&target, &image).envs([("HTTPS_PROXY", "proxy:3128"), ("AWS_ACCESS_KEY_ID", "half a pair")]));
}

/// The user's keys in the environment, `extra` ones added or replaced.
fn keys(minio: &Minio, extra: &[(&str, &str)]) -> Vec<(String, String)> {
    minio.secret(extra).into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())).collect()
}

const BUCKET: &str = "s3://backupbucket@us-east-1/";

#[test]
fn the_token_of_temporary_keys_is_sent() {
    let minio = Minio::start();
    let folder = Scratch::new("cli-backup");
    let image = folder.join("image");
    std::fs::write(&image, noise(4, MIB)).unwrap();
    // A server that sees a token refuses one that it has not given out.
    let refused = try_run(create(BUCKET, &image).envs(keys(&minio, &[("AWS_SESSION_TOKEN", "hunter2")]))).unwrap_err();
    assert!(refused.contains("InvalidTokenId"), "{refused}");
    run(create(BUCKET, &image).envs(keys(&minio, &[])));
}
