//! Single-valued slots: where a later value closes an earlier one.

use memori_schemas::normalise::normalise;

use crate::builtin::words::{Word, phrase};
use crate::slots::bare_object;

/// Attributes of which everybody has one at a time ("my X is …").
const ATTRIBUTES: &[&str] = &[
    "name",
    "full name",
    "first name",
    "last name",
    "surname",
    "nickname",
    "age",
    "birthday",
    "date of birth",
    "email",
    "email address",
    "phone number",
    "number",
    "address",
    "job",
    "job title",
    "title",
    "occupation",
    "profession",
    "role",
    "position",
    "employer",
    "company",
    "wife",
    "husband",
    "partner",
    "spouse",
    "boss",
    "manager",
    "hometown",
    "city",
    "country",
    "nationality",
    "time zone",
    "timezone",
    "native language",
    "mother tongue",
    "first language",
    "height",
    "weight",
    "shoe size",
    "blood type",
    "zodiac sign",
    "star sign",
    "major",
    "school",
    "university",
    "pronouns",
    "salary",
    "budget",
    "goal",
    "password hint",
];

/// Occupations that no ending tells.
const OCCUPATIONS: &[&str] = &[
    "nurse",
    "chef",
    "cook",
    "pilot",
    "judge",
    "architect",
    "surgeon",
    "midwife",
    "vet",
    "dentist",
    "student",
    "freelancer",
    "postman",
    "fireman",
    "policeman",
    "coach",
    "plumber",
    "accountant",
    "consultant",
    "assistant",
    "analyst",
    "pharmacist",
    "clerk",
    "cashier",
    "barista",
    "athlete",
    "soldier",
    "monk",
    "priest",
    "cto",
    "ceo",
    "cfo",
    "developer",
    "lawyer",
    "attorney",
    "professor",
    "intern",
    "model",
    "actress",
    "waitress",
    "journalist",
    "scientist",
    "sre",
    "guide",
];

/// Words with an occupation's ending that are none.
const NO_OCCUPATIONS: &[&str] = &[
    "beginner",
    "lover",
    "owner",
    "smoker",
    "drinker",
    "runner",
    "member",
    "user",
    "fan",
    "mother",
    "father",
    "brother",
    "sister",
    "believer",
    "newcomer",
    "foreigner",
    "reader",
    "eater",
    "sleeper",
    "learner",
    "player",
    "speaker",
    "follower",
    "hiker",
    "biker",
    "swimmer",
    "gamer",
    "eater",
    "supporter",
    "customer",
    "volunteer",
    "vegetarian",
    "christian",
    "optimist",
];

const MARITAL: &[&str] = &["married", "single", "divorced", "engaged", "widowed", "separated"];
const DIETS: &[&str] = &["vegetarian", "vegan", "pescatarian", "pescetarian", "flexitarian", "omnivore", "carnivore", "keto"];

/// Verbs of which one stance is held at a time towards one object, and the name of that stance.
fn stance(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "like" | "likes" | "love" | "loves" | "adore" | "adores" | "enjoy" | "enjoys" | "hate" | "hates" | "dislike"
        | "dislikes" | "despise" | "detest" | "loathe" => "attitude",
        "use" | "uses" | "using" => "uses",
        "own" | "owns" | "have" | "has" | "owning" | "having" => "has",
        "drink" | "drinks" | "drinking" => "drinks",
        "eat" | "eats" | "eating" => "eats",
        "play" | "plays" | "playing" => "plays",
        "speak" | "speaks" => "speaks",
        "smoke" | "smokes" | "smoking" => "smokes",
        "learn" | "learning" | "study" | "studies" | "studying" => "studies",
        "drive" | "drives" | "driving" => "drives",
        _ => return None,
    })
}

/// Whether a list behind this verb is a list of objects of their own.
pub(crate) fn splits_lists(verb: &str) -> bool {
    matches!(stance(verb), Some("attitude" | "uses" | "speaks" | "plays" | "eats" | "drinks" | "studies"))
}

