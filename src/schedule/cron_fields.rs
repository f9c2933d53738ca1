//! The five fields of a cron line, by the grammar of robfig/cron v3 `ParseStandard`, which Kubernetes CronJob uses.
//!
//! Two lines that it accepts are refused here, since they cannot be meant: a field of commas only (it would never run) and `*-5` (it would mean `*`).

use std::fmt;

use super::cron::CronError;

/// Which field of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 0-59
    Minute,
    /// 0-23
    Hour,
    /// 1-31
    DayOfMonth,
    /// 1-12 or JAN-DEC
    Month,
    /// 0-6 or SUN-SAT
    DayOfWeek,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
pub(super) const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Field {
    /// Smallest and largest value.
    pub(super) const fn bounds(self) -> (u8, u8) {
        match self {
            Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 6),
        }
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &DAYS,
            _ => &[],
        }
    }

    const fn allowed(self) -> &'static str {
        match self {
            Self::Minute => "0 to 59",
            Self::Hour => "0 to 23",
            Self::DayOfMonth => "1 to 31",
            Self::Month => "1 to 12 or JAN to DEC",
            Self::DayOfWeek => "0 (Sunday) to 6 or SUN to SAT",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// The values of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Values {
    field: Field,
    bits: u64,
    /// Whether the field is unrestricted: `*`, `?` or `*/1` in it; `*/2` is a restriction, and so is `1-31`.
    pub(super) star: bool,
}

impl Values {
    /// Reads one field.
    pub(super) fn parse(field: Field, text: &str) -> Result<Self, CronError> {
        let mut values = Self { field, bits: 0, star: false };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (bits, star) = parse_part(field, part).map_err(|problem| CronError::Field {
                field,
                text: text.to_owned(),
                problem,
                allowed: field.allowed(),
            })?;
            values.bits |= bits;
            values.star |= star;
        }
        if values.bits == 0 {
            let problem = "it holds no value".to_owned();
            return Err(CronError::Field { field, text: text.to_owned(), problem, allowed: field.allowed() });
        }
        Ok(values)
    }

    /// Whether the field has the value.
    pub(super) const fn contains(&self, value: u8) -> bool {
        self.bits >> value & 1 == 1
    }

    /// As the `cron` crate reads it without misunderstanding: every value by itself, days of the week by name.
    pub(super) fn spelled_out(&self) -> String {
        let (min, max) = self.field.bounds();
        if (min..=max).all(|value| self.contains(value)) {
            return "*".to_owned();
        }
        let spell = |value: u8| match self.field {
            Field::DayOfWeek => DAYS[usize::from(value)].to_owned(),
            _ => value.to_string(),
        };
        (min..=max).filter(|value| self.contains(*value)).map(spell).collect::<Vec<_>>().join(",")
    }
}

/// `*`, `?`, `5`, `1-5`, each with an optional `/step`; what is wrong with it otherwise.
fn parse_part(field: Field, part: &str) -> Result<(u64, bool), String> {
    let (min, max) = field.bounds();
    let (range, step) = match part.split_once('/') {
        None => (part, None),
        Some((_, step)) if step.contains('/') => return Err(format!("{part:?} has more than one slash")),
        Some((range, step)) => (range, Some(parse_step(step)?)),
    };
    let (start, end, star) = match range.split_once('-') {
        None if matches!(range, "*" | "?") => (min, max, true),
        None => {
            let value = parse_value(field, range)?;
            // A single value with a step begins a range.
            (value, if step.is_some() { max } else { value }, false)
        }
        Some((_, end)) if end.contains('-') => return Err(format!("{range:?} has more than one hyphen")),
        Some((start, end)) => (parse_value(field, start)?, parse_value(field, end)?, false),
    };
    if start > end {
        return Err(format!("range {range:?} begins after its end"));
    }
    let step = step.unwrap_or(1);
    let bits = (start..=end).step_by(step).fold(0, |bits, value| bits | 1 << value);
    Ok((bits, star && step == 1))
}

fn parse_step(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => Err(format!("step {text:?} is no whole number above 0")),
        // A step beyond every field leaves the first value only, as any larger one does.
        Ok(step) => Ok(step.min(1000) as usize),
    }
}

fn parse_value(field: Field, text: &str) -> Result<u8, String> {
    let (min, max) = field.bounds();
    if let Some(at) = field.names().iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(min + u8::try_from(at).unwrap_or(max));
    }
    let value: u32 = text.parse().map_err(|_| not_a_value(field, text))?;
    match u8::try_from(value) {
        Ok(7) if field == Field::DayOfWeek => Err("7 is too large: Sunday is 0".to_owned()),
        Ok(value) if value < min => Err(format!("{value} is too small")),
        Ok(value) if value <= max => Ok(value),
        _ => Err(format!("{value} is too large")),
    }
}

fn not_a_value(field: Field, text: &str) -> String {
    if text.contains(['L', 'W', '#', 'l', 'w']) && matches!(field, Field::DayOfMonth | Field::DayOfWeek) {
        return format!("{text:?} is an extension (L, W, #) that Kubernetes does not know");
    }
    if field.names().is_empty() {
        format!("{text:?} is no whole number")
    } else {
        format!("{text:?} is no whole number and no name")
    }
}
