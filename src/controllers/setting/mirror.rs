//! The alias settings `backup-target`, `backup-target-credential-secret` and `backupstore-poll-interval` of the target `default`.
//!
//! The target is the truth. Each alias remembers in an annotation what both last were, so that an edit on either side is seen.

/// What to do so that both sides say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// They do.
    Nothing,
    /// They do; only the memory is old.
    Remember,
    /// The setting was edited: write its value to the target, then remember.
    WriteTarget(&'a str),
    /// The target was edited: write its value to the setting.
    WriteSetting(&'a str),
    /// Both were edited: the target wins.
    Conflict(&'a str),
}

/// Decides by the three values in canonical form. `last` is the default of the alias where nothing is remembered yet.
pub fn plan<'a>(setting: &'a str, target: &'a str, last: Option<&str>, default: &str) -> Step<'a> {
    let base = last.unwrap_or(default);
    match (setting == target, setting == base, target == base) {
        (true, _, _) if last == Some(setting) => Step::Nothing,
        (true, _, _) => Step::Remember,
        (false, true, _) => Step::WriteSetting(target),
        (false, false, true) => Step::WriteTarget(setting),
        (false, false, false) => Step::Conflict(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_edited_is_followed_and_the_target_wins_a_conflict() {
        for (setting, target, last, wanted) in [
            ("", "", None, Step::Remember),
            ("a", "a", Some("a"), Step::Nothing),
            ("b", "a", Some("a"), Step::WriteTarget("b")),
            ("a", "b", Some("a"), Step::WriteSetting("b")),
            ("b", "c", Some("a"), Step::Conflict("c")),
            ("b", "b", Some("a"), Step::Remember),
            // The first look: an applied manifest on either side is an edit of the default.
            ("b", "", None, Step::WriteTarget("b")),
            ("", "b", None, Step::WriteSetting("b")),
            ("b", "c", None, Step::Conflict("c")),
            // Emptied by a user: also an edit.
            ("", "a", Some("a"), Step::WriteTarget("")),
        ] {
            assert_eq!(plan(setting, target, last, ""), wanted, "{setting:?} {target:?} {last:?}");
        }
    }

    #[test]
    fn a_crash_after_the_first_of_two_writes_is_finished_by_the_next_pass() {
        // The setting's edit reached the target, the memory did not follow.
        assert_eq!(plan("b", "b", Some("a"), ""), Step::Remember);
    }
}
