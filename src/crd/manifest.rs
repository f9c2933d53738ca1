//! The definitions as files for `kubectl apply`.

use super::all;

/// One kind's definition as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// `<plural>.yaml`
    pub file_name: String,
    /// The definition.
    pub yaml: String,
}

/// The definitions of all kinds, one file each.
pub fn manifests() -> Result<Vec<Manifest>, serde_saphyr::ser_error::Error> {
    all()
        .into_iter()
        .map(|definition| {
            let file_name = format!("{}.yaml", definition.spec.names.plural);
            let yaml = format!("# Made by `make crds`; change src/crd instead.\n{}", serde_saphyr::to_string(&definition)?);
            Ok(Manifest { file_name, yaml })
        })
        .collect()
}
