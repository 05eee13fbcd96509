//! Words for numbers, units, days and months.

use jiff::civil::Weekday;

use crate::builtin::words::Word;

#[derive(Clone, Copy)]
pub(super) enum Unit {
    Day,
    Week,
    Month,
    Year,
}

pub(super) fn unit(word: &str) -> Option<Unit> {
    Some(match word {
        "day" | "days" => Unit::Day,
        "week" | "weeks" => Unit::Week,
        "month" | "months" => Unit::Month,
        "year" | "years" => Unit::Year,
        _ => return None,
    })
}

/// A number in words or digits at `at`, and how many words it takes.
pub(super) fn amount(words: &[Word], at: usize) -> Option<(i64, usize)> {
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

pub(super) fn direction(word: &str) -> Option<i32> {
    match word {
        "last" => Some(-1),
        "this" => Some(0),
        "next" | "coming" => Some(1),
        _ => None,
    }
}

pub(super) fn weekday(word: &str) -> Option<Weekday> {
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

pub(super) fn month(word: &str) -> Option<i8> {
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

pub(super) fn day_number(word: &str) -> Option<i8> {
    let digits = word
        .strip_suffix("st")
        .or(word.strip_suffix("nd"))
        .or(word.strip_suffix("rd"))
        .or(word.strip_suffix("th"))
        .unwrap_or(word);
    digits.parse::<i8>().ok().filter(|n| (1..=31).contains(n) && digits.len() <= 2)
}

pub(super) fn year_number(word: &str) -> Option<i16> {
    (word.len() == 4).then(|| word.parse::<i16>().ok()).flatten().filter(|y| (1900..=2199).contains(y))
}

/// Words for days near today in other languages: (language or none, word, days).
pub(super) const FOREIGN_DAYS: [(&str, &str, i64); 51] = [
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
    ("nl", "eergisteren", -2),
    ("nl", "morgen", 1),
    ("", "позавчера", -2),
    ("", "вчера", -1),
    ("", "сегодня", 0),
    ("", "завтра", 1),
    ("", "вчора", -1),
    ("", "сьогодні", 0),
    ("", "wczoraj", -1),
    ("", "dzisiaj", 0),
    ("", "jutro", 1),
    ("", "dün", -1),
    ("", "bugün", 0),
    ("", "yarın", 1),
    ("", "igår", -1),
    ("", "idag", 0),
    ("", "imorgon", 1),
    ("", "أمس", -1),
    ("", "اليوم", 0),
    ("", "غدا", 1),
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
