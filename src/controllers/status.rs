//! The only writer of statuses.

use std::fmt::Debug;

use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{ApiContext, Error};

/// Replaces the object's status with `status`, on the condition that the object is still the one that was read.
///
/// Writes nothing when nothing changed. A conflict means that somebody else wrote since: the caller's next pass reads anew.
/// Returns the object as it now is.
pub async fn write<K>(api: &Api<K>, read: &K, status: K::Status) -> Result<K, Error>
where
    K: HasStatus + Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    K::Status: PartialEq,
{
    if read.status() == Some(&status) {
        return Ok(read.clone());
    }
    let mut object = read.clone();
    *object.status_mut() = Some(status);
    let name = read.name_any();
    api.replace_status(&name, &PostParams::default(), &object)
        .await
        .context(|| format!("write the status of {} {name}", K::kind(&())))
}
