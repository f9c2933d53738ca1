#![allow(clippy::unwrap_used)]

use jiff::civil::Weekday;
use jiff::{SignedDuration, Zoned};
use proptest::prelude::*;

use super::super::cron_fields::Values;
use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first times after `from`, in the zone's own words.
fn upcoming(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(cron, zone).unwrap();
    let tz = schedule.zone.clone();
    std::iter::successors(schedule.next_after(at(from)), |last| schedule.next_after(*last))
        .take(count)
        .map(|due| due.to_zoned(tz.clone()).strftime("%a %m-%d %H:%M%:z").to_string())
        .collect()
}

/// Each line as robfig/cron v3 reads it (run beside it), from Wednesday 2026-01-07 12:34:56 UTC.
#[test]
fn a_line_means_what_it_means_to_kubernetes() {
    let start = "2026-01-07T12:34:56Z";
    for (cron, expected) in [
        ("*/1 * * * *", ["Wed 01-07 12:35", "Wed 01-07 12:36"]),
        ("0 0 * * *", ["Thu 01-08 00:00", "Fri 01-09 00:00"]),
        ("*/15 9-17 * * MON-FRI", ["Wed 01-07 12:45", "Wed 01-07 13:00"]),
        ("0 0 31 * *", ["Sat 01-31 00:00", "Tue 03-31 00:00"]),
        ("0 0 29 2 *", ["Tue 02-29 00:00", "Sun 02-29 00:00"]),
        ("0 0 * * SUN", ["Sun 01-11 00:00", "Sun 01-18 00:00"]),
        ("0 0 * * sun", ["Sun 01-11 00:00", "Sun 01-18 00:00"]),
        ("0 0 13 * ?", ["Tue 01-13 00:00", "Fri 02-13 00:00"]),
        ("0 0 * * 0", ["Sun 01-11 00:00", "Sun 01-18 00:00"]),
        ("0 0 * * 1", ["Mon 01-12 00:00", "Mon 01-19 00:00"]),
        ("0 0 * * 6", ["Sat 01-10 00:00", "Sat 01-17 00:00"]),
        ("0 0 * * 1-5", ["Thu 01-08 00:00", "Fri 01-09 00:00"]),
        ("0 0 ? * 5", ["Fri 01-09 00:00", "Fri 01-16 00:00"]),
        // Both day fields restricted: either will do.
        ("0 0 13 * 5", ["Fri 01-09 00:00", "Tue 01-13 00:00"]),
        ("0 0 1,15 * 1", ["Mon 01-12 00:00", "Thu 01-15 00:00"]),
        ("0 0 */2 * 1", ["Fri 01-09 00:00", "Sun 01-11 00:00"]),
        ("0 0 1-31 * 1", ["Thu 01-08 00:00", "Fri 01-09 00:00"]),
        // A star with step 1 is a star: the other field decides.
        ("0 0 */1 * 1", ["Mon 01-12 00:00", "Mon 01-19 00:00"]),
        ("0 0 *,5 * 1", ["Mon 01-12 00:00", "Mon 01-19 00:00"]),
        ("5/15 * * * *", ["Wed 01-07 12:35", "Wed 01-07 12:50"]),
        ("0 0 1 FEB,jun *", ["Sun 02-01 00:00", "Mon 06-01 00:00"]),
        ("1,,2 * * * *", ["Wed 01-07 13:01", "Wed 01-07 13:02"]),
        ("  0   0 * * * ", ["Thu 01-08 00:00", "Fri 01-09 00:00"]),
        ("@hourly", ["Wed 01-07 13:00", "Wed 01-07 14:00"]),
        ("@daily", ["Thu 01-08 00:00", "Fri 01-09 00:00"]),
        ("@midnight", ["Thu 01-08 00:00", "Fri 01-09 00:00"]),
        ("@weekly", ["Sun 01-11 00:00", "Sun 01-18 00:00"]),
        ("@monthly", ["Sun 02-01 00:00", "Sun 03-01 00:00"]),
        ("@yearly", ["Fri 01-01 00:00", "Sat 01-01 00:00"]),
        ("@annually", ["Fri 01-01 00:00", "Sat 01-01 00:00"]),
    ] {
        let expected: Vec<String> = expected.iter().map(|time| format!("{time}+00:00")).collect();
        assert_eq!(upcoming(cron, "", start, 2), expected, "{cron}");
    }
}

#[test]
fn a_day_that_never_comes_has_no_next_time() {
    assert_eq!(Schedule::parse("0 0 30 2 *", "Europe/Berlin").unwrap().next_after(at("2026-01-07T12:34:56Z")), None);
}