/// A clause as the slots see it: the subject, the words from its verb on (not yet in the third person), and its object's words.
pub(crate) struct Shape<'a> {
    pub(crate) subject: &'a str,
    pub(crate) verb: &'a [Word],
    pub(crate) object: &'a [Word],
    pub(crate) future: bool,
}

/// The slot that the clause fills.
pub(crate) fn of_clause(shape: &Shape<'_>) -> Option<String> {
    let name = slot_name(shape)?;
    Some(format!("{}/{name}", normalise(shape.subject)))
}

/// The slot of "my X is …": an attribute, or a favourite.
pub(crate) fn of_attribute(owner: &str, attribute: &str) -> Option<String> {
    let attribute = normalise(attribute);
    let favourite = attribute.strip_prefix("favourite ").or_else(|| attribute.strip_prefix("favorite "));
    if let Some(what) = favourite.filter(|what| !what.is_empty() && what.split(' ').count() <= 4) {
        return Some(format!("{}/favourite {what}", normalise(owner)));
    }
    let name = match attribute.as_str() {
        "job title" | "title" | "occupation" | "profession" | "role" | "position" => "job",
        "employer" | "company" => "works_at",
        "first name" | "full name" => "name",
        "wife" | "husband" | "partner" | "spouse" => "partner",
        "timezone" => "time zone",
        "date of birth" => "birthday",
        "email address" => "email",
        other => other,
    };
    ATTRIBUTES.contains(&attribute.as_str()).then(|| format!("{}/{name}", normalise(owner)))
}

fn slot_name(shape: &Shape<'_>) -> Option<String> {
    let verb: Vec<&str> = shape.verb.iter().map(|w| w.lower.as_str()).collect();
    let at = |i: usize| verb.get(i).copied().unwrap_or("");
    let fixed = |name: &str| Some(name.to_owned());
    // What was once, or will be, says nothing of what is.
    let ended = verb.windows(2).any(|w| w == ["no", "longer"])
        || verb.iter().any(|w| matches!(*w, "anymore" | "stopped" | "quit" | "gave"));
    if shape.future
        || (verb.starts_with(&["used", "to"]))
        || verb
            .iter()
            .take(3)
            .any(|w| matches!(*w, "want" | "wants" | "would" | "could" | "might" | "hope" | "plan" | "may" | "should"))
    {
        return None;
    }
    let mut core: Vec<&str> = verb
        .iter()
        .copied()
        .filter(|w| {
            !matches!(
                *w,
                "currently"
                    | "now"
                    | "really"
                    | "also"
                    | "still"
                    | "just"
                    | "recently"
                    | "have"
                    | "has"
                    | "been"
                    | "not"
                    | "no"
                    | "longer"
                    | "anymore"
                    | "don't"
                    | "doesn't"
                    | "didn't"
                    | "never"
                    | "always"
                    | "both"
                    | "actually"
                    | "absolutely"
            )
        })
        .collect();
    if core.is_empty() && !verb.contains(&"been") {
        core = verb.iter().copied().filter(|w| matches!(*w, "have" | "has")).collect();
    }
    let has = |words: &[&str]| core.windows(words.len()).any(|w| w == words);
    let negative = verb.iter().any(|w| matches!(*w, "not" | "never" | "don't" | "doesn't" | "didn't" | "haven't" | "hasn't"))
        && !ended
        && !verb.contains(&"anymore");
    let places = [
        ["live", "in"],
        ["lives", "in"],
        ["living", "in"],
        ["moved", "to"],
        ["relocated", "to"],
        ["reside", "in"],
        ["resides", "in"],
        ["based", "in"],
        ["moved", "back"],
        ["settled", "in"],
    ];
    if places.iter().any(|p| has(p)) && !negative {
        return fixed("lives_in");
    }
    let works = [
        ["work", "at"],
        ["works", "at"],
        ["work", "for"],
        ["works", "for"],
        ["working", "at"],
        ["working", "for"],
        ["employed", "at"],
        ["employed", "by"],
    ];
    if works.iter().any(|p| has(p)) && !negative {
        return fixed("works_at");
    }
    let object = phrase(shape.object);
    let lower = normalise(&object);
    let first = core.first().copied().unwrap_or("");
    if matches!(first, "joined") && shape.object.first().is_some_and(|w| w.is_capitalised()) {
        return fixed("works_at");
    }
    if (ended || first == "lost" || first == "left")
        && shape.object.first().is_some_and(|w| w.is_any(&["my", "the"]))
        && shape.object.get(1).is_some_and(|w| w.lower == "job")
    {
        return fixed("works_at");
    }
    let to_place = shape.object.iter().any(|w| w.lower == "to");
    if has(&["moved", "from"]) && to_place && !negative {
        return fixed("lives_in");
    }
    let job_at = first == "got"
        && lower.starts_with("a ")
        && ["job at ", "position at ", "job with "].iter().any(|job| lower.contains(job));
    let started_at =
        first == "started" && (lower.starts_with("working at ") || lower.starts_with("working for ") || has(&["started", "at"]));
    if (job_at || started_at) && !negative {
        return fixed("works_at");
    }
    if [["work", "as"], ["works", "as"], ["working", "as"]].iter().any(|p| has(p)) {
        return fixed("job");
    }
    if matches!(first, "am" | "is" | "turned" | "became" | "become" | "got")
        && !negative
        && let Some(slot) = of_state(first, shape.object, &lower)
    {
        return fixed(slot);
    }
    if first == "was" && at(1) == "born" || has(&["was", "born"]) {
        return fixed(if shape.object.iter().any(|w| w.is_date || w.lower.len() == 4 && w.lower.parse::<u16>().is_ok()) {
            "born_on"
        } else {
            "born_in"
        });
    }
    let words = shape.object.len();
    if (1..=6).contains(&words) && lower.len() <= 120 {
        let main = if ended { core.iter().rev().find_map(|w| stance(w)) } else { stance(first).filter(|_| core.len() == 1) };
        return main.map(|stance| format!("{stance}/{}", bare_object(&lower)));
    }
    None
}

