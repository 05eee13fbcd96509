//! English sentences, parsed by rules as far as rules carry: subject, predicate, object, slot, dates; the rest as whole statements.

pub(crate) mod clauses;
pub(crate) mod rewrite;
pub(crate) mod slots;
pub(crate) mod verbs;

use jiff::civil::Date;
use memori_schemas::FactKind;

use self::rewrite::{is_first_person, is_i, possessive, to_third_person};
use self::slots::Shape;
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

const FILLERS: &[&str] = &[
    "well",
    "so",
    "oh",
    "btw",
    "actually",
    "also",
    "yeah",
    "yep",
    "yes",
    "ok",
    "okay",
    "anyway",
    "anyways",
    "hmm",
    "ah",
    "fyi",
    "and",
    "but",
    "plus",
    "honestly",
    "frankly",
    "basically",
    "look",
    "listen",
    "right",
    "sure",
    "hey",
    "hi",
    "hello",
    "please",
    "besides",
    "moreover",
    "furthermore",
    "additionally",
    "however",
];
const LEADS: &[&str] = &[
    "by the way",
    "to be honest",
    "just so you know",
    "for the record",
    "for your information",
    "as you know",
    "you know",
    "please note that",
    "note that",
    "please remember that",
    "remember that",
    "keep in mind that",
    "always remember that",
    "please keep in mind that",
    "please remember",
    "remember",
    "note",
    "fun fact",
    "i mean",
    "in fact",
    "to be fair",
    "you should know that",
    "i should mention that",
    "i want you to know that",
    "i forgot to mention that",
    "i forgot to mention",
    "guess what",
    "as i said",
    "like i said",
    "as mentioned",
    "it turns out that",
    "turns out",
    "tbh",
    "quick update",
    "update",
    "good news",
    "bad news",
    "speaking of which",
    "on top of that",
    "in addition",
];
const HEDGES: &[&str] = &[
    "i think that",
    "i think",
    "i guess that",
    "i guess",
    "i believe that",
    "i believe",
    "i suppose",
    "i feel like",
    "maybe",
    "perhaps",
    "probably",
    "possibly",
    "i'd say",
    "i would say",
];

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
        out.extend(clause(part.words, part.shares_subject, setting));
    }
    out
}

/// Whether a clause at the end of a question is what asks.
fn asks_of(words: &[Word]) -> bool {
    junk::asks(words) || words.first().is_some_and(|w| w.is_any(&["what", "which", "who", "where", "when", "how", "why", "any"]))
}

/// The clauses in front of a question, if there are any.
fn told_before_question(words: &[Word]) -> (Vec<Word>, bool) {
    let pause = (1..words.len()).rev().find(|&i| {
        let previous = &words[i - 1];
        let joined = words[i].is_any(&["so", "and", "but"]);
        (previous.ends_with_comma() || previous.after.contains(['—', '–']) || joined)
            && asks_of(&words[i + usize::from(joined)..])
    });
    let Some(at) = pause else { return (Vec::new(), false) };
    let mut told = words[..at].to_vec();
    if told.first().is_some_and(|w| w.is_any(&["since", "as", "because", "given", "if"])) {
        if told[0].lower == "if" {
            return (Vec::new(), false);
        }
        told.remove(0);
        if told.first().is_some_and(|w| w.lower == "that") {
            told.remove(0);
        }
    }
    if let Some(last) = told.last_mut() {
        last.after.clear();
    }
    (told, true)
}

fn states_of_speaker(words: &[Word]) -> bool {
    words.first().is_some_and(|w| w.is_any(&["i", "my", "we", "our"])) && words.len() > 1
}

/// "Here is my code:" says nothing without what follows.
fn leads_in(words: &[Word]) -> bool {
    let opens = words[0].is_any(&["here", "here's", "heres", "below", "see", "this", "these"]);
    opens && words.len() <= 8 && words.last().is_some_and(|w| w.after.ends_with(':'))
}

