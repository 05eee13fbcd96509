//! English verbs as far as rules need them: which form a word is, and its third person.

/// Irregular past forms.
const IRREGULAR_PAST: &[&str] = &[
    "was",
    "were",
    "had",
    "did",
    "went",
    "got",
    "made",
    "said",
    "saw",
    "came",
    "took",
    "gave",
    "found",
    "thought",
    "told",
    "became",
    "left",
    "felt",
    "brought",
    "began",
    "kept",
    "held",
    "wrote",
    "stood",
    "heard",
    "let",
    "meant",
    "met",
    "ran",
    "paid",
    "sat",
    "spoke",
    "lay",
    "led",
    "grew",
    "lost",
    "fell",
    "sent",
    "built",
    "understood",
    "drew",
    "broke",
    "spent",
    "rose",
    "drove",
    "bought",
    "wore",
    "chose",
    "ate",
    "drank",
    "sang",
    "swam",
    "flew",
    "knew",
    "slept",
    "taught",
    "caught",
    "fought",
    "sold",
    "won",
    "threw",
    "forgot",
    "forgave",
    "woke",
    "rode",
    "hid",
    "bit",
    "blew",
    "dealt",
    "dug",
    "fed",
    "froze",
    "hung",
    "laid",
    "lent",
    "lit",
    "sank",
    "shook",
    "shot",
    "shone",
    "sought",
    "stole",
    "struck",
    "stuck",
    "swore",
    "tore",
    "withdrew",
    "bent",
    "bound",
    "bred",
    "clung",
    "crept",
    "fled",
    "flung",
    "ground",
    "knelt",
    "leapt",
    "leant",
    "learnt",
    "dreamt",
    "burnt",
    "mistook",
    "overcame",
    "oversaw",
    "redid",
    "rang",
    "rewrote",
    "sewed",
    "showed",
    "shrank",
    "slid",
    "smelt",
    "spat",
    "sped",
    "spelt",
    "spilt",
    "spun",
    "sprang",
    "stung",
    "swept",
    "swung",
    "undertook",
    "underwent",
    "undid",
    "upset",
    "wept",
    "quit",
    "retook",
    "rebuilt",
    "reran",
];

/// Words in -ed that are present forms or no verbs.
const NOT_PAST: &[&str] = &[
    "need", "feed", "bleed", "breed", "speed", "exceed", "succeed", "proceed", "embed", "shed", "wed", "bed", "red", "indeed",
    "seed", "weed", "heed", "hundred", "sacred", "naked", "wicked", "reed", "deed", "greed", "steed", "med", "ted", "fred",
    "ned", "allied", "biped", "moped", "shred", "sled", "fed", "led",
];

/// Present forms (third person) that make a clause of a noun phrase.
const THIRD_PERSON: &[&str] = &[
    "lives", "works", "likes", "loves", "hates", "prefers", "enjoys", "runs", "uses", "plays", "owns", "speaks", "studies",
    "wants", "needs", "makes", "costs", "starts", "ends", "takes", "gives", "goes", "comes", "keeps", "thinks", "knows", "says",
    "means", "believes", "feels", "seems", "looks", "sounds", "tastes", "smells", "becomes", "gets", "has", "does", "teaches",
    "writes", "reads", "eats", "drinks", "sleeps", "sells", "buys", "builds", "drives", "flies", "walks", "wears", "cooks",
    "bakes", "travels", "visits", "helps", "hopes", "plans", "tries", "learns", "manages", "leads", "joins", "leaves", "moves",
    "stays", "stands", "sits", "opens", "closes", "begins", "stops", "happens", "depends", "supports", "requires", "contains",
    "includes", "consists", "belongs", "expires", "returns", "handles", "serves", "stores", "sends", "receives", "connects",
    "listens", "crashes", "fails", "breaks", "grows", "lasts", "weighs", "measures", "covers", "allows", "offers", "provides",
    "produces", "creates", "deploys", "hosts", "tends", "refuses", "suffers", "dislikes", "adores", "collects", "calls", "barks",
    "snores", "talks", "sings", "dances", "arrives", "departs", "matters", "launches", "jumps", "follows", "remains", "holds",
    "carries", "shows", "replaces",
];

/// Present forms of the first person that may stand without their subject, or behind "and".
pub(crate) const FIRST_PERSON: &[&str] = &[
    "like",
    "love",
    "hate",
    "prefer",
    "enjoy",
    "adore",
    "dislike",
    "need",
    "want",
    "have",
    "own",
    "live",
    "work",
    "study",
    "speak",
    "play",
    "use",
    "drink",
    "eat",
    "drive",
    "collect",
    "teach",
    "learn",
    "run",
    "know",
    "hope",
    "plan",
    "feel",
    "think",
    "believe",
    "miss",
    "cook",
    "bake",
    "read",
    "write",
    "sing",
    "dance",
    "travel",
    "go",
    "sleep",
    "wear",
    "smoke",
    "watch",
    "follow",
    "support",
    "listen",
    "practise",
    "practice",
    "avoid",
    "manage",
    "lead",
    "do",
    "am",
    "can",
    "will",
    "keep",
    "get",
    "commute",
    "volunteer",
    "code",
    "program",
    "paint",
];

