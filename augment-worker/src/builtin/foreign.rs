//! Other languages: which one it is, and light cues for who lives, works, is called and likes what. The words stay the speaker's own.

use memori_schemas::normalise::normalise;

use super::words::{cut, lower};

/// Function words by which a language of Latin script shows itself.
const MARKERS: &[(&str, &[&str])] = &[
    (
        "en",
        &[
            "i", "the", "my", "is", "a", "and", "to", "of", "in", "i'm", "it", "for", "you", "with", "was", "on", "have", "at",
            "that", "this", "are", "has", "i've", "we", "he", "she", "they", "not", "but", "an", "as", "from", "by", "be",
            "when", "will", "am", "always", "never", "please", "don't", "your", "like", "love", "last", "next", "me", "had",
            "his", "her", "our", "their", "call", "answer", "use", "keep",
        ],
    ),
    (
        "de",
        &[
            "ich", "und", "der", "die", "das", "ist", "mein", "meine", "nicht", "ein", "eine", "bin", "habe", "wir", "zu", "mit",
            "auf", "im", "am", "für", "bei", "den", "dem", "von", "mir", "mich", "sie", "er", "es", "sind", "war", "als", "seit",
            "immer", "aus", "sehr", "gern", "gerne", "heiße", "wohne", "meiner", "meinem", "einen", "bitte", "jetzt",
        ],
    ),
    (
        "fr",
        &[
            "je",
            "j'ai",
            "le",
            "la",
            "les",
            "et",
            "est",
            "mon",
            "ma",
            "mes",
            "un",
            "une",
            "des",
            "du",
            "dans",
            "pour",
            "avec",
            "suis",
            "pas",
            "que",
            "nous",
            "au",
            "aux",
            "en",
            "à",
            "de",
            "c'est",
            "il",
            "elle",
            "chez",
            "très",
            "j'aime",
            "j'habite",
            "m'appelle",
            "sur",
            "depuis",
            "d'un",
            "l'an",
        ],
    ),
    (
        "es",
        &[
            "yo", "el", "la", "los", "las", "y", "es", "mi", "mis", "un", "una", "en", "de", "con", "para", "me", "no", "que",
            "soy", "tengo", "vivo", "estoy", "muy", "por", "del", "al", "se", "gusta", "trabajo", "hace", "desde", "su",
            "gustan",
        ],
    ),
    (
        "it",
        &[
            "io", "il", "lo", "la", "gli", "e", "è", "mio", "mia", "un", "una", "in", "di", "con", "per", "mi", "non", "che",
            "sono", "ho", "abito", "vivo", "molto", "del", "della", "al", "alla", "nel", "piace", "lavoro", "da", "sempre",
            "miei", "anni", "chiamo",
        ],
    ),
    (
        "pt",
        &[
            "eu", "o", "os", "as", "e", "é", "meu", "minha", "um", "uma", "em", "de", "com", "para", "me", "não", "que", "sou",
            "tenho", "moro", "estou", "muito", "por", "do", "da", "ao", "no", "na", "gosto", "trabalho", "chamo", "há", "anos",
        ],
    ),
    (
        "nl",
        &[
            "ik", "de", "het", "en", "is", "mijn", "een", "niet", "ben", "heb", "in", "op", "met", "voor", "van", "te", "bij",
            "woon", "werk", "hou", "zijn", "wij", "ook", "naar", "al", "jaar",
        ],
    ),
];

