//! `drover backup` as people call it: images and devices come back bit for bit, at the promised cost in memory and requests.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::support::minio::Minio;
use crate::support::proxy::{Proxy, Verb};
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

/// The most memory that `command` ever held, by its own account in /proc.
fn peak_memory(mut command: Command) -> u64 {
    let mut child = command.spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{:?} failed", command.get_args().collect::<Vec<&OsStr>>());
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Different blocks of [`sparse_image`].
const BLOCKS: u64 = 256;

/// 4 GiB, every eighth block of 2 MiB with data. A fourth of those is full of it, more than would fit into the promised memory.
fn sparse_image(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(4 << 30).unwrap();
    for block in 0..BLOCKS {
        let bytes = if block % 4 == 0 { 2 * MIB } else { 4096 };
        file.write_all_at(&noise(block + 1, bytes), block * 16 * MIB as u64).unwrap();
    }
}

#[test]
fn a_backup_and_restore_of_4_gib_take_at_most_128_mib_and_a_put_per_block() {
    let minio = Minio::start();
    let proxy = Proxy::to(minio.port());
    let folder = Scratch::new("cli-memory");
    let (image, back) = (folder.join("image"), folder.join("back"));
    sparse_image(&image);
    let keys = keys(&minio, &[("AWS_ENDPOINTS", &proxy.endpoint())]);
    let (mut backup, mut restore) = (create(BUCKET, &image), restore(BUCKET, &back));
    backup.envs(keys.clone());
    restore.envs(keys);

    let peak = peak_memory(backup) / MIB as u64;
    let seen = proxy.seen();
    let blocks = seen.iter().filter(|one| one.verb() == Verb::Put && one.target.contains(".blk")).count() as u64;
    println!("backup: {peak} MiB at most, {} requests, {blocks} of them PUTs of blocks", seen.len());
    assert_eq!(blocks, BLOCKS);
    assert!(seen.len() as u64 <= BLOCKS + 16, "{} requests", seen.len());
    assert!(peak <= 128, "backup: {peak} MiB");

    proxy.forget();
    let peak = peak_memory(restore) / MIB as u64;
    println!("restore: {peak} MiB at most, {} requests", proxy.seen().len());
    assert!(proxy.seen().len() as u64 <= BLOCKS + 16, "{} requests", proxy.seen().len());
    assert!(peak <= 128, "restore: {peak} MiB");
    assert_same(&image, &back);
}