/// Auxiliaries and modal verbs.
const AUXILIARIES: &[&str] = &[
    "am", "is", "are", "was", "were", "be", "been", "have", "has", "had", "do", "does", "did", "will", "would", "can", "could",
    "should", "shall", "may", "might", "must", "'d", "wo", "ca", "ought", "cannot", "gonna", "dare", "need",
];

const NEGATED: &[(&str, &str)] = &[
    ("don't", "doesn't"),
    ("dont", "doesn't"),
    ("haven't", "hasn't"),
    ("havent", "hasn't"),
    ("aren't", "isn't"),
    ("isn't", "isn't"),
    ("wasn't", "wasn't"),
    ("weren't", "weren't"),
    ("didn't", "didn't"),
    ("didnt", "didn't"),
    ("won't", "won't"),
    ("can't", "can't"),
    ("cant", "can't"),
    ("couldn't", "couldn't"),
    ("wouldn't", "wouldn't"),
    ("shouldn't", "shouldn't"),
    ("hadn't", "hadn't"),
    ("doesn't", "doesn't"),
    ("hasn't", "hasn't"),
    ("mustn't", "mustn't"),
];

/// Adverbs that may stand between a subject and its verb.
const ADVERBS: &[&str] = &[
    "really",
    "also",
    "still",
    "just",
    "always",
    "never",
    "often",
    "usually",
    "sometimes",
    "currently",
    "recently",
    "now",
    "absolutely",
    "mostly",
    "rarely",
    "actually",
    "definitely",
    "probably",
    "already",
    "only",
    "ever",
    "even",
    "finally",
    "generally",
    "normally",
    "typically",
    "personally",
    "truly",
    "totally",
    "completely",
    "quite",
    "rather",
    "very",
    "much",
    "once",
    "then",
    "soon",
    "almost",
    "regularly",
    "occasionally",
    "literally",
    "both",
    "seriously",
    "strongly",
    "seldom",
    "hardly",
    "barely",
    "kinda",
    "too",
    "simply",
    "basically",
    "certainly",
];

/// Whether `word` is a form of the past.
pub(crate) fn is_past(word: &str) -> bool {
    IRREGULAR_PAST.contains(&word) || (word.len() > 3 && word.ends_with("ed") && !NOT_PAST.contains(&word))
}

/// Whether `word` may stand between a subject and its verb.
pub(crate) fn is_adverb(word: &str) -> bool {
    ADVERBS.contains(&word)
        || (word.len() > 5
            && word.ends_with("ly")
            && !matches!(word, "family" | "reply" | "supply" | "apply" | "rally" | "italy" | "multiply"))
}

/// Whether `word` is an auxiliary, a modal verb, or one of them negated.
pub(crate) fn is_auxiliary(word: &str) -> bool {
    AUXILIARIES.contains(&word) || is_negated(word)
}

/// "don't" and its like.
pub(crate) fn is_negated(word: &str) -> bool {
    NEGATED.iter().any(|(form, _)| *form == word)
}

/// Whether `word`, behind a noun phrase, is its verb.
pub(crate) fn is_finite(word: &str) -> bool {
    (is_auxiliary(word) && !matches!(word, "be" | "been" | "'d" | "wo" | "ca" | "dare" | "need" | "do"))
        || THIRD_PERSON.contains(&word)
        || is_past(word)
}

/// The form that goes with he, she or a name, of the form that goes with "I".
pub(crate) fn third_person(word: &str) -> String {
    if let Some((_, third)) = NEGATED.iter().find(|(form, _)| *form == word) {
        return (*third).to_owned();
    }
    match word {
        "am" | "'m" | "are" => return "is".into(),
        "have" | "'ve" => return "has".into(),
        "do" => return "does".into(),
        "go" => return "goes".into(),
        "'d" => return "would".into(),
        "'ll" => return "will".into(),
        "were" => return "were".into(),
        _ => {}
    }
    if is_auxiliary(word) && word != "need" || is_past(word) || matches!(word, "gotta" | "wanna" | "better" | "used") {
        return word.to_owned();
    }
    let stem_ends = |ends: &[&str]| ends.iter().any(|end| word.ends_with(end));
    if word.ends_with('y') && !stem_ends(&["ay", "ey", "oy", "uy"]) {
        return format!("{}ies", &word[..word.len() - 1]);
    }
    if stem_ends(&["s", "x", "z", "ch", "sh"]) {
        return format!("{word}es");
    }
    format!("{word}s")
}

#[cfg(test)]
mod tests {
    use super::{is_past, third_person};

    #[test]
    fn forms() {
        for (first, third) in [
            ("am", "is"),
            ("have", "has"),
            ("don't", "doesn't"),
            ("like", "likes"),
            ("study", "studies"),
            ("play", "plays"),
            ("watch", "watches"),
            ("moved", "moved"),
            ("went", "went"),
            ("need", "needs"),
            ("can", "can"),
            ("do", "does"),
            ("miss", "misses"),
            ("quit", "quit"),
            ("go", "goes"),
        ] {
            assert_eq!(third_person(first), third);
        }
        assert!(is_past("visited") && !is_past("need") && !is_past("red"));
    }
}