/// The language of a sentence, as far as script and function words tell; empty where they do not.
pub(crate) fn language(sentence: &str) -> &'static str {
    let sample = cut(sentence, 600);
    if sample.chars().any(|c| matches!(c, '\u{3040}'..='\u{30ff}')) {
        return "ja";
    }
    if sample.chars().any(|c| matches!(c, '\u{ac00}'..='\u{d7af}')) {
        return "ko";
    }
    if sample.chars().any(|c| matches!(c, '\u{4e00}'..='\u{9fff}')) {
        return "zh";
    }
    let letters = sample.chars().filter(|c| c.is_alphabetic()).count();
    let latin = sample.chars().filter(|c| c.is_alphabetic() && *c < '\u{250}').count();
    if letters == 0 || latin * 2 < letters {
        return "";
    }
    let lowered = lower(sample);
    let words: Vec<&str> = lowered.split(|c: char| !c.is_alphabetic() && c != '\'').filter(|w| !w.is_empty()).collect();
    let mut best = ("", 0);
    for (language, markers) in MARKERS {
        let score = words.iter().filter(|w| markers.contains(*w)).count();
        if score > best.1 {
            best = (language, score);
        }
    }
    // Letters that English lacks outweigh a tie that it wins by standing first.
    if best.0 == "en" && best.1 <= 1 && lowered.chars().any(|c| c.is_alphabetic() && !c.is_ascii()) {
        let other = MARKERS.iter().skip(1).find(|(_, markers)| words.iter().any(|w| markers.contains(w)));
        return other.map_or("", |(language, _)| language);
    }
    best.0
}

/// What a cue told.
pub(crate) struct Cue {
    pub(crate) predicate: &'static str,
    pub(crate) object: String,
    slot: &'static str,
}

impl Cue {
    /// The slot, where the cue fills one.
    pub(crate) fn slot_of(&self, subject: &str) -> Option<String> {
        let subject = normalise(subject);
        match self.slot {
            "" => None,
            "attitude" | "has" | "speaks" => (self.object.split_whitespace().count() <= 6)
                .then(|| format!("{subject}/{}/{}", self.slot, normalise(&self.object))),
            slot => Some(format!("{subject}/{slot}")),
        }
    }
}

