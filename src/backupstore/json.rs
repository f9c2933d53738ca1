//! JSON as the format wants it: Go's escapes, numbers in strings, strings encoded twice, and a lenient reading of all of it.

use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

/// `value` as one line, escaped as Go's encoder does.
pub fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, GoFormatter))?;
    Ok(out)
}

/// Reads the first JSON value of `bytes`; what follows it is ignored.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(bytes))
}

/// Compact, with the characters escaped that Go escapes inside strings.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            let mut chars = special.chars();
            CompactFormatter.write_string_fragment(writer, plain)?;
            if let Some(c) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            }
            rest = chars.as_str();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// The value of a field: its zero value for null.
pub fn value<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

/// A type that is read field by field, whatever the letter case of the names.
pub trait Fields: Default {
    /// Takes the field `name` (in lower case) if it is one of this type's; else gives `original` back for [`Fields::unknown`].
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;

    /// Keeps a field that this program does not know.
    fn unknown(&mut self, name: String, value: serde_json::Value);
}

/// Deserializes a [`Fields`] type.
pub fn fields<'de, T: Fields, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct FieldsVisitor<T>(PhantomData<T>);

    impl<'de, T: Fields> Visitor<'de> for FieldsVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut read = T::default();
            while let Some(name) = map.next_key::<String>()? {
                if !read.field(&name.to_ascii_lowercase(), &mut map)? {
                    read.unknown(name, map.next_value()?);
                }
            }
            Ok(read)
        }
    }

    deserializer.deserialize_map(FieldsVisitor(PhantomData))
}

/// A 64-bit number written as a decimal string; read from a string or a number, `""` is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter(pub u64);

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Counter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CounterVisitor;

        impl Visitor<'_> for CounterVisitor {
            type Value = Counter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of at least 0, as a string")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Counter, E> {
                Ok(Counter(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Counter, E> {
                let number = if text.is_empty() { Ok(0) } else { text.parse() };
                number.map(Counter).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(CounterVisitor)
    }
}

/// A string that is encoded twice: `"\"lz4\""`. Also read plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubled(pub String);

impl Serialize for Doubled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = to_vec(&self.0).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&String::from_utf8_lossy(&inner))
    }
}

impl<'de> Deserialize<'de> for Doubled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let outer = String::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str::<String>(&outer).unwrap_or(outer)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let text = "a<b>&c\u{2028}\u{2029}\"\\\n\t\u{1}ä";
        assert_eq!(String::from_utf8(to_vec(&text).unwrap()).unwrap(), r#""a\u003cb\u003e\u0026c\u2028\u2029\"\\\n\t\u0001ä""#);
    }

    #[test]
    fn numbers_come_as_strings_and_are_read_in_every_form() {
        assert_eq!(to_vec(&Counter(u64::MAX)).unwrap(), br#""18446744073709551615""#);
        for (text, number) in [(r#""12""#, 12), ("12", 12), (r#""""#, 0)] {
            assert_eq!(from_slice::<Counter>(text.as_bytes()).unwrap(), Counter(number));
        }
        for bad in [r#""-1""#, "-1", "1.5", r#""x""#, "true"] {
            assert!(from_slice::<Counter>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn doubled_strings_are_read_doubled_and_plain() {
        assert_eq!(to_vec(&Doubled("lz4".into())).unwrap(), br#""\"lz4\"""#);
        assert_eq!(to_vec(&Doubled::default()).unwrap(), br#""\"\"""#);
        for (text, read) in [(r#""\"lz4\"""#, "lz4"), (r#""lz4""#, "lz4"), (r#""""#, ""), (r#""\"\"""#, "")] {
            assert_eq!(from_slice::<Doubled>(text.as_bytes()).unwrap().0, read);
        }
    }

    #[test]
    fn text_behind_the_value_is_ignored_and_a_byte_order_mark_is_not() {
        assert_eq!(from_slice::<String>(b"\"a\"\n{}").unwrap(), "a");
        assert!(from_slice::<String>("\u{feff}\"a\"".as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn every_string_comes_back(text: String) {
            prop_assert_eq!(&from_slice::<String>(&to_vec(&text).unwrap()).unwrap(), &text);
            prop_assert_eq!(from_slice::<Doubled>(&to_vec(&Doubled(text.clone())).unwrap()).unwrap().0, text);
        }
    }
}
