//! Expressions of time in a sentence, against one Wednesday.

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
        ("I ran last Tuesday", "I ran on 2024-05-07"),
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
        ("I will go next Thursday", "I will go on 2024-05-23"),
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