type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// (language, what stands before the object, what stands behind it, predicate, slot).
const CUES: &[Row] = &[
    ("de", "ich wohne in ", "", "lives in", "lives_in"),
    ("de", "ich lebe in ", "", "lives in", "lives_in"),
    ("de", "ich bin nach ", " gezogen", "moved to", "lives_in"),
    ("de", "ich wohne seit ", "", "has lived since", ""),
    ("de", "ich arbeite bei ", "", "works at", "works_at"),
    ("de", "ich arbeite für ", "", "works for", "works_at"),
    ("de", "ich arbeite als ", "", "works as", "job"),
    ("de", "ich heiße ", "", "is called", "name"),
    ("de", "mein name ist ", "", "is called", "name"),
    ("de", "ich bin ", " jahre alt", "is aged", "age"),
    ("de", "ich mag keine ", "", "does not like", "attitude"),
    ("de", "ich mag keinen ", "", "does not like", "attitude"),
    ("de", "ich mag kein ", "", "does not like", "attitude"),
    ("de", "ich mag ", " nicht", "does not like", "attitude"),
    ("de", "ich mag ", "", "likes", "attitude"),
    ("de", "ich liebe ", "", "loves", "attitude"),
    ("de", "ich hasse ", "", "hates", "attitude"),
    ("de", "ich spreche ", "", "speaks", ""),
    ("de", "ich bin allergisch gegen ", "", "is allergic to", ""),
    ("de", "ich trinke gern ", "", "likes to drink", ""),
    ("de", "ich trinke gerne ", "", "likes to drink", ""),
    ("de", "ich esse gern ", "", "likes to eat", ""),
    ("de", "ich esse gerne ", "", "likes to eat", ""),
    ("de", "ich habe ", "", "has", ""),
    ("de", "meine lieblingsfarbe ist ", "", "favourite colour is", "favourite colour"),
    ("de", "ich benutze ", "", "uses", ""),
    ("de", "ich bevorzuge ", "", "prefers", ""),
    ("de", "ich bin ", "", "is", ""),
    ("fr", "j'habite à ", "", "lives in", "lives_in"),
    ("fr", "j'habite en ", "", "lives in", "lives_in"),
    ("fr", "j'habite ", "", "lives in", "lives_in"),
    ("fr", "je vis à ", "", "lives in", "lives_in"),
    ("fr", "je vis en ", "", "lives in", "lives_in"),
    ("fr", "je travaille chez ", "", "works at", "works_at"),
    ("fr", "je travaille pour ", "", "works for", "works_at"),
    ("fr", "je travaille comme ", "", "works as", "job"),
    ("fr", "je m'appelle ", "", "is called", "name"),
    ("fr", "mon nom est ", "", "is called", "name"),
    ("fr", "j'ai ", " ans", "is aged", "age"),
    ("fr", "j'aime ", "", "likes", "attitude"),
    ("fr", "j'adore ", "", "loves", "attitude"),
    ("fr", "je déteste ", "", "hates", "attitude"),
    ("fr", "je n'aime pas ", "", "does not like", "attitude"),
    ("fr", "je préfère ", "", "prefers", ""),
    ("fr", "je parle ", "", "speaks", ""),
    ("fr", "je suis allergique ", "", "is allergic to", ""),
    ("fr", "j'ai ", "", "has", ""),
    ("fr", "je suis ", "", "is", ""),
    ("es", "vivo en ", "", "lives in", "lives_in"),
    ("es", "yo vivo en ", "", "lives in", "lives_in"),
    ("es", "me mudé a ", "", "moved to", "lives_in"),
    ("es", "trabajo en ", "", "works at", "works_at"),
    ("es", "trabajo para ", "", "works for", "works_at"),
    ("es", "trabajo como ", "", "works as", "job"),
    ("es", "me llamo ", "", "is called", "name"),
    ("es", "mi nombre es ", "", "is called", "name"),
    ("es", "tengo ", " años", "is aged", "age"),
    ("es", "no me gusta ", "", "does not like", "attitude"),
    ("es", "no me gustan ", "", "does not like", "attitude"),
    ("es", "me gusta mucho ", "", "likes", "attitude"),
    ("es", "me gusta ", "", "likes", "attitude"),
    ("es", "me gustan ", "", "likes", "attitude"),
    ("es", "me encanta ", "", "loves", "attitude"),
    ("es", "me encantan ", "", "loves", "attitude"),
    ("es", "odio ", "", "hates", "attitude"),
    ("es", "prefiero ", "", "prefers", ""),
    ("es", "hablo ", "", "speaks", ""),
    ("es", "soy alérgico a ", "", "is allergic to", ""),
    ("es", "soy alérgica a ", "", "is allergic to", ""),
    ("es", "tengo ", "", "has", ""),
    ("es", "soy ", "", "is", ""),
    ("it", "abito a ", "", "lives in", "lives_in"),
    ("it", "vivo a ", "", "lives in", "lives_in"),
    ("it", "vivo in ", "", "lives in", "lives_in"),
    ("it", "lavoro presso ", "", "works at", "works_at"),
    ("it", "lavoro per ", "", "works for", "works_at"),
    ("it", "lavoro come ", "", "works as", "job"),
    ("it", "mi chiamo ", "", "is called", "name"),
    ("it", "il mio nome è ", "", "is called", "name"),
    ("it", "ho ", " anni", "is aged", "age"),
    ("it", "non mi piace ", "", "does not like", "attitude"),
    ("it", "non mi piacciono ", "", "does not like", "attitude"),
    ("it", "mi piace ", "", "likes", "attitude"),
    ("it", "mi piacciono ", "", "likes", "attitude"),
    ("it", "amo ", "", "loves", "attitude"),
    ("it", "odio ", "", "hates", "attitude"),
    ("it", "preferisco ", "", "prefers", ""),
    ("it", "parlo ", "", "speaks", ""),
    ("it", "ho ", "", "has", ""),
    ("it", "sono ", "", "is", ""),
    ("pt", "moro em ", "", "lives in", "lives_in"),
    ("pt", "eu moro em ", "", "lives in", "lives_in"),
    ("pt", "moro no ", "", "lives in", "lives_in"),
    ("pt", "vivo em ", "", "lives in", "lives_in"),
    ("pt", "trabalho na ", "", "works at", "works_at"),
    ("pt", "trabalho no ", "", "works at", "works_at"),
    ("pt", "trabalho para ", "", "works for", "works_at"),
    ("pt", "trabalho como ", "", "works as", "job"),
    ("pt", "me chamo ", "", "is called", "name"),
    ("pt", "chamo-me ", "", "is called", "name"),
    ("pt", "meu nome é ", "", "is called", "name"),
    ("pt", "o meu nome é ", "", "is called", "name"),
    ("pt", "tenho ", " anos", "is aged", "age"),
    ("pt", "não gosto de ", "", "does not like", "attitude"),
    ("pt", "eu não gosto de ", "", "does not like", "attitude"),
    ("pt", "gosto de ", "", "likes", "attitude"),
    ("pt", "eu gosto de ", "", "likes", "attitude"),
    ("pt", "adoro ", "", "loves", "attitude"),
    ("pt", "odeio ", "", "hates", "attitude"),
    ("pt", "prefiro ", "", "prefers", ""),
    ("pt", "falo ", "", "speaks", ""),
    ("pt", "tenho ", "", "has", ""),
    ("pt", "sou ", "", "is", ""),
    ("pt", "eu sou ", "", "is", ""),
    ("nl", "ik woon in ", "", "lives in", "lives_in"),
    ("nl", "ik werk bij ", "", "works at", "works_at"),
    ("nl", "ik werk als ", "", "works as", "job"),
    ("nl", "ik heet ", "", "is called", "name"),
    ("nl", "mijn naam is ", "", "is called", "name"),
    ("nl", "ik hou van ", "", "loves", "attitude"),
    ("nl", "ik haat ", "", "hates", "attitude"),
    ("nl", "ik heb ", "", "has", ""),
    ("zh", "我住在", "", "lives in", "lives_in"),
    ("zh", "我搬到了", "", "moved to", "lives_in"),
    ("zh", "我搬到", "", "moved to", "lives_in"),
    ("zh", "我叫", "", "is called", "name"),
    ("zh", "我的名字是", "", "is called", "name"),
    ("zh", "我的名字叫", "", "is called", "name"),
    ("zh", "我在", "工作", "works at", "works_at"),
    ("zh", "我今年", "岁", "is aged", "age"),
    ("zh", "我不喜欢", "", "does not like", "attitude"),
    ("zh", "我喜欢", "", "likes", "attitude"),
    ("zh", "我爱", "", "loves", "attitude"),
    ("zh", "我讨厌", "", "hates", "attitude"),
    ("zh", "我对", "过敏", "is allergic to", ""),
    ("zh", "我会说", "", "speaks", ""),
    ("zh", "我有", "", "has", ""),
    ("zh", "我是", "", "is", ""),
    ("ja", "私は", "に住んでいます", "lives in", "lives_in"),
    ("ja", "", "に住んでいます", "lives in", "lives_in"),
    ("ja", "私の名前は", "です", "is called", "name"),
    ("ja", "私は", "が好きです", "likes", "attitude"),
    ("ja", "", "が好きです", "likes", "attitude"),
    ("ja", "私は", "が嫌いです", "hates", "attitude"),
    ("ja", "私は", "で働いています", "works at", "works_at"),
    ("ja", "", "で働いています", "works at", "works_at"),
    ("ja", "私は", "歳です", "is aged", "age"),
    ("ja", "私は", "です", "is", ""),
    ("ko", "저는 ", "에 살아요", "lives in", "lives_in"),
    ("ko", "저는 ", "에 삽니다", "lives in", "lives_in"),
    ("ko", "나는 ", "에 산다", "lives in", "lives_in"),
    ("ko", "저는 ", "를 좋아해요", "likes", "attitude"),
    ("ko", "저는 ", "을 좋아해요", "likes", "attitude"),
    ("ko", "제 이름은 ", "입니다", "is called", "name"),
    ("ko", "제 이름은 ", "이에요", "is called", "name"),
    ("", "я живу в ", "", "lives in", "lives_in"),
    ("", "меня зовут ", "", "is called", "name"),
    ("", "я работаю в ", "", "works at", "works_at"),
    ("", "я люблю ", "", "loves", "attitude"),
    ("", "я не люблю ", "", "does not like", "attitude"),
    ("", "мне нравится ", "", "likes", "attitude"),
    ("", "мне ", " лет", "is aged", "age"),
    ("", "أعيش في ", "", "lives in", "lives_in"),
    ("", "أسكن في ", "", "lives in", "lives_in"),
    ("", "اسمي ", "", "is called", "name"),
    ("", "أحب ", "", "loves", "attitude"),
    ("", "أكره ", "", "hates", "attitude"),
    ("", "أعمل في ", "", "works at", "works_at"),
    ("", "मेरा नाम ", " है", "is called", "name"),
    ("", "मुझे ", " पसंद है", "likes", "attitude"),
];

