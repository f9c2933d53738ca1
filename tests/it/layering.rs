//! Imports point one way, and unsafe code is where it was said to be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A folder or file of `src` and what nothing in it may name.
const FORBIDDEN: [(&str, &[&str]); 9] = [
    (
        "backupstore",
        &[
            "kube",
            "k8s_openapi",
            "crate::crd",
            "crate::controllers",
            "crate::agent",
            "crate::cli",
            "crate::web",
            "crate::engine",
            "crate::schedule",
        ],
    ),
    (
        "engine",
        &[
            "kube",
            "k8s_openapi",
            "crate::crd",
            "crate::controllers",
            "crate::agent",
            "crate::cli",
            "crate::web",
            "crate::backupstore",
            "crate::schedule",
        ],
    ),
    (
        "schedule",
        &[
            "kube",
            "k8s_openapi",
            "crate::crd",
            "crate::controllers",
            "crate::agent",
            "crate::cli",
            "crate::web",
            "crate::engine",
            "crate::backupstore",
        ],
    ),
    (
        "names.rs",
        &[
            "kube",
            "k8s_openapi",
            "crate::crd",
            "crate::controllers",
            "crate::agent",
            "crate::cli",
            "crate::web",
            "crate::engine",
            "crate::backupstore",
        ],
    ),
    ("crd", &["crate::controllers", "crate::agent", "crate::cli", "crate::web", "crate::engine"]),
    ("controllers", &["crate::agent", "crate::cli", "crate::engine"]),
    ("agent", &["crate::cli"]),
    ("web", &["crate::controllers", "crate::agent", "crate::cli", "crate::engine"]),
    ("metrics.rs", &["kube", "k8s_openapi", "crate::controllers", "crate::agent", "crate::cli", "crate::web"]),
];

/// Files that join what their layer keeps apart: the one error of both roles wraps the store's and the engine's.
const JOINTS: [&str; 1] = ["controllers/error.rs"];

const MAY_BE_UNSAFE: [&str; 2] = ["engine/sys.rs", "backupstore/sha512_lanes.rs"];

struct File {
    /// Path below `src`.
    path: String,
    text: String,
}

fn sources() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![src.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                files.push(File { path: name, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(files.len() > 20, "src was read");
    files
}

/// The code of a file, without comments: what a sentence says is no import.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

/// Whether a line names `module` as the start of a path: `use kube::Api`, `kube::Error`, `crate::crd::Volume`.
fn names(line: &str, module: &str) -> bool {
    line.match_indices(module).any(|(at, _)| {
        let starts =
            line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | ':' | '"' | '.' | '/'));
        starts && line[at + module.len()..].starts_with("::")
    })
}

/// `use crate::{agent, crd::Volume}` names the modules one by one.
fn grouped(line: &str, module: &str) -> bool {
    let (Some(name), Some((_, group))) = (module.strip_prefix("crate::"), line.split_once("crate::{")) else { return false };
    group.split([',', '}', '{']).any(|part| part.trim() == name || part.trim().starts_with(&format!("{name}::")))
}

fn is_within(path: &str, layer: &str) -> bool {
    path == layer || path.strip_prefix(layer).is_some_and(|rest| rest.starts_with('/'))
}

#[test]
fn imports_point_one_way() {
    let files = sources();
    let mut wrong = Vec::new();
    for (layer, forbidden) in FORBIDDEN {
        let inside: Vec<_> =
            files.iter().filter(|file| is_within(&file.path, layer) && !JOINTS.contains(&file.path.as_str())).collect();
        assert!(!inside.is_empty(), "src/{layer} is not there any more: the rule about it is out of date");
        for file in inside {
            for (number, line) in code(&file.text) {
                for module in forbidden.iter().filter(|module| names(line, module) || grouped(line, module)) {
                    wrong.push(format!("src/{}:{number}: {layer} must not know {module}: {}", file.path, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_every_way_to_name_a_module() {
    for line in
        ["use kube::Api;", "    kube::Client", "fn f(client: &kube::Client)", "pub use kube::{Api, Client};", "Box<kube::Error>"]
    {
        assert!(names(line, "kube"), "{line}");
    }
    for line in ["use kubert::x;", "my_kube::x", "\"kube::x\"", "kube-root", "serde::kube::x"] {
        assert!(!names(line, "kube"), "{line}");
    }
    assert!(names("use crate::crd::Volume;", "crate::crd") && !names("use crate::crdx::Volume;", "crate::crd"));
    assert!(grouped("use crate::{agent, names::VolumeName};", "crate::agent"));
    assert!(grouped("use crate::{names::VolumeName, crd::Volume};", "crate::crd"));
    assert!(!grouped("use crate::{agents, names};", "crate::agent"));
}

#[test]
fn unsafe_code_is_only_where_the_kernel_or_the_cpu_is_called() {
    let unsafe_files: BTreeSet<String> = sources()
        .into_iter()
        .filter(|file| code(&file.text).any(|(_, line)| line.contains("unsafe ") || line.contains("allow(unsafe_code)")))
        .map(|file| file.path)
        .collect();
    let more: Vec<_> = unsafe_files.iter().filter(|path| !MAY_BE_UNSAFE.contains(&path.as_str())).collect();
    assert!(more.is_empty(), "unsafe code in {more:?}");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for file in sources().into_iter().filter(|file| MAY_BE_UNSAFE.contains(&file.path.as_str())) {
        let lines: Vec<_> = file.text.lines().collect();
        for (number, line) in code(&file.text).filter(|(_, line)| line.contains("unsafe {")) {
            let before = &lines[number.saturating_sub(8)..number];
            assert!(before.iter().any(|line| line.contains("SAFETY:")), "src/{}:{number}: no SAFETY line: {line}", file.path);
        }
    }
}