/// Without "By the way," and the like; a greeting in front goes too.
fn without_lead(mut words: Vec<Word>) -> Vec<Word> {
    for _ in 0..6 {
        let comma = words.iter().take(6).position(Word::ends_with_comma);
        if let Some(at) = comma.filter(|at| at + 1 < words.len())
            && junk::is_small_talk(&join(&words[..=at]))
            && words[at].lower.chars().any(char::is_alphabetic)
        {
            words.drain(..=at);
            continue;
        }
        let lead = LEADS.iter().filter_map(|lead| starts_with(&words, lead)).max().unwrap_or(0);
        let bare_noun =
            lead == 1 && !words[0].ends_with_comma() && !words.get(1).is_some_and(|w| w.is_any(&["that", "i", "my", "we"]));
        if lead > 0 && lead < words.len() && !bare_noun {
            words.drain(..lead);
            continue;
        }
        let filler = words.len() > 2
            && words[0].is_any(FILLERS)
            && (words[0].ends_with_comma()
                || words[1].is_any(&["i", "my", "we", "he", "she", "it", "the", "they"])
                || words[0].is_any(&["and", "but", "also", "btw", "fyi"]));
        if !filler {
            break;
        }
        words.remove(0);
    }
    words
}

/// How many words of `words` are the phrase at its start.
fn starts_with(words: &[Word], phrase: &str) -> Option<usize> {
    let parts: Vec<&str> = phrase.split(' ').collect();
    let hit = words.len() > parts.len() && parts.iter().zip(words).all(|(p, w)| w.lower == *p);
    hit.then_some(parts.len())
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

enum Subject {
    /// "I", whose verb group begins at this word.
    Speaker(usize),
    /// "he", "she", "it" in front.
    Pronoun,
    /// A noun phrase up to this word, its verb.
    Phrase(usize),
    Unknown,
}

fn subject_of(words: &[Word]) -> Subject {
    if let Some(at) = (0..words.len().min(9)).find(|&i| is_i(words, i)) {
        let lead = &words[..at];
        let is_object = lead.iter().any(|w| w.is_any(&["and", "or", "that", "which", "who", "what", "than"]));
        let subordinate = lead.first().is_some_and(|w| {
            w.is_any(&[
                "when", "if", "while", "because", "since", "after", "before", "whenever", "where", "once", "although", "though",
            ])
        });
        let verb_before = lead.iter().any(|w| !w.is_date && verbs::is_finite(&w.lower));
        if !is_object && !subordinate && !verb_before && words.len() > at + 1 && !words[at + 1].is_any(&["and", "or"]) {
            return Subject::Speaker(at + 1);
        }
        if subordinate && let Some(main) = (at + 1..words.len()).find(|&i| is_i(words, i) && words[i - 1].ends_with_comma()) {
            return Subject::Speaker(main + 1);
        }
    }
    let Some(first) = words.first() else { return Subject::Unknown };
    if first.is_any(&["he", "she", "it"]) {
        return Subject::Pronoun;
    }
    if first.is_any(&[
        "when", "if", "while", "because", "since", "after", "before", "although", "though", "as", "once", "there", "to", "in",
        "on", "at", "for", "with", "without", "not", "we", "they", "you", "this", "that", "these", "those", "what", "who", "how",
    ]) {
        return Subject::Unknown;
    }
    let mut relative = false;
    for i in 1..words.len().min(12) {
        let word = &words[i];
        if word.is_any(&["who", "that", "which"]) {
            relative = true;
            continue;
        }
        let named = word.is_any(&[
            "named", "called", "based", "located", "used", "retired", "married", "left", "lost", "broken", "red", "bound", "led",
        ]);
        let in_name = word.is_capitalised() && words[i - 1].is_capitalised() && !verbs::is_auxiliary(&word.lower) && i > 1;
        let used_to = word.lower == "used" && words.get(i + 1).is_some_and(|w| w.lower == "to");
        if verbs::is_finite(&word.lower) && (used_to || !named || words[i - 1].is_capitalised()) && !in_name {
            if relative {
                relative = false;
                continue;
            }
            return Subject::Phrase(i);
        }
    }
    Subject::Unknown
}

/// "Moved to Berlin last week", "Love hiking": the speaker is meant.
fn implies_speaker(words: &[Word]) -> bool {
    let at = usize::from(words.first().is_some_and(|w| {
        w.is_any(&["just", "recently", "also", "really", "still", "never", "always", "finally", "currently", "already"])
    }));
    let Some(first) = words.get(at) else { return false };
    let second = words.get(at + 1).map_or("", |w| w.lower.as_str());
    if words.len() < at + 2 || is_first_subject(words) {
        return false;
    }
    let past = verbs::is_past(&first.lower)
        && !matches!(
            first.lower.as_str(),
            "was"
                | "were"
                | "had"
                | "did"
                | "said"
                | "let"
                | "left"
                | "lay"
                | "based"
                | "called"
                | "named"
                | "used"
                | "built"
                | "ground"
                | "bound"
                | "upset"
                | "saw"
                | "felt"
                | "located"
                | "related"
                | "compared"
                | "given"
                | "made"
                | "hung"
                | "found"
                | "led"
                | "hid"
                | "lit"
                | "red"
        )
        && matches!(
            second,
            "to" | "a"
                | "an"
                | "the"
                | "my"
                | "in"
                | "at"
                | "for"
                | "from"
                | "with"
                | "as"
                | "up"
                | "out"
                | "back"
                | "on"
                | "off"
                | "his"
                | "her"
                | "two"
                | "three"
                | "some"
                | "into"
                | "lots"
                | "by"
                | "down"
                | "over"
                | "yesterday"
                | "last"
                | "this"
                | "through"
                | "about"
        );
    let stance = matches!(first.lower.as_str(), "love" | "hate" | "prefer" | "enjoy" | "adore" | "dislike" | "live" | "am")
        && !words[at..].iter().any(|w| w.is_any(&["is", "was", "are", "has", "will"]));
    let been = first.lower == "been" && (second.ends_with("ing") || matches!(second, "to" | "a" | "in" | "at"));
    let going = matches!(
        first.lower.as_str(),
        "going"
            | "planning"
            | "working"
            | "living"
            | "moving"
            | "flying"
            | "studying"
            | "learning"
            | "looking"
            | "thinking"
            | "trying"
            | "travelling"
            | "traveling"
    ) && matches!(second, "to" | "on" | "in" | "at" | "for" | "about" | "as" | "with" | "from")
        && !words.iter().any(|w| w.is_any(&["is", "was", "are", "has", "can"]));
    past || stance || been || going
}

fn is_first_subject(words: &[Word]) -> bool {
    words.iter().take(3).enumerate().any(|(i, w)| is_i(words, i) || w.is_any(&["he", "she", "it", "we", "they", "you"]))
}

/// The small letter that a verb has inside a sentence; "been" and "going" get their auxiliary.
fn lower_first(words: &mut Vec<Word>) {
    words[0].core = words[0].core.to_lowercase();
    let at = usize::from(verbs::is_adverb(&words[0].lower));
    let auxiliary = match words.get(at).map(|w| w.lower.as_str()) {
        Some("been") => "have",
        Some(verb) if verb.ends_with("ing") => "am",
        _ => return,
    };
    words.insert(0, Word::bare(auxiliary));
}

fn tense_of(words: &[Word]) -> Tense {
    let has = |list: &[&str]| words.iter().any(|w| w.is_any(list));
    let pair = |a: &str, b: &str| words.windows(2).any(|w| w[0].lower == a && w[1].lower == b);
    let progressive = words.windows(2).any(|w| w[0].is_any(&["am", "is", "are"]) && w[1].lower.ends_with("ing"));
    let to_come = has(&[
        "appointment",
        "meeting",
        "exam",
        "interview",
        "flight",
        "party",
        "wedding",
        "trip",
        "deadline",
        "concert",
        "game",
        "match",
        "presentation",
        "surgery",
        "due",
        "starts",
        "leaves",
        "arrives",
        "launch",
        "demo",
    ]);
    let past = words.iter().any(|w| {
        verbs::is_past(&w.lower)
            && !w.is_any(&["need", "used", "married", "based", "interested", "scheduled", "excited", "tired"])
    });
    if has(&["will", "'ll", "won't", "gonna", "tomorrow", "next", "upcoming", "shall"])
        || pair("going", "to")
        || pair("plan", "to")
        || pair("have", "to")
        || pair("need", "to")
        || pair("hope", "to")
        || pair("want", "to")
    {
        return Tense::Future;
    }
    if past {
        return Tense::Past;
    }
    if progressive || to_come { Tense::Future } else { Tense::Open }
}

const PREPOSITIONS: &[&str] = &[
    "in", "at", "for", "with", "to", "on", "from", "as", "about", "of", "by", "into", "near", "against", "after", "out", "up",
    "towards", "through", "under", "over", "like",
];
const TAKES_INFINITIVE: &[&str] = &[
    "want", "wants", "wanted", "need", "needs", "needed", "like", "love", "hate", "prefer", "plan", "plans", "planned",
    "planning", "hope", "hopes", "try", "tried", "trying", "have", "had", "used", "going", "decided", "started", "able",
];

/// Where the verb group that begins at `from` ends, its preposition included.
fn verb_group_end(words: &[Word], from: usize) -> usize {
    let mut at = from;
    let skippable = |w: &Word| verbs::is_adverb(&w.lower) || w.is_any(&["not", "no", "longer"]);
    let mut be = false;
    while let Some(word) = words.get(at) {
        if verbs::is_auxiliary(&word.lower) && !(word.lower == "need" && at > from) {
            be |= word.is_any(&["am", "is", "are", "was", "were", "be", "been", "isn't", "aren't", "wasn't"]);
            at += 1;
        } else if skippable(word)
            && words.len() > at + 1
            && !(word.lower == "no" && words.get(at + 1).is_some_and(|w| w.lower != "longer"))
        {
            at += 1;
        } else {
            break;
        }
        if !words[at - 1].after.is_empty() && !verbs::is_adverb(&words[at - 1].lower) {
            return at;
        }
    }
    let group: Vec<&str> = words[from..at].iter().map(|w| w.lower.as_str()).collect();
    let full_verb_said = group.last().is_some_and(|w| matches!(*w, "have" | "has" | "had" | "do" | "does" | "did"))
        && !words.get(at).is_some_and(|w| {
            verbs::is_past(&w.lower) || w.is_any(&["gone", "known", "seen", "taken", "done", "written", "eaten", "to"])
        });
    if be {
        let participle = words.get(at).is_some_and(|w| {
            (w.lower.ends_with("ing") && w.lower.len() > 4)
                || (verbs::is_past(&w.lower)
                    && w.lower.ends_with("ed")
                    && words.get(at + 1).is_some_and(|n| n.is_any(PREPOSITIONS)))
                || w.is_any(&[
                    "born",
                    "allergic",
                    "afraid",
                    "interested",
                    "scared",
                    "good",
                    "bad",
                    "able",
                    "fluent",
                    "proud",
                    "tired",
                ])
        });
        if participle {
            at += 1;
        }
    } else if !full_verb_said && at < words.len() {
        at += 1;
    }
    if at > from
        && words[at - 1].is_any(TAKES_INFINITIVE)
        && words[at - 1].after.is_empty()
        && words.get(at).is_some_and(|w| w.lower == "to")
        && words.len() > at + 1
    {
        at += 2;
    }
    if at > from
        && at < words.len()
        && words[at - 1].after.is_empty()
        && words[at].is_any(PREPOSITIONS)
        && !words[at].is_date
        && words.len() > at + 1
    {
        at += 1;
    }
    at.min(words.len())
}

/// The object's words: what is behind the verb group, without a date at the end.
fn object_of(words: &[Word], from: usize) -> &[Word] {
    let mut end = words.len();
    while end > from
        && (words[end - 1].is_date || (end < words.len() && words[end - 1].is_any(&["since", "until", "by", "on", "in"])))
    {
        end -= 1;
    }
    while end > from && words[end - 1].is_any(&["anymore", "now", "too", "lately", "though", "currently", "nowadays", "again"]) {
        end -= 1;
    }
    // "since 2019" is a date that was said outright.
    if end >= from + 2
        && words[end - 2].is_any(&["since", "in", "until"])
        && words[end - 1].lower.len() == 4
        && words[end - 1].lower.parse::<u16>().is_ok()
        && end - 2 > from
    {
        end -= 2;
    }
    &words[from..end]
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

/// Words for people, and for animals that are spoken of like people.
fn is_person(word: &str) -> bool {
    matches!(
        word,
        "sister"
            | "brother"
            | "mother"
            | "father"
            | "mom"
            | "mum"
            | "dad"
            | "wife"
            | "husband"
            | "son"
            | "daughter"
            | "girlfriend"
            | "boyfriend"
            | "partner"
            | "friend"
            | "boss"
            | "manager"
            | "colleague"
            | "coworker"
            | "neighbour"
            | "neighbor"
            | "cousin"
            | "uncle"
            | "aunt"
            | "grandmother"
            | "grandfather"
            | "grandma"
            | "grandpa"
            | "nephew"
            | "niece"
            | "teacher"
            | "doctor"
            | "roommate"
            | "flatmate"
            | "fiancé"
            | "fiancée"
            | "fiance"
            | "fiancee"
            | "dog"
            | "cat"
            | "puppy"
            | "kitten"
            | "horse"
            | "baby"
            | "kid"
            | "child"
            | "boy"
            | "girl"
            | "twin"
            | "landlord"
            | "therapist"
            | "dentist"
            | "trainer"
            | "coach"
            | "mentor"
            | "client"
            | "stepmother"
            | "stepfather"
            | "parrot"
            | "rabbit"
            | "hamster"
    )
}