/// What the speaker tells of himself in another language, where a cue knows it.
pub(crate) fn cue(sentence: &str, language: &str) -> Option<Cue> {
    let body = sentence.trim().trim_end_matches(['.', '!', '。', '！', '।', ' ']);
    let lowered = lower(body);
    // Lower case may change lengths in bytes; then the object is shown in lower case.
    let same = lowered.len() == body.len();
    for (of, before, behind, predicate, slot) in CUES {
        if *of != language
            || !lowered.starts_with(before)
            || !lowered.ends_with(behind)
            || lowered.len() <= before.len() + behind.len()
        {
            continue;
        }
        let range = before.len()..lowered.len() - behind.len();
        let object = if same { body.get(range.clone()).unwrap_or(&lowered[range]) } else { &lowered[range] };
        let object = object.trim();
        let compound = object.contains([',', '，', '、', ';'])
            || [" und ", " aber ", " et ", " mais ", " y ", " pero ", " e ", " ma ", " mas ", " en ", "但"]
                .iter()
                .any(|joint| object.contains(joint));
        let plain_age = *slot != "age" || object.chars().all(|c| c.is_numeric()) || object.split_whitespace().count() == 1;
        if object.is_empty() || object.len() > 160 || !plain_age {
            continue;
        }
        let slot = if compound && *slot == "attitude" { "" } else { slot };
        if compound && !slot.is_empty() {
            // Two clauses, perhaps: the first part of it is the value.
            let end = [" und ", " aber ", " et ", " mais ", " y ", " pero ", " e ", " ma ", " mas ", ",", "，", "、", ";", "但"]
                .iter()
                .filter_map(|joint| object.find(joint))
                .min()
                .unwrap_or(object.len());
            return Some(Cue { predicate, object: object[..end].trim().to_owned(), slot });
        }
        return Some(Cue { predicate, object: object.to_owned(), slot });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{cue, language};

    #[test]
    fn languages() {
        for (text, meant) in [
            ("I live in Berlin", "en"),
            ("Ich wohne in Berlin", "de"),
            ("J'habite à Paris", "fr"),
            ("Vivo en Madrid y me gusta el té", "es"),
            ("Mi chiamo Anna e vivo a Roma", "it"),
            ("Eu moro em Lisboa", "pt"),
            ("Ik woon in Utrecht", "nl"),
            ("我住在巴黎", "zh"),
            ("私は東京に住んでいます", "ja"),
            ("저는 서울에 살아요", "ko"),
            ("Я живу в Москве", ""),
            ("item 10", ""),
        ] {
            assert_eq!(language(text), meant, "{text}");
        }
    }

    #[test]
    fn cues() {
        for (text, predicate, object, slot) in [
            ("Ich wohne in Köln.", "lives in", "Köln", Some("user/lives_in")),
            ("Ich bin 34 Jahre alt.", "is aged", "34", Some("user/age")),
            ("Me encanta el chocolate.", "loves", "el chocolate", Some("user/attitude/el chocolate")),
            ("我住在巴黎。", "lives in", "巴黎", Some("user/lives_in")),
            ("私は東京に住んでいます。", "lives in", "東京", Some("user/lives_in")),
            ("Меня зовут Анна.", "is called", "Анна", Some("user/name")),
        ] {
            let cue = cue(text, language(text)).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((cue.predicate, cue.object.as_str(), cue.slot_of("User").as_deref()), (predicate, object, slot));
        }
        assert!(cue("Der Server läuft.", "de").is_none());
    }
}
