//! Enums that are strings in the API, exact spelling included.

/// Declares a `Copy` enum with its spellings. The variant after `else` stands for every other value that an object may carry, so that
/// one odd object never stops a whole watch. `closed` enums list their values in the schema, and the API server refuses others;
/// `open` ones (statuses) are plain strings there. A second spelling after `|` is read as the same value.
macro_rules! string_enum {
    (
        $(#[$meta:meta])*
        $openness:ident $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal $(| $also:literal)*,)+
        } else $(#[$other_meta:meta])* $other:ident = $other_text:literal
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            $(#[$other_meta])*
            $other,
        }

        impl $name {
            /// Every value but the one that stands for all others.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The spelling in the API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::$other => $other_text,
                }
            }

            /// Whether this is the default; such values are not written.
            pub fn is_default(&self) -> bool {
                *self == Self::default()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text $(| $also)* => Self::$variant,)+
                    _ => Self::$other,
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <Option<String> as serde::Deserialize>::deserialize(deserializer)?;
                Ok(text.map_or_else(Self::default, |text| Self::from(text.as_str())))
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                string_enum!(@schema $openness [$($text $(, $also)*),+])
            }
        }
    };
    (@schema closed [$($text:literal),+]) => {
        schemars::json_schema!({ "type": "string", "enum": [$($text),+] })
    };
    (@schema open [$($text:literal),+]) => {
        schemars::json_schema!({ "type": "string" })
    };
}

pub(super) use string_enum;