#[test]
fn a_refusal_names_the_field_the_value_and_what_is_allowed() {
    for (cron, words) in [
        ("", &["0 fields", "five"][..]),
        ("* * * *", &["4 fields", "five"]),
        ("0 * * * * *", &["6 fields", "seconds"]),
        ("60 * * * *", &["minute", "60", "0 to 59"]),
        ("0 24 * * *", &["hour", "24", "0 to 23"]),
        ("0 0 0 * *", &["day of month", "0 is too small", "1 to 31"]),
        ("0 0 32 * *", &["day of month", "32", "1 to 31"]),
        ("0 0 * 13 *", &["month", "13", "JAN"]),
        ("0 0 * * 7", &["day of week", "Sunday is 0"]),
        ("0 0 * * 6-7", &["day of week", "Sunday is 0"]),
        ("5-1 * * * *", &["minute", "5-1", "begins after its end"]),
        ("1-2-3 * * * *", &["hyphen"]),
        ("*/2/3 * * * *", &["slash"]),
        ("*/0 * * * *", &["step", "above 0"]),
        ("*/x * * * *", &["step", "\"x\""]),
        ("-1 * * * *", &["minute", "\"\""]),
        ("a * * * *", &["minute", "\"a\"", "no whole number"]),
        ("*-5 * * * *", &["minute", "\"*\""]),
        (", * * * *", &["minute", "no value"]),
        ("0 0 L * *", &["day of month", "\"L\"", "extension"]),
        ("0 0 * * 5#2", &["day of week", "\"5#2\"", "extension"]),
        ("0 0 1W * *", &["day of month", "\"1W\"", "extension"]),
        ("0 0 * * someday", &["day of week", "\"someday\"", "SUN"]),
        ("TZ=Asia/Tokyo 0 0 * * *", &["spec.timeZone: \"Asia/Tokyo\"", "spec.cron: \"0 0 * * *\""]),
        ("CRON_TZ=UTC @daily", &["spec.timeZone: \"UTC\"", "spec.cron: \"@daily\""]),
        ("@every 1h30m", &["@every 1h30m", "*/15 * * * *"]),
        ("@reboot", &["@reboot", "@hourly"]),
    ] {
        let error = Schedule::parse(cron, "").err().map(|e| e.to_string()).unwrap_or_default();
        for word in words {
            assert!(error.contains(word), "{cron:?} gives {error:?}, which lacks {word:?}");
        }
    }
    for zone in ["Mars/Olympus", "Local", "+02:00"] {
        let error = Schedule::parse("* * * * *", zone).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(zone) && error.contains("IANA"), "{zone}: {error}");
    }
}

