//! Changes of metadata: small patches that hold only while the object is the one that was read.

use std::collections::BTreeMap;
use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::error::is_not_found;
use super::{ApiContext, Error};
use crate::crd::names::FINALIZER;

/// What to change; nothing is no request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Labels to set.
    pub labels: BTreeMap<&'static str, String>,
    /// Annotations to set, or to remove where there is no value.
    pub annotations: BTreeMap<&'static str, Option<String>>,
    /// The finalizer to add (`true`) or remove.
    pub finalizer: Option<bool>,
}

impl Change {
    /// The labels and the finalizer that `object` lacks. A label that is there keeps its value.
    pub fn missing<K: Resource>(object: &K, labels: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let there = object.labels();
        Self {
            labels: labels.into_iter().filter(|(key, _)| !there.contains_key(*key)).collect(),
            finalizer: (!has_finalizer(object) && object.meta().deletion_timestamp.is_none()).then_some(true),
            ..Self::default()
        }
    }

    fn body<K: Resource>(&self, object: &K) -> Option<Value> {
        let mut metadata = Map::new();
        if !self.labels.is_empty() {
            metadata.insert("labels".into(), json!(self.labels));
        }
        if !self.annotations.is_empty() {
            metadata.insert("annotations".into(), json!(self.annotations));
        }
        match self.finalizer {
            Some(wanted) if wanted != has_finalizer(object) => {
                let mut finalizers: Vec<&str> =
                    object.finalizers().iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER).collect();
                if wanted {
                    finalizers.push(FINALIZER);
                }
                metadata.insert("finalizers".into(), json!(finalizers));
            }
            _ => {}
        }
        if metadata.is_empty() {
            return None;
        }
        metadata.insert("resourceVersion".into(), json!(object.resource_version()));
        metadata.insert("uid".into(), json!(object.uid()));
        Some(json!({ "metadata": metadata }))
    }
}

/// Whether the object carries our finalizer.
pub fn has_finalizer<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Carries out the change on the condition that the object is still the one that was read. Returns the object as it now is.
pub async fn patch<K>(api: &Api<K>, object: &K, change: &Change) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let Some(body) = change.body(object) else { return Ok(object.clone()) };
    let name = object.name_any();
    api.patch(&name, &PatchParams::default(), &Patch::Merge(body))
        .await
        .context(|| format!("write the metadata of {} {name}", K::kind(&())))
}

/// Removes our finalizer: the object may go. One that is gone already is no error.
pub async fn release<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match patch(api, object, &Change { finalizer: Some(false), ..Change::default() }).await {
        Err(Error::Api { source, .. }) if is_not_found(&source) => Ok(()),
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object() -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.resource_version = Some("7".into());
        object.metadata.uid = Some("u".into());
        object.metadata.finalizers = Some(vec!["other/one".into()]);
        object.labels_mut().insert("a".into(), "1".into());
        object
    }

    #[test]
    fn only_what_is_missing_is_written_and_only_to_the_object_that_was_read() {
        let change = Change::missing(&object(), [("a", "2".to_owned()), ("b", "3".to_owned())]);
        let body = change.body(&object()).expect("body");
        assert_eq!(
            body,
            json!({"metadata": {"labels": {"b": "3"}, "finalizers": ["other/one", "longhorn.io"], "resourceVersion": "7", "uid": "u"}})
        );
        let mut done = object();
        done.finalizers_mut().push("longhorn.io".into());
        assert_eq!(Change::missing(&done, [("a", "2".to_owned())]).body(&done), None);
    }

    #[test]
    fn another_finalizer_is_never_removed() {
        let mut object = object();
        object.finalizers_mut().push("longhorn.io".into());
        let body = Change { finalizer: Some(false), ..Change::default() }.body(&object).expect("body");
        assert_eq!(body["metadata"]["finalizers"], json!(["other/one"]));
    }
}
