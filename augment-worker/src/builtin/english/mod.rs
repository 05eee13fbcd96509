//! English sentences, parsed by rules as far as rules carry: subject, predicate, object, slot, dates; the rest as whole statements.

pub(crate) mod clauses;
mod group;
mod leads;
pub(crate) mod rewrite;
pub(crate) mod slots;
mod subject;
pub(crate) mod verbs;

use jiff::civil::Date;
use memori_schemas::FactKind;

use self::group::{TAKES_INFINITIVE, object_of, verb_group_end};
use self::leads::{HEDGES, leads_in, starts_with, states_of_speaker, told_before_question, without_lead};
use self::rewrite::{is_first_person, possessive, to_third_person};
use self::slots::Shape;
use self::subject::{Subject, implies_speaker, is_person, lower_first, subject_of, tense_of};
use super::dates::{self, Tense};
use super::words::{Word, join, phrase};
use super::{Speaker, Statement, instructions, junk, plain_text};

/// What a message has said so far, for "she" and "it".
#[derive(Default)]
pub(crate) struct Mentioned {
    person: Option<String>,
    thing: Option<String>,
}

/// Where and when a sentence is said.
pub(crate) struct Setting<'a> {
    pub(crate) speaker: &'a Speaker,
    pub(crate) today: Date,
    pub(crate) mentioned: &'a mut Mentioned,
}

const CERTAIN: f32 = 0.9;
const WHOLE: f32 = 0.6;
const HEDGED: f32 = 0.5;

/// What an English sentence states; nothing where it is junk.
pub(crate) fn statements(sentence: &str, is_question: bool, setting: &mut Setting<'_>) -> Vec<Statement> {
    let words = without_lead(rewrite::expand(super::words::split(sentence)));
    if words.is_empty() || leads_in(&words) {
        return Vec::new();
    }
    if !is_question && let Some(instruction) = instructions::english(&words, setting.speaker) {
        return vec![instruction];
    }
    let asks = is_question || junk::asks(&words);
    let mut parts = clauses::split(&words);
    if asks {
        // "I'm vegetarian, what should I cook?" tells something before it asks.
        let tells = |c: &clauses::Clause| states_of_speaker(&c.words) && !junk::asks(&c.words);
        let (told, rest) = told_before_question(&words);
        parts = if rest { clauses::split(&told).into_iter().filter(tells).collect() } else { Vec::new() };
    }
    let mut out = Vec::new();
    for part in parts {
        if junk::asks(&part.words) || junk::is_request(&part.words) || junk::is_small_talk(&join(&part.words)) {
            continue;
        }
        if let Some(instruction) = instructions::english(&part.words, setting.speaker) {
            out.push(instruction);
            continue;
        }
        if !out.is_empty() && only_judges(&part.words) {
            continue;
        }
        out.extend(clause(part.words, part.shares_subject, setting));
    }
    out
}

/// "…, it was great": says nothing without what stands before it.
fn only_judges(words: &[Word]) -> bool {
    let judgement = |w: &Word| {
        w.is_any(&[
            "great",
            "good",
            "nice",
            "amazing",
            "awesome",
            "fun",
            "lovely",
            "terrible",
            "awful",
            "bad",
            "fantastic",
            "wonderful",
            "horrible",
            "boring",
            "ok",
            "okay",
            "cool",
            "perfect",
            "delicious",
            "brilliant",
            "beautiful",
            "exhausting",
            "hilarious",
        ])
    };
    let [subject, verb, rest @ ..] = words else { return false };
    // "… and I hate it"
    if subject.lower == "i" && verb.is_any(&["love", "hate", "like", "enjoy", "loved", "hated", "liked", "enjoyed"]) {
        return matches!(rest, [what] if what.is_any(&["it", "that", "this", "them"]));
    }
    subject.is_any(&["it", "that", "this"])
        && verb.is_any(&["was", "is"])
        && rest.split_last().is_some_and(|(last, between)| judgement(last) && between.iter().all(|w| verbs::is_adverb(&w.lower)))
}

fn clause(mut words: Vec<Word>, shares_subject: bool, setting: &mut Setting<'_>) -> Vec<Statement> {
    let hedge = HEDGES.iter().filter_map(|h| starts_with(&words, h)).max().unwrap_or(0);
    let hedged = hedge > 0 && words.len() > hedge + 1;
    if hedged {
        words.drain(..hedge);
    }
    if shares_subject {
        words.insert(0, Word::bare("I"));
    }
    let mut out = one_clause(words, setting);
    if hedged {
        for statement in &mut out {
            statement.confidence = HEDGED;
        }
    }
    out
}

