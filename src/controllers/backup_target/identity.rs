//! Whether the store behind a target is still the one whose backups our objects describe.
//!
//! A store carries a random id in its marker. An emptied bucket, a forgotten mount or an endpoint that leads elsewhere shows as a
//! store without our id: then nothing may be concluded from what it lists.

/// The store that the target's objects describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The id in its marker.
    pub id: String,
    /// The canonical URL it was found at.
    pub url: String,
}

/// What the user wrote to accept another store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation<'a> {
    /// Nothing.
    Absent,
    /// The store without any marker.
    NoMarker,
    /// The store of this id.
    Id(&'a str),
}

impl<'a> Confirmation<'a> {
    /// Reads the annotation's value.
    pub fn parse(value: Option<&'a str>) -> Self {
        match value.map(str::trim) {
            None | Some("") => Self::Absent,
            Some("none") => Self::NoMarker,
            Some(id) => Self::Id(id),
        }
    }
}

/// What to do about the store that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the known one.
    Same,
    /// None is known yet, or nothing describes the known one: take what is there.
    Adopt,
    /// The user gave the target another URL: the objects of the old place go, objects only, then take what is there.
    Moved,
    /// The user accepted this store by the annotation.
    Confirmed,
    /// Another store, or none, is where our backups were: touch nothing.
    Changed,
}

/// Judges the marker `found` at `url` (`None`: no marker). `objects`: whether any object describes a backup in the known store.
pub fn judge(known: Option<&Known>, url: &str, found: Option<&str>, objects: bool, confirmation: Confirmation<'_>) -> Verdict {
    let Some(known) = known else { return Verdict::Adopt };
    if found == Some(known.id.as_str()) {
        return Verdict::Same;
    }
    if !objects {
        return Verdict::Adopt;
    }
    if known.url != url {
        return Verdict::Moved;
    }
    let confirmed = match confirmation {
        Confirmation::Absent => false,
        Confirmation::NoMarker => found.is_none(),
        Confirmation::Id(id) => found == Some(id),
    };
    if confirmed { Verdict::Confirmed } else { Verdict::Changed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "s3://b@r/";

    fn known() -> Known {
        Known { id: "one".into(), url: URL.into() }
    }

    #[test]
    fn another_store_at_the_same_url_is_believed_only_after_confirmation() {
        let known = known();
        let judge = |found, objects, confirm| judge(Some(&known), URL, found, objects, Confirmation::parse(confirm));
        assert_eq!(judge(Some("one"), true, None), Verdict::Same);
        assert_eq!(judge(None, true, None), Verdict::Changed);
        assert_eq!(judge(Some("two"), true, None), Verdict::Changed);
        assert_eq!(judge(Some("two"), true, Some("")), Verdict::Changed);
        assert_eq!(judge(Some("two"), true, Some("none")), Verdict::Changed, "a confirmation of an empty store covers no other");
        assert_eq!(judge(None, true, Some("two")), Verdict::Changed, "nor the other way round");
        assert_eq!(judge(Some("two"), true, Some(" two\n")), Verdict::Confirmed);
        assert_eq!(judge(None, true, Some("none")), Verdict::Confirmed);
        assert_eq!(judge(Some("two"), false, None), Verdict::Adopt, "no object can be lost");
    }

    #[test]
    fn a_new_url_is_the_users_word_and_a_new_name_of_the_same_store_costs_nothing() {
        let known = known();
        let there = "s3://other@r/";
        assert_eq!(judge(Some(&known), there, Some("two"), true, Confirmation::Absent), Verdict::Moved);
        assert_eq!(judge(Some(&known), there, None, true, Confirmation::Absent), Verdict::Moved);
        assert_eq!(judge(Some(&known), there, Some("one"), true, Confirmation::Absent), Verdict::Same);
        assert_eq!(judge(None, there, None, true, Confirmation::Absent), Verdict::Adopt);
    }
}
