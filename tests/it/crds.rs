//! The definitions in `crds/` are the ones that the types make.

use std::collections::BTreeMap;
use std::path::Path;

const HOW: &str = "run `make crds` (cargo run -- crd --out crds) and commit what it changes";

#[test]
fn the_files_in_crds_are_what_the_types_make() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let found: BTreeMap<String, String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(entry.path()).unwrap()))
        .collect();
    let made: BTreeMap<String, String> = drover::crd::manifests().unwrap().into_iter().map(|m| (m.file_name, m.yaml)).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>(), "{HOW}");
    for (name, yaml) in made {
        assert!(found[&name] == yaml, "crds/{name} is not what src/crd makes: {HOW}");
    }
}

#[test]
fn every_kind_has_longhorns_names_and_a_status_of_its_own() {
    let named: Vec<(String, String, Vec<String>)> = drover::crd::all()
        .into_iter()
        .map(|definition| {
            let version = &definition.spec.versions[0];
            assert_eq!((version.name.as_str(), version.served, version.storage), ("v1beta2", true, true));
            assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()));
            let names = definition.spec.names;
            (names.kind, names.plural, names.short_names.unwrap())
        })
        .collect();
    let expected = [
        ("Backup", "backups", "lhb"),
        ("BackupTarget", "backuptargets", "lhbt"),
        ("BackupVolume", "backupvolumes", "lhbv"),
        ("Node", "nodes", "lhn"),
        ("RecurringJob", "recurringjobs", "lhrj"),
        ("Setting", "settings", "lhs"),
        ("Snapshot", "snapshots", "lhsnap"),
        ("Volume", "volumes", "lhv"),
    ]
    .map(|(kind, plural, short)| (kind.to_owned(), plural.to_owned(), vec![short.to_owned()]));
    assert_eq!(named, expected);
}