fn one_clause(mut words: Vec<Word>, setting: &mut Setting<'_>) -> Vec<Statement> {
    if words.len() > 2 && words[0].is_any(&["now", "then"]) && words[1].is_any(&["he", "she", "it"]) {
        words.remove(0);
    }
    if implies_speaker(&words) {
        lower_first(&mut words);
        words.insert(0, Word::bare("I"));
    }
    let tense = tense_of(&words);
    let found = dates::resolve(&mut words, setting.today, tense);
    let from = found
        .iter()
        .map(|f| f.from)
        .min()
        .or_else(|| dates::absolute(&words))
        .filter(|d| *d <= setting.today && tense != Tense::Future);
    let valid_from = from.and_then(dates::micros_of);
    let mut out = match subject_of(&words) {
        Subject::Speaker(verb) => of_speaker(&words, verb, tense, setting),
        Subject::Pronoun => of_pronoun(words, setting),
        Subject::Phrase(verb) => vec![of_phrase(&words, verb, setting)],
        Subject::Unknown => vec![whole(&words, setting.speaker)],
    };
    for statement in &mut out {
        statement.valid_from = valid_from;
    }
    out
}

/// Statements of the speaker about himself.
fn of_speaker(words: &[Word], verb: usize, tense: Tense, setting: &mut Setting<'_>) -> Vec<Statement> {
    let speaker = setting.speaker;
    let mut shown = words.to_vec();
    to_third_person(&mut shown, speaker);
    let group_end = verb_group_end(words, verb);
    let object = object_of(words, group_end);
    let object_end = group_end + object.len();
    let anymore = words[verb..].iter().any(|w| w.lower == "anymore");
    let predicate = phrase(&shown[verb..group_end.max(verb)]);
    let slot_of = |object: &[Word]| {
        let mut verb_words = words[verb..group_end].to_vec();
        if anymore {
            verb_words.extend([Word::bare("no"), Word::bare("longer")]);
        }
        slots::of_clause(&Shape { subject: speaker.name(), verb: &verb_words, object, future: tense == Tense::Future })
    };
    remember_object(words, verb, object, speaker, setting.mentioned);
    let statement = |text: String, object_text: String, slot: Option<String>| Statement {
        kind: FactKind::Fact,
        text: plain_text(&text),
        subject: Some(speaker.name().to_owned()),
        predicate: Some(predicate.clone()).filter(|p| !p.is_empty()),
        object: Some(object_text).filter(|o| !o.is_empty()),
        slot,
        valid_from: None,
        confidence: CERTAIN,
    };
    let main = words.get(group_end.saturating_sub(1)).map_or("", |w| w.lower.as_str());
    if slots::splits_lists(main)
        && group_end == verb + 1
        && let Some(items) = clauses::list_items(object, matches!(main, "speak" | "use" | "study" | "learn"))
    {
        let tail = join(&shown[object_end..]);
        let head = join(&shown[..group_end]);
        return items
            .iter()
            .map(|item| {
                let mut item_shown = item.clone();
                to_third_person(&mut item_shown, speaker);
                let text = [head.as_str(), &phrase(&item_shown), &tail].join(" ");
                statement(text, phrase(&item_shown), slot_of(item))
            })
            .collect();
    }
    let slot = slot_of(object);
    let works_as = object.windows(2).position(|w| w[0].lower == "as" && w[1].is_any(&["a", "an"])).filter(|at| *at > 0);
    if let Some(at) = works_as.filter(|_| slot.as_deref().is_some_and(|slot| slot.ends_with("/works_at"))) {
        // Where, and as what: two slots.
        let (place, job) = (phrase(&shown[group_end..group_end + at]), phrase(&shown[group_end + at + 1..object_end]));
        let tail = join(&shown[object_end..]);
        let place_text = [&join(&shown[..group_end]), &place, &tail].map(String::as_str).join(" ");
        let mut as_what = statement(format!("{} works as {job}", speaker.name()), job, None);
        as_what.slot = slots::of_attribute(speaker.name(), "job");
        as_what.predicate = Some("works as".to_owned());
        return vec![statement(place_text, place, slot), as_what];
    }
    vec![statement(join(&shown), phrase(&shown[group_end..object_end]), slot)]
}

