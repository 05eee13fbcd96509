//! Relative dates, resolved against the event's time (UTC), so that a fact says when without its message beside it.

mod tables;

use jiff::civil::{Date, Weekday};
use jiff::{Span, Timestamp, ToSpan, tz::TimeZone};
use memori_schemas::Micros;

use self::tables::{FOREIGN_DAYS, Unit, amount, day_number, direction, month, unit, weekday, year_number};
use super::words::Word;

/// The day of an instant, in UTC. Instants out of range fall on 1970-01-01.
pub(crate) fn day_of(at: Micros) -> Date {
    Timestamp::from_microsecond(at.0).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC).date()
}

/// The start of a day.
pub(crate) fn micros_of(day: Date) -> Option<Micros> {
    day.to_zoned(TimeZone::UTC).ok().map(|zoned| Micros(zoned.timestamp().as_microsecond()))
}

/// Whether the clause speaks of what was or of what will be; decides what "on Friday" and "in March" mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tense {
    /// It was.
    Past,
    /// It will be.
    Future,
    /// Neither is said.
    Open,
}

/// An expression of time that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its first day.
    pub(crate) from: Date,
}

/// How an expression is written out.
enum Shown {
    Day(Date),
    PartOfDay(Date, &'static str),
    Around(Date),
    Week(Date),
    Weekend(Date),
    Month(Date),
    Year(Date),
    Season(&'static str, Date),
}

impl Shown {
    fn from(&self) -> Date {
        match self {
            Self::Day(d)
            | Self::PartOfDay(d, _)
            | Self::Around(d)
            | Self::Week(d)
            | Self::Weekend(d)
            | Self::Month(d)
            | Self::Year(d) => *d,
            Self::Season(_, d) => *d,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Day(d) | Self::Around(d) => d.to_string(),
            Self::PartOfDay(d, part) => format!("{d} {part}"),
            Self::Week(d) => format!("the week of {d}"),
            Self::Weekend(d) => format!("the weekend of {d}"),
            Self::Month(d) => d.strftime("%B %Y").to_string(),
            Self::Year(d) => d.year().to_string(),
            Self::Season(name, d) => format!("the {name} of {}", d.year()),
        }
    }

    fn preposition(&self) -> &'static str {
        match self {
            Self::Day(_) | Self::PartOfDay(..) | Self::Weekend(_) => "on",
            Self::Around(_) => "around",
            Self::Week(_) | Self::Month(_) | Self::Year(_) | Self::Season(..) => "in",
        }
    }
}

const KEEPS: &[&str] =
    &["on", "in", "at", "by", "since", "until", "till", "from", "before", "after", "for", "of", "around", "during"];

/// Replaces relative dates in `words` by absolute ones, and tells where they begin.
pub(crate) fn resolve(words: &mut Vec<Word>, today: Date, tense: Tense) -> Vec<Found> {
    let mut found = Vec::new();
    let mut out: Vec<Word> = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let Some((taken, shown)) = expression(&words[at..], out.last(), today, tense) else {
            out.push(words[at].clone());
            at += 1;
            continue;
        };
        found.push(Found { from: shown.from() });
        let (first, last) = (&words[at], &words[at + taken - 1]);
        let after = last.after.clone();
        let before = first.before.clone();
        let owns = first.is_any(&["on", "in", "since", "by", "until"]).then(|| first.core.clone());
        let previous = out.last().filter(|w| w.after.is_empty() && w.is_any(KEEPS)).map(|w| w.lower.clone());
        let preposition = match (&owns, previous.as_deref()) {
            (Some(own), _) if matches!(own.to_lowercase().as_str(), "since" | "by" | "until") => Some(own.clone()),
            (_, Some("on" | "in" | "at" | "around" | "during")) => {
                // "at" and the like were said for the expression that is gone: the right one takes their place.
                if let Some(last) = out.last_mut() {
                    *last = Word { is_date: true, before: last.before.clone(), ..Word::bare(shown.preposition()) };
                }
                None
            }
            (_, Some(_)) => {
                if let Some(last) = out.last_mut() {
                    last.is_date = true;
                }
                None
            }
            _ => Some(shown.preposition().to_owned()),
        };
        let text = shown.text();
        let mut pieces: Vec<Word> = preposition.iter().map(String::as_str).chain(text.split(' ')).map(Word::bare).collect();
        for piece in &mut pieces {
            piece.is_date = true;
        }
        if let Some(first) = pieces.first_mut() {
            first.before = before;
        }
        if let Some(last) = pieces.last_mut() {
            last.after = after;
        }
        out.extend(pieces);
        at += taken;
    }
    *words = out;
    found
}