fn of_state(verb: &str, object: &[Word], text: &str) -> Option<&'static str> {
    let first = object.first()?;
    if first.lower.parse::<u8>().is_ok_and(|n| n > 0 && n < 130)
        && (verb == "turned" || object.len() == 1 || text.contains("year"))
    {
        return Some("age");
    }
    if matches!(verb, "turned") {
        return None;
    }
    if MARITAL.contains(&first.lower.as_str()) || text == "a widow" || text == "a widower" {
        return Some("marital_status");
    }
    let bare = bare_object(text);
    if DIETS.contains(&bare) {
        return Some("diet");
    }
    if first.is_any(&["a", "an"]) && is_occupation(object) {
        return Some("job");
    }
    None
}

/// "a backend engineer", "a nurse in Bonn".
fn is_occupation(object: &[Word]) -> bool {
    let end = object
        .iter()
        .position(|w| w.is_any(&["in", "at", "for", "with", "from", "and", "who", "of", "on"]))
        .unwrap_or(object.len());
    let Some(head) = object[..end].last().filter(|_| (2..=5).contains(&end)) else { return false };
    let word = head.lower.as_str();
    if NO_OCCUPATIONS.contains(&word) {
        return false;
    }
    OCCUPATIONS.contains(&word) || (word.len() > 4 && ["er", "or", "ist", "eer", "ian"].iter().any(|end| word.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::{ATTRIBUTES, of_attribute};
    use crate::slots::{ATTITUDE, NAMES, slot};

    #[test]
    fn attributes_have_their_names_from_the_shared_list() {
        for attribute in ATTRIBUTES {
            let found = of_attribute("User", attribute).expect("a slot");
            let name = found.strip_prefix("user/").expect("the owner");
            assert!(NAMES.contains(&name), "{attribute}: {name} is not in the shared list");
        }
        for fixed in ["lives_in", "works_at", "job", "age", "marital_status", "diet", "born_on", "born_in"] {
            assert!(NAMES.contains(&fixed));
        }
        assert_eq!(slot("User", ATTITUDE, Some("the opera")).as_deref(), Some("user/attitude/opera"));
    }
}