/// "I have a sister called Anna": "she" will be Anna.
fn remember_object(words: &[Word], verb: usize, object: &[Word], speaker: &Speaker, mentioned: &mut Mentioned) {
    let has = words.get(verb).is_some_and(|w| w.is_any(&["have", "got", "adopted", "met", "own", "bought"]));
    let Some(noun) = object.get(1).filter(|_| has && object[0].is_any(&["a", "an", "one", "my"])) else { return };
    let name = object.iter().skip(2).find(|w| w.is_capitalised()).map(|w| w.core.as_str());
    let mut shown = format!("{} {}", possessive(speaker.name()), noun.core);
    if let Some(name) = name {
        shown.push(' ');
        shown.push_str(name);
    }
    if is_person(&noun.lower) || name.is_some() {
        mentioned.person = Some(shown);
    } else {
        mentioned.thing = Some(shown);
    }
}

/// "She lives in Rome" after "My sister Anna is a doctor".
fn of_pronoun(mut words: Vec<Word>, setting: &mut Setting<'_>) -> Vec<Statement> {
    let meant = if words[0].lower == "it" { setting.mentioned.thing.clone() } else { setting.mentioned.person.clone() };
    let verb = words.iter().skip(1).position(|w| verbs::is_finite(&w.lower)).map(|i| i + 1);
    let (Some(meant), Some(verb)) = (meant, verb.filter(|v| *v <= 3)) else { return vec![whole(&words, setting.speaker)] };
    words[0] = Word { core: meant.clone(), ..Word::bare(&meant) };
    vec![stated(&words, verb, meant, setting.speaker)]
}

/// A statement about somebody or something else.
fn of_phrase(words: &[Word], verb: usize, setting: &mut Setting<'_>) -> Statement {
    let mut shown = words.to_vec();
    to_third_person(&mut shown, setting.speaker);
    let subject = phrase(&shown[..verb]);
    let head = &words[..verb];
    let person = head.iter().any(|w| is_person(&w.lower))
        || (head.len() <= 2
            && head.iter().all(Word::is_capitalised)
            && !head[0].is_any(&["the", "a", "an"])
            && !head[0].core.chars().all(|c| c.is_uppercase() || !c.is_alphabetic()));
    let possessed_attribute = head.len() > 1 && head[0].lower == "my";
    if person {
        setting.mentioned.person = Some(subject.clone());
    } else {
        setting.mentioned.thing = Some(subject.clone());
    }
    let mut statement = stated(words, verb, subject, setting.speaker);
    // "My team lead is Priya": "she" will be Priya.
    if let [name] = &words[verb + 1..]
        && words[verb].lower == "is"
        && name.is_capitalised()
        && name.core.chars().all(char::is_alphabetic)
        && (person || head.iter().any(|w| w.is_any(&["lead", "director", "nurse", "lawyer", "assistant"])))
    {
        setting.mentioned.person = Some(name.core.clone());
    }
    if possessed_attribute && words[verb].lower == "is" {
        let slot = slots::of_attribute(setting.speaker.name(), &phrase(&head[1..]));
        if let Some(slot) = slot {
            statement.subject = Some(setting.speaker.name().to_owned());
            statement.predicate = Some(format!("{} is", phrase(&head[1..])));
            statement.slot = Some(slot);
        }
    }
    statement
}

fn stated(words: &[Word], verb: usize, subject: String, speaker: &Speaker) -> Statement {
    let mut shown = words.to_vec();
    to_third_person(&mut shown, speaker);
    let group_end = verb_group_end(words, verb);
    let object = object_of(words, group_end);
    let slot = slots::of_clause(&Shape { subject: &subject, verb: &words[verb..group_end], object, future: false })
        .filter(|slot| ["lives_in", "works_at", "job", "age", "marital_status"].iter().any(|s| slot.ends_with(s)));
    Statement {
        kind: FactKind::Fact,
        text: plain_text(&join(&shown)),
        subject: Some(subject),
        predicate: Some(phrase(&shown[verb..group_end])).filter(|p| !p.is_empty()),
        object: Some(phrase(&shown[group_end..group_end + object.len()])).filter(|o| !o.is_empty()),
        slot,
        valid_from: None,
        confidence: CERTAIN,
    }
}

/// A statement that no rule takes apart: the speaker's words, with the speaker named in them.
fn whole(words: &[Word], speaker: &Speaker) -> Statement {
    let about_speaker = is_first_person(words);
    let mut shown = words.to_vec();
    to_third_person(&mut shown, speaker);
    Statement {
        kind: FactKind::Fact,
        text: plain_text(&join(&shown)),
        subject: (about_speaker || speaker.is_named()).then(|| speaker.name().to_owned()),
        predicate: None,
        object: None,
        slot: None,
        valid_from: None,
        confidence: WHOLE,
    }
}