/// The expression at the start of `words`: how many words it takes, and what it means.
fn expression(words: &[Word], previous: Option<&Word>, today: Date, tense: Tense) -> Option<(usize, Shown)> {
    let at = |i: usize| words.get(i).map_or("", |w| w.lower.as_str());
    let joined = |i: usize| i == 0 || words.get(i - 1).is_some_and(|w| w.after.is_empty());
    let (a, b, c, d, e) = (at(0), if joined(1) { at(1) } else { "" }, at(2), at(3), at(4));
    let part = |word: &str| match word {
        "morning" => Some("in the morning"),
        "afternoon" => Some("in the afternoon"),
        "evening" => Some("in the evening"),
        "night" => Some("at night"),
        _ => None,
    };
    match (a, b, c, d) {
        ("the", "day", "before", "yesterday") => return Some((4, Shown::Day(shift(today, (-2).days())?))),
        ("the", "day", "after", "tomorrow") => return Some((4, Shown::Day(shift(today, 2.days())?))),
        ("the", "other", "day", _) => return None,
        _ => {}
    }
    match a {
        "yesterday" | "tomorrow" | "today" => {
            let day = shift(
                today,
                if a == "yesterday" {
                    (-1).days()
                } else if a == "tomorrow" {
                    1.days()
                } else {
                    0.days()
                },
            )?;
            return Some(match part(b) {
                Some(part) => (2, Shown::PartOfDay(day, part)),
                None => (1, Shown::Day(day)),
            });
        }
        "tonight" => return Some((1, Shown::PartOfDay(today, "at night"))),
        _ => {}
    }
    if let Some(direction) = direction(a) {
        if let Some(part) = part(b) {
            return match direction {
                0 => Some((2, Shown::PartOfDay(today, part))),
                -1 if b == "night" => Some((2, Shown::PartOfDay(shift(today, (-1).days())?, part))),
                _ => None,
            };
        }
        if let Some(day) = weekday(b) {
            let takes = if part(c).is_some() && joined(2) { 3 } else { 2 };
            let date = named_weekday(today, day, direction)?;
            return Some((takes, part(c).filter(|_| takes == 3).map_or(Shown::Day(date), |p| Shown::PartOfDay(date, p))));
        }
        if let Some(month) = month(b) {
            // "may" after "this" is more often the verb.
            if b == "may" && !words[1].is_capitalised() {
                return None;
            }
            let date = relative_month(today, month, direction)?;
            // The month beside this one would be called by its name alone.
            let beside = direction != 0 && shift(today.first_of_month(), Span::new().months(direction))? == date;
            let date = if beside { shift(date, Span::new().years(direction))? } else { date };
            return Some((2, Shown::Month(date)));
        }
        let monday = shift(today, Span::new().days(-i64::from(today.weekday().to_monday_zero_offset())))?;
        let n = i64::from(direction);
        return match b {
            "week" => Some((2, Shown::Week(shift(monday, Span::new().weeks(n))?))),
            "weekend" => {
                let saturday = shift(monday, Span::new().days(5))?;
                let over = today.weekday().to_monday_zero_offset() >= 5;
                let weeks = if direction < 0 && over && today.weekday() == Weekday::Sunday { -1 } else { n };
                Some((2, Shown::Weekend(shift(saturday, Span::new().weeks(weeks))?)))
            }
            "month" => Some((2, Shown::Month(shift(today.first_of_month(), Span::new().months(n))?))),
            "year" => Some((2, Shown::Year(shift(today.first_of_year(), Span::new().years(n))?))),
            "spring" => Some((2, Shown::Season("spring", season(today, 3, direction)?))),
            "summer" => Some((2, Shown::Season("summer", season(today, 6, direction)?))),
            "autumn" | "fall" => Some((2, Shown::Season("autumn", season(today, 9, direction)?))),
            _ => None,
        };
    }
    // "three days ago", "in two weeks", "a week from now"
    let amount_at = usize::from(a == "in" || a == "about" || a == "around");
    if let Some((n, used)) = amount(words, amount_at)
        && let Some(unit) = unit(at(amount_at + used))
    {
        let after = amount_at + used + 1;
        let (x, y) = (at(after), at(after + 1));
        if x == "ago" && a != "in" {
            return Some((after + 1, span_shown(today, -n, unit)?));
        }
        if x == "from" && matches!(y, "now" | "today") && a != "in" {
            return Some((after + 2, span_shown(today, n, unit)?));
        }
        let ends = words.get(after - 1).is_some_and(|w| !w.lower.ends_with('\''));
        if a == "in" && ends && tense == Tense::Future {
            return Some((after, span_shown(today, n, unit)?));
        }
    }
    // "on Friday", "in March", "on March 5th"
    if matches!(a, "on" | "since" | "by" | "until") {
        if let Some(day) = weekday(b) {
            let takes = if part(c).is_some() && joined(2) { 3 } else { 2 };
            let date = match (a, tense) {
                ("since", _) | ("on", Tense::Past) => relative_weekday(today, day, -1)?,
                ("by" | "until", _) | ("on", Tense::Future) => relative_weekday(today, day, 1)?,
                _ => return None,
            };
            return Some((takes, part(c).filter(|_| takes == 3).map_or(Shown::Day(date), |p| Shown::PartOfDay(date, p))));
        }
        let (m, dd, year) = if month(b).is_some() {
            (b, c, d)
        } else if c == "of" {
            (d, b, e)
        } else {
            (c, b, d)
        };
        if let (Some(month), Some(day)) = (month(m), day_number(dd))
            && !(a == "on" && tense == Tense::Open)
            && year_number(year).is_none()
        {
            let takes = if c == "of" { 4 } else { 3 };
            let forward = tense == Tense::Future || matches!(a, "by" | "until");
            return Some((takes, Shown::Day(nearest_day(today, month, day, forward)?)));
        }
    }
    if matches!(a, "in" | "since")
        && tense != Tense::Open
        && let Some(month) = month(b)
        && year_number(c).is_none()
        && day_number(c).is_none()
        && words[1].is_capitalised()
    {
        let back = a == "since" || tense == Tense::Past;
        return Some((2, Shown::Month(relative_month(today, month, if back { -1 } else { 1 })?)));
    }
    let _ = previous;
    None
}

