//! `drover backup` as people call it: images and devices come back bit for bit.

use std::path::Path;
use std::process::Command;

use crate::support::random::scramble;
use crate::support::scratch::Scratch;
use crate::support::{command, run};

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