#[test]
fn a_time_the_clock_skips_does_not_happen_that_day() {
    assert_eq!(
        upcoming("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2),
        ["Mon 03-09 02:30-04:00", "Tue 03-10 02:30-04:00"]
    );
    assert_eq!(
        upcoming("0 * * * *", "America/New_York", "2026-03-08T05:30:00Z", 3),
        ["Sun 03-08 01:00-05:00", "Sun 03-08 03:00-04:00", "Sun 03-08 04:00-04:00"]
    );
}

#[test]
fn a_time_the_clock_shows_twice_happens_twice() {
    assert_eq!(
        upcoming("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 3),
        ["Sun 11-01 01:30-04:00", "Sun 11-01 01:30-05:00", "Mon 11-02 01:30-05:00"]
    );
    assert_eq!(
        upcoming("*/30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 4),
        ["Sun 11-01 01:00-04:00", "Sun 11-01 01:30-04:00", "Sun 11-01 01:00-05:00", "Sun 11-01 01:30-05:00"]
    );
}

#[test]
fn half_hour_changes_and_gaps_at_midnight_follow_the_clock() {
    assert_eq!(
        upcoming("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2),
        ["Mon 10-05 02:15+11:00", "Tue 10-06 02:15+11:00"]
    );
    assert_eq!(
        upcoming("0 0 * * *", "Africa/Cairo", "2026-04-22T12:00:00Z", 3),
        ["Thu 04-23 00:00+02:00", "Sat 04-25 00:00+03:00", "Sun 04-26 00:00+03:00"]
    );
}

#[test]
fn only_the_newest_missed_time_within_the_bound_is_caught_up() {
    let schedule = Schedule::parse("*/10 * * * *", "").unwrap();
    let hour = Duration::from_secs(3600);
    let now = at("2026-01-07T12:34:56Z");
    for (last, bound, expected) in [
        ("2026-01-07T12:30:00Z", hour, None),
        ("2026-01-07T12:20:00Z", hour, Some("2026-01-07T12:30:00Z")),
        ("2025-01-07T12:20:00Z", hour, Some("2026-01-07T12:30:00Z")),
        ("2025-01-07T12:20:00Z", Duration::from_secs(60), None),
        ("2026-01-07T13:00:00Z", hour, None),
    ] {
        assert_eq!(schedule.missed_since(at(last), now, bound), expected.map(at), "{last}");
    }
    assert_eq!(
        schedule.missed_since(at("2026-01-07T12:20:00Z"), at("2026-01-07T12:30:00Z"), hour),
        Some(at("2026-01-07T12:30:00Z"))
    );
}

/// In the order of the line.
const FIELDS: [Field; 5] = [Field::Minute, Field::Hour, Field::DayOfMonth, Field::Month, Field::DayOfWeek];

/// One field that robfig accepts.
fn field(field: Field) -> impl Strategy<Value = String> {
    let (min, max) = field.bounds();
    let value = min..=max;
    let part = prop_oneof![
        3 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        1 => (1u8..40).prop_map(|step| format!("*/{step}")),
        3 => value.clone().prop_map(|v| v.to_string()),
        2 => (value.clone(), value.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (value.clone(), value.clone(), 1u8..20).prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b))),
        1 => (value, 1u8..20).prop_map(|(a, step)| format!("{a}/{step}")),
    ];
    proptest::collection::vec(part, 1..3).prop_map(|parts| parts.join(","))
}

fn line() -> impl Strategy<Value = [String; 5]> {
    let [minute, hour, dom, month, dow] = FIELDS.map(field);
    // Every month, mostly: otherwise the naive matcher walks for years.
    (minute, hour, dom, prop_oneof![4 => Just("*".to_owned()), 1 => month], dow).prop_map(|(m, h, d, mo, w)| [m, h, d, mo, w])
}

/// What a clock that is looked at every minute would say.
fn naive_match(line: &[String; 5], seen: &Zoned) -> bool {
    let [minute, hour, dom, month, dow]: [Values; 5] = std::array::from_fn(|i| Values::parse(FIELDS[i], &line[i]).unwrap());
    let weekday = seen.weekday().to_sunday_zero_offset() as u8;
    let (dom_fits, dow_fits) = (dom.contains(seen.day() as u8), dow.contains(weekday));
    let day_fits = if dom.star || dow.star { dom_fits && dow_fits } else { dom_fits || dow_fits };
    seen.second() == 0
        && minute.contains(seen.minute() as u8)
        && hour.contains(seen.hour() as u8)
        && month.contains(seen.month() as u8)
        && day_fits
}

#[test]
fn weekdays_count_from_sunday() {
    assert_eq!(Weekday::Sunday.to_sunday_zero_offset(), 0);
}

/// Moments just before clocks change, and one where none does.
const MOMENTS: [(&str, &str); 8] = [
    ("UTC", "2026-01-07T12:34:56Z"),
    ("America/New_York", "2026-03-08T05:00:00Z"),
    ("America/New_York", "2026-11-01T03:00:00Z"),
    ("Europe/Berlin", "2026-10-24T23:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T10:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T10:00:00Z"),
    ("Africa/Cairo", "2026-04-23T18:00:00Z"),
    ("Asia/Kathmandu", "2026-06-01T00:00:00Z"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_next_time_is_the_first_minute_at_which_the_clock_matches(
        line in line(), moment in proptest::sample::select(&MOMENTS[..]), minutes in 0i64..1440,
    ) {
        let (zone, near) = moment;
        let from = at(near) + SignedDuration::from_mins(minutes);
        let schedule = Schedule::parse(&line.join(" "), zone).unwrap();
        let tz = TimeZone::get(zone).unwrap();
        // The zones' offsets are whole minutes, so matches are at whole minutes of UTC.
        let first = from.as_second().div_euclid(60) + 1;
        let walked = (first..first + 3 * 1440)
            .map(|minute| Timestamp::from_second(minute * 60).unwrap())
            .find(|seen| naive_match(&line, &seen.to_zoned(tz.clone())));
        let found = schedule.next_after(from);
        match walked {
            Some(expected) => prop_assert_eq!(found, Some(expected)),
            None => prop_assert!(found.is_none_or(|due| due.as_second() >= (first + 3 * 1440) * 60)),
        }
    }

    #[test]
    fn times_strictly_increase_and_the_last_of_them_is_found_again(
        line in line(), moment in proptest::sample::select(&MOMENTS[..]), count in 1usize..50,
    ) {
        let (zone, near) = moment;
        let schedule = Schedule::parse(&line.join(" "), zone).unwrap();
        let times: Vec<_> = std::iter::successors(schedule.next_after(at(near)), |last| schedule.next_after(*last)).take(count).collect();
        prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        if let Some(last) = times.last() {
            prop_assert_eq!(schedule.last_in(at(near), *last), Some(*last));
            let before = *last - SignedDuration::from_secs(1);
            prop_assert_eq!(schedule.last_in(at(near), before), times.iter().rev().nth(1).copied());
        }
    }
}