/// The first day of an absolute date that is said outright ("in 2019", "since March 2020", "on 5 May 2021", "2021-05-05").
pub(crate) fn absolute(words: &[Word]) -> Option<Date> {
    for (i, word) in words.iter().enumerate() {
        if let Ok(date) = word.core.parse::<Date>()
            && word.core.len() == 10
        {
            return Some(date);
        }
        let Some(year) = year_number(&word.lower) else { continue };
        let lead = |back: usize| i.checked_sub(back).map_or("", |k| words[k].lower.as_str());
        if let Some(m) = month(lead(1)) {
            let day = day_number(lead(2)).unwrap_or(1);
            return Date::new(year, m, day).ok();
        }
        if let (Some(day), Some(m)) = (day_number(lead(1)), month(lead(2))) {
            return Date::new(year, m, day).ok();
        }
        if matches!(lead(1), "in" | "since" | "from") {
            return Date::new(year, 1, 1).ok();
        }
    }
    None
}

fn span_shown(today: Date, n: i64, unit: Unit) -> Option<Shown> {
    Some(match unit {
        Unit::Day => Shown::Day(shift(today, Span::new().try_days(n).ok()?)?),
        Unit::Week => Shown::Around(shift(today, Span::new().try_weeks(n).ok()?)?),
        Unit::Month => Shown::Month(shift(today.first_of_month(), Span::new().try_months(n).ok()?)?),
        Unit::Year => Shown::Year(shift(today.first_of_year(), Span::new().try_years(n).ok()?)?),
    })
}

