//! Setting: one value by name. Has no spec: `value` is at the top, as in Longhorn.

use std::borrow::Cow;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion, CustomResourceSubresourceStatus, CustomResourceSubresources, CustomResourceValidation,
    JSONSchemaProps, ValidationRule,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::object::HasStatus;
use kube::core::{Message, NamespaceResourceScope, Rule};
use kube::{CustomResourceExt, Resource};
use serde::{Deserialize, Serialize, Serializer};

use super::names::{GROUP, VERSION};
use super::rules;

const KIND: &str = "Setting";
const PLURAL: &str = "settings";
const API_VERSION: &str = "longhorn.io/v1beta2";

/// One value by name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Setting {
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The value; JSON by data engine where Longhorn has it so.
    #[serde(default)]
    pub value: String,
    /// Whether it is in force.
    #[serde(default)]
    pub status: Option<SettingStatus>,
}

/// Whether a setting is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingStatus {
    /// Whether it is in force.
    #[serde(default)]
    pub applied: bool,
}

impl Setting {
    /// A setting of that name.
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Self { metadata, value: value.into(), status: None }
    }
}

/// An object on the wire names its kind.
impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: &'a ObjectMeta,
            value: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            status: Option<SettingStatus>,
        }
        let Self { metadata, value, status } = self;
        Wire { api_version: API_VERSION, kind: KIND, metadata, value, status: *status }.serialize(serializer)
    }
}

impl Resource for Setting {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }
    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }
    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl HasStatus for Setting {
    type Status = SettingStatus;

    fn status(&self) -> Option<&SettingStatus> {
        self.status.as_ref()
    }
    fn status_mut(&mut self) -> &mut Option<SettingStatus> {
        &mut self.status
    }
}

impl CustomResourceExt for Setting {
    fn crd() -> CustomResourceDefinition {
        CustomResourceDefinition {
            metadata: ObjectMeta { name: Some(Self::crd_name().to_owned()), ..ObjectMeta::default() },
            spec: CustomResourceDefinitionSpec {
                group: GROUP.to_owned(),
                names: CustomResourceDefinitionNames {
                    kind: KIND.to_owned(),
                    plural: PLURAL.to_owned(),
                    singular: Some("setting".to_owned()),
                    short_names: Some(vec!["lhs".to_owned()]),
                    ..CustomResourceDefinitionNames::default()
                },
                scope: "Namespaced".to_owned(),
                versions: vec![version()],
                ..CustomResourceDefinitionSpec::default()
            },
            status: None,
        }
    }

    fn crd_name() -> &'static str {
        "settings.longhorn.io"
    }

    fn api_resource() -> kube::api::ApiResource {
        kube::api::ApiResource::erase::<Self>(&())
    }

    fn shortnames() -> &'static [&'static str] {
        &["lhs"]
    }
}

fn version() -> CustomResourceDefinitionVersion {
    CustomResourceDefinitionVersion {
        name: VERSION.to_owned(),
        served: true,
        storage: true,
        additional_printer_columns: Some(vec![
            column("Value", "string", ".value", "The value"),
            column("Applied", "boolean", ".status.applied", "Whether it is in force"),
            column("Age", "date", ".metadata.creationTimestamp", ""),
        ]),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema()) }),
        subresources: Some(CustomResourceSubresources {
            scale: None,
            status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
        }),
        ..CustomResourceDefinitionVersion::default()
    }
}

fn column(name: &str, type_: &str, json_path: &str, description: &str) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: json_path.to_owned(),
        description: (!description.is_empty()).then(|| description.to_owned()),
        ..CustomResourceColumnDefinition::default()
    }
}

fn schema() -> JSONSchemaProps {
    let status = JSONSchemaProps {
        properties: Some([("applied".to_owned(), property("boolean", "Whether it is in force."))].into()),
        ..property("object", "Whether the setting is in force.")
    };
    let value = JSONSchemaProps {
        max_length: Some(8192),
        ..property("string", "The value; JSON by data engine where Longhorn has it so.")
    };
    JSONSchemaProps {
        properties: Some([("value".to_owned(), value), ("status".to_owned(), status)].into()),
        required: Some(vec!["value".to_owned()]),
        x_kubernetes_validations: Some(rules::setting::values().into_iter().map(validation).collect()),
        ..property("object", "One value by name.")
    }
}

fn validation(rule: Rule) -> ValidationRule {
    let (message, message_expression) = match rule.message {
        Some(Message::Message(text)) => (Some(text), None),
        Some(Message::Expression(expression)) => (None, Some(expression)),
        None => (None, None),
    };
    ValidationRule { rule: rule.rule, message, message_expression, field_path: rule.field_path, ..ValidationRule::default() }
}

fn property(type_: &str, description: &str) -> JSONSchemaProps {
    JSONSchemaProps { type_: Some(type_.to_owned()), description: Some(description.to_owned()), ..JSONSchemaProps::default() }
}
