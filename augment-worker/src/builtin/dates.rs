//! Relative dates, resolved against the event's time (UTC), so that a fact says when without its message beside it.

use jiff::civil::{Date, Weekday};
use jiff::{Span, Timestamp, ToSpan, tz::TimeZone};
use memori_schemas::Micros;

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
            let date = relative_weekday(today, day, direction)?;
            return Some((takes, part(c).filter(|_| takes == 3).map_or(Shown::Day(date), |p| Shown::PartOfDay(date, p))));
        }
        if let Some(month) = month(b) {
            // "may" after "this" is more often the verb.
            if b == "may" && !words[1].is_capitalised() {
                return None;
            }
            return Some((2, Shown::Month(relative_month(today, month, direction)?)));
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

#[derive(Clone, Copy)]
enum Unit {
    Day,
    Week,
    Month,
    Year,
}

fn unit(word: &str) -> Option<Unit> {
    Some(match word {
        "day" | "days" => Unit::Day,
        "week" | "weeks" => Unit::Week,
        "month" | "months" => Unit::Month,
        "year" | "years" => Unit::Year,
        _ => return None,
    })
}

fn span_shown(today: Date, n: i64, unit: Unit) -> Option<Shown> {
    Some(match unit {
        Unit::Day => Shown::Day(shift(today, Span::new().try_days(n).ok()?)?),
        Unit::Week => Shown::Around(shift(today, Span::new().try_weeks(n).ok()?)?),
        Unit::Month => Shown::Month(shift(today.first_of_month(), Span::new().try_months(n).ok()?)?),
        Unit::Year => Shown::Year(shift(today.first_of_year(), Span::new().try_years(n).ok()?)?),
    })
}

/// A number in words or digits at `at`, and how many words it takes.
fn amount(words: &[Word], at: usize) -> Option<(i64, usize)> {
    let word = words.get(at)?.lower.as_str();
    let next = words.get(at + 1).map_or("", |w| w.lower.as_str());
    let n = match word {
        "a" if next == "couple" => return Some((2, 2 + usize::from(words.get(at + 2).is_some_and(|w| w.lower == "of")))),
        "a" | "an" | "one" => 1,
        "two" => 2,
        "three" => 3,
        "four" => 4,
        "five" => 5,
        "six" => 6,
        "seven" => 7,
        "eight" => 8,
        "nine" => 9,
        "ten" => 10,
        "eleven" => 11,
        "twelve" => 12,
        _ => word.parse::<i64>().ok().filter(|n| (0..=1000).contains(n))?,
    };
    Some((n, 1))
}

fn direction(word: &str) -> Option<i32> {
    match word {
        "last" => Some(-1),
        "this" => Some(0),
        "next" | "coming" => Some(1),
        _ => None,
    }
}

fn weekday(word: &str) -> Option<Weekday> {
    Some(match word {
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" | "tues" => Weekday::Tuesday,
        "wednesday" | "wed" => Weekday::Wednesday,
        "thursday" | "thu" | "thurs" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" | "sat" => Weekday::Saturday,
        "sunday" | "sun" => Weekday::Sunday,
        _ => return None,
    })
}

fn month(word: &str) -> Option<i8> {
    let names = [
        ("january", "jan"),
        ("february", "feb"),
        ("march", "mar"),
        ("april", "apr"),
        ("may", "may"),
        ("june", "jun"),
        ("july", "jul"),
        ("august", "aug"),
        ("september", "sep"),
        ("october", "oct"),
        ("november", "nov"),
        ("december", "dec"),
    ];
    names.iter().zip(1_i8..).find(|((long, short), _)| *long == word || *short == word).map(|(_, n)| n)
}

fn day_number(word: &str) -> Option<i8> {
    let digits = word
        .strip_suffix("st")
        .or(word.strip_suffix("nd"))
        .or(word.strip_suffix("rd"))
        .or(word.strip_suffix("th"))
        .unwrap_or(word);
    digits.parse::<i8>().ok().filter(|n| (1..=31).contains(n) && digits.len() <= 2)
}

fn year_number(word: &str) -> Option<i16> {
    (word.len() == 4).then(|| word.parse::<i16>().ok()).flatten().filter(|y| (1900..=2199).contains(y))
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

/// Words for days near today in other languages: (language or none, word, days).
const FOREIGN_DAYS: [(&str, &str, i64); 34] = [
    ("de", "vorgestern", -2),
    ("de", "gestern", -1),
    ("de", "heute", 0),
    ("de", "übermorgen", 2),
    ("de", "morgen", 1),
    ("fr", "avant-hier", -2),
    ("fr", "hier", -1),
    ("fr", "aujourd'hui", 0),
    ("fr", "demain", 1),
    ("es", "anteayer", -2),
    ("es", "ayer", -1),
    ("es", "hoy", 0),
    ("es", "mañana", 1),
    ("it", "ieri", -1),
    ("it", "oggi", 0),
    ("it", "domani", 1),
    ("pt", "ontem", -1),
    ("pt", "hoje", 0),
    ("pt", "amanhã", 1),
    ("nl", "gisteren", -1),
    ("nl", "vandaag", 0),
    ("", "вчера", -1),
    ("", "сегодня", 0),
    ("", "завтра", 1),
    ("zh", "前天", -2),
    ("zh", "昨天", -1),
    ("zh", "今天", 0),
    ("zh", "明天", 1),
    ("zh", "后天", 2),
    ("ja", "昨日", -1),
    ("ja", "今日", 0),
    ("ja", "明日", 1),
    ("", "어제", -1),
    ("", "내일", 1),
];

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
mod tests {
    use jiff::civil::{Date, date};

    use super::{Tense, absolute, annotate, resolve};
    use crate::builtin::words::{join, split};

    // A Wednesday.
    const TODAY: Date = date(2024, 5, 15);

    fn shown(text: &str, tense: Tense) -> String {
        let mut words = split(text);
        resolve(&mut words, TODAY, tense);
        join(&words)
    }

    #[test]
    fn days() {
        for (said, meant) in [
            ("I ran yesterday.", "I ran on 2024-05-14."),
            ("I ran yesterday morning", "I ran on 2024-05-14 in the morning"),
            ("I ran the day before yesterday", "I ran on 2024-05-13"),
            ("I slept badly last night", "I slept badly on 2024-05-14 at night"),
            ("I ran last Friday, alone", "I ran on 2024-05-10, alone"),
            ("I ran last Wednesday", "I ran on 2024-05-08"),
            ("I ran on Monday", "I ran on 2024-05-13"),
            ("I ran three days ago", "I ran on 2024-05-12"),
            ("I ran 2 weeks ago", "I ran around 2024-05-01"),
            ("I ran a couple of months ago", "I ran in March 2024"),
            ("I started four years ago", "I started in 2020"),
            ("I ran last week", "I ran in the week of 2024-05-06"),
            ("I ran last weekend", "I ran on the weekend of 2024-05-11"),
            ("I ran last month", "I ran in April 2024"),
            ("I ran last year", "I ran in 2023"),
            ("I ran last summer", "I ran in the summer of 2023"),
            ("I ran in June", "I ran in June 2023"),
            ("I ran in March", "I ran in March 2024"),
            ("I ran on March 5th", "I ran on 2024-03-05"),
            ("I ran on the way in 3 hours", "I ran on the way in 3 hours"),
            ("I learned it in two weeks", "I learned it in two weeks"),
            ("I ran in March 2019", "I ran in March 2019"),
        ] {
            assert_eq!(shown(said, Tense::Past), meant);
        }
    }

    #[test]
    fn days_to_come() {
        for (said, meant) in [
            ("The exam is tomorrow at 5", "The exam is on 2024-05-16 at 5"),
            ("I will go by tomorrow", "I will go by 2024-05-16"),
            ("I will go in three days", "I will go on 2024-05-18"),
            ("I will go next week", "I will go in the week of 2024-05-20"),
            ("I will go next Friday", "I will go on 2024-05-17"),
            ("I will go on Wednesday", "I will go on 2024-05-22"),
            ("I will go in a month", "I will go in June 2024"),
            ("I will go next month", "I will go in June 2024"),
            ("I will go a week from now", "I will go around 2024-05-22"),
            ("I will go the day after tomorrow", "I will go on 2024-05-17"),
            ("I will go in March", "I will go in March 2025"),
            ("I will go on 3 May", "I will go on 2025-05-03"),
            ("I will go this Saturday", "I will go on 2024-05-18"),
        ] {
            assert_eq!(shown(said, Tense::Future), meant);
        }
    }

    #[test]
    fn edges_of_the_calendar() {
        let mut words = split("I ran last month");
        resolve(&mut words, date(2024, 1, 31), Tense::Past);
        assert_eq!(join(&words), "I ran in December 2023");
        let mut words = split("I ran three days ago");
        resolve(&mut words, date(2024, 3, 1), Tense::Past);
        assert_eq!(join(&words), "I ran on 2024-02-27");
        for edge in [Date::MIN, Date::MAX] {
            let mut words = split("I ran last year and 1000 years ago and next year tomorrow");
            resolve(&mut words, edge, Tense::Past);
        }
    }

    #[test]
    fn absolute_dates() {
        for (said, meant) in [
            ("since 2019", Some(date(2019, 1, 1))),
            ("in March 2020", Some(date(2020, 3, 1))),
            ("on 5 May 2021", Some(date(2021, 5, 5))),
            ("on May 5th, 2021", Some(date(2021, 5, 5))),
            ("on 2021-05-05", Some(date(2021, 5, 5))),
            ("2000 books", None),
        ] {
            assert_eq!(absolute(&split(said)), meant, "{said}");
        }
    }

    #[test]
    fn other_languages_keep_their_words() {
        assert_eq!(annotate("Ich war gestern in Bonn", "de", TODAY), "Ich war gestern (2024-05-14) in Bonn");
        assert_eq!(annotate("Jeden Morgen trinke ich Tee", "de", TODAY), "Jeden Morgen trinke ich Tee");
        assert_eq!(annotate("我昨天去了巴黎", "zh", TODAY), "我昨天（2024-05-14）去了巴黎");
        assert_eq!(annotate("The hier is French", "en", TODAY), "The hier is French");
    }
}
