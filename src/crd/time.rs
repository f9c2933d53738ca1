//! Points in time as Longhorn writes them: RFC 3339 in UTC, `""` when unset.

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, or none. Whole seconds, as the API holds them, so that what is written equals what is read back.
///
/// `""`, null and text that is no time are read as unset: one odd object never stops a whole watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Option<Timestamp>);

impl Time {
    /// No point in time.
    pub const UNSET: Self = Self(None);

    /// The present, by this machine's clock.
    pub fn now() -> Self {
        Timestamp::now().into()
    }

    /// The point in time, if there is one.
    pub fn get(self) -> Option<Timestamp> {
        self.0
    }

    /// Whether there is none; such values are not written.
    pub fn is_unset(&self) -> bool {
        self.0.is_none()
    }
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(Some(truncated(at)))
    }
}

impl From<Option<Timestamp>> for Time {
    fn from(at: Option<Timestamp>) -> Self {
        Self(at.map(truncated))
    }
}

fn truncated(at: Timestamp) -> Timestamp {
    let whole = jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Floor);
    at.round(whole).unwrap_or(at)
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |at| write!(f, "{at}"))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.and_then(|text| text.parse::<Timestamp>().ok()).into())
    }
}

impl schemars::JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        let at: Timestamp = "2026-01-07T12:34:56.789Z".parse().unwrap_or_default();
        let text = serde_json::to_string(&Time::from(at)).unwrap_or_default();
        assert_eq!(text, r#""2026-01-07T12:34:56Z""#);
        assert_eq!(serde_json::from_str::<Time>(&text).ok(), Some(Time::from(at)));
        assert_eq!(serde_json::to_string(&Time::UNSET).ok().as_deref(), Some(r#""""#));
    }

    #[test]
    fn what_is_no_time_is_read_as_unset() {
        for odd in [r#""""#, "null", r#""yesterday""#] {
            assert_eq!(serde_json::from_str::<Time>(odd).ok(), Some(Time::UNSET), "{odd}");
        }
    }
}