fn shift(day: Date, span: Span) -> Option<Date> {
    day.checked_add(span).ok()
}

/// Last: the latest before today. This: in the present week. Next: the earliest after today.
fn relative_weekday(today: Date, day: Weekday, direction: i32) -> Option<Date> {
    let ahead = i64::from(today.weekday().until(day));
    match direction {
        -1 => shift(today, Span::new().days(if ahead == 0 { -7 } else { ahead - 7 })),
        0 => {
            let offset = i64::from(day.to_monday_zero_offset()) - i64::from(today.weekday().to_monday_zero_offset());
            shift(today, Span::new().days(offset))
        }
        _ => shift(today, Span::new().days(if ahead == 0 { 7 } else { ahead })),
    }
}

/// As `relative_weekday`, but nobody calls yesterday "last" or tomorrow "next": that is the one a week further.
fn named_weekday(today: Date, day: Weekday, direction: i32) -> Option<Date> {
    let date = relative_weekday(today, day, direction)?;
    let beside = direction != 0 && shift(today, Span::new().days(direction))? == date;
    if beside { shift(date, Span::new().weeks(direction)) } else { Some(date) }
}

fn relative_month(today: Date, month: i8, direction: i32) -> Option<Date> {
    let this_year = Date::new(today.year(), month, 1).ok()?;
    let years = match direction {
        -1 if month >= today.month() => -1,
        1 if month <= today.month() => 1,
        _ => 0,
    };
    shift(this_year, Span::new().years(years))
}

fn season(today: Date, first_month: i8, direction: i32) -> Option<Date> {
    let this_year = Date::new(today.year(), first_month, 1).ok()?;
    let years = match direction {
        -1 if today.month() < first_month + 3 => -1,
        1 if today.month() >= first_month => 1,
        _ => 0,
    };
    shift(this_year, Span::new().years(years))
}

fn nearest_day(today: Date, month: i8, day: i8, forward: bool) -> Option<Date> {
    let this_year = Date::new(today.year(), month, day).ok()?;
    match (forward, this_year < today) {
        (true, true) => Date::new(today.year().checked_add(1)?, month, day).ok(),
        (false, false) if this_year > today => Date::new(today.year().checked_sub(1)?, month, day).ok(),
        _ => Some(this_year),
    }
}

/// A foreign sentence keeps its words; a word for a day near today gets the date behind it.
pub(crate) fn annotate(text: &str, language: &str, today: Date) -> String {
    let lowered = super::words::lower(text);
    for (of, word, days) in FOREIGN_DAYS {
        if (!of.is_empty() && of != language) || !lowered.contains(word) {
            continue;
        }
        let Some(date) = shift(today, Span::new().days(days)) else { continue };
        if word.chars().any(|c| ('\u{3000}'..='\u{ffff}').contains(&c)) {
            if let Some(at) = text.find(word) {
                let behind = at + word.len();
                return format!("{}（{date}）{}", &text[..behind], &text[behind..]);
            }
            continue;
        }
        let mut words = super::words::split(text);
        let hit = (0..words.len()).find(|&i| {
            let previous = i.checked_sub(1).map_or("", |k| words[k].lower.as_str());
            words[i].lower == word
                && !(word == "mañana" && matches!(previous, "la" | "una" | "cada"))
                && !(word == "morgen" && (words[i].is_capitalised() && i > 0 || matches!(previous, "guten" | "jeden" | "am")))
        });
        if let Some(i) = hit {
            words[i].core.push_str(&format!(" ({date})"));
            return super::words::join(&words);
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests;
