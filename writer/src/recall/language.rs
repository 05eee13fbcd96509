//! Which language a text is in, as far as stemming needs to know: by script, and for Latin script by its small words.
//!
//! A wrong guess costs little: the words as written are always indexed beside their stems, and a query is stemmed in every
//! language that the entity's texts were guessed to be in (see [`super::text`]).

use std::collections::HashMap;
use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};

/// A language that can be stemmed. The order breaks ties of the guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Language {
    English,
    German,
    French,
    Spanish,
    Italian,
    Portuguese,
    Dutch,
    Swedish,
    Danish,
    Norwegian,
    Finnish,
    Hungarian,
    Romanian,
    Turkish,
    Russian,
    Greek,
    Arabic,
    Tamil,
}

impl Language {
    /// Every language, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::English,
        Self::German,
        Self::French,
        Self::Spanish,
        Self::Italian,
        Self::Portuguese,
        Self::Dutch,
        Self::Swedish,
        Self::Danish,
        Self::Norwegian,
        Self::Finnish,
        Self::Hungarian,
        Self::Romanian,
        Self::Turkish,
        Self::Russian,
        Self::Greek,
        Self::Arabic,
        Self::Tamil,
    ];

    /// The stem of a folded word.
    #[must_use]
    pub fn stem(self, word: &str) -> String {
        STEMMERS[self as usize].stem(word).into_owned()
    }

    /// Whether a folded word carries no meaning of its own in this language.
    #[must_use]
    pub fn is_stop_word(self, word: &str) -> bool {
        STOP_WORDS.get(word).is_some_and(|languages| languages & (1 << self as u32) != 0)
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::English => Algorithm::English,
            Self::German => Algorithm::German,
            Self::French => Algorithm::French,
            Self::Spanish => Algorithm::Spanish,
            Self::Italian => Algorithm::Italian,
            Self::Portuguese => Algorithm::Portuguese,
            Self::Dutch => Algorithm::Dutch,
            Self::Swedish => Algorithm::Swedish,
            Self::Danish => Algorithm::Danish,
            Self::Norwegian => Algorithm::Norwegian,
            Self::Finnish => Algorithm::Finnish,
            Self::Hungarian => Algorithm::Hungarian,
            Self::Romanian => Algorithm::Romanian,
            Self::Turkish => Algorithm::Turkish,
            Self::Russian => Algorithm::Russian,
            Self::Greek => Algorithm::Greek,
            Self::Arabic => Algorithm::Arabic,
            Self::Tamil => Algorithm::Tamil,
        }
    }
}

/// A set of languages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Languages(u32);

impl Languages {
    /// With one more.
    #[must_use]
    pub fn with(self, language: Language) -> Self {
        Self(self.0 | 1 << language as u32)
    }

    /// Those in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As a number, a bit for each.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From such a number; bits without a language are ignored.
    #[must_use]
    pub fn of_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// In the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Language> {
        Language::ALL.into_iter().filter(move |language| self.0 & (1 << *language as u32) != 0)
    }
}

/// The language of a text, by its folded words.
#[must_use]
pub fn guess(words: &[String]) -> Language {
    let mut votes = [0_u32; Language::ALL.len()];
    for word in words {
        match script(word) {
            Script::Latin => {
                let mut languages = STOP_WORDS.get(word.as_str()).copied().unwrap_or(0);
                while languages != 0 {
                    votes[languages.trailing_zeros() as usize] += 2;
                    languages &= languages - 1;
                }
                for letter in word.chars().filter(|letter| !letter.is_ascii()) {
                    for language in typical_of(letter) {
                        votes[*language as usize] += 1;
                    }
                }
            }
            Script::Cyrillic => votes[Language::Russian as usize] += 2,
            Script::Greek => votes[Language::Greek as usize] += 2,
            Script::Arabic => votes[Language::Arabic as usize] += 2,
            Script::Tamil => votes[Language::Tamil as usize] += 2,
            Script::Other => {}
        }
    }
    let mut best = Language::English;
    for language in Language::ALL {
        if votes[language as usize] > votes[best as usize] {
            best = language;
        }
    }
    best
}

/// The language in which a folded word of a text in `language` is stemmed: a word in another script goes by its script, and
/// one whose script has no stemmer stays as it is.
#[must_use]
pub fn of_word(word: &str, language: Language) -> Option<Language> {
    match script(word) {
        Script::Latin => {
            let latin = !matches!(language, Language::Russian | Language::Greek | Language::Arabic | Language::Tamil);
            Some(if latin { language } else { Language::English })
        }
        Script::Cyrillic => Some(Language::Russian),
        Script::Greek => Some(Language::Greek),
        Script::Arabic => Some(Language::Arabic),
        Script::Tamil => Some(Language::Tamil),
        Script::Other => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Latin,
    Cyrillic,
    Greek,
    Arabic,
    Tamil,
    Other,
}

/// By the first letter; digits and the rest are `Other`.
fn script(word: &str) -> Script {
    match word.chars().find(|c| c.is_alphabetic()) {
        Some('a'..='z' | 'A'..='Z' | '\u{00C0}'..='\u{024F}' | '\u{1E00}'..='\u{1EFF}') => Script::Latin,
        Some('\u{0370}'..='\u{03FF}' | '\u{1F00}'..='\u{1FFF}') => Script::Greek,
        Some('\u{0400}'..='\u{052F}') => Script::Cyrillic,
        Some('\u{0600}'..='\u{06FF}' | '\u{0750}'..='\u{077F}') => Script::Arabic,
        Some('\u{0B80}'..='\u{0BFF}') => Script::Tamil,
        _ => Script::Other,
    }
}

fn typical_of(letter: char) -> &'static [Language] {
    use Language::{
        Danish, Finnish, French, German, Hungarian, Italian, Norwegian, Portuguese, Romanian, Spanish, Swedish, Turkish,
    };
    match letter {
        'ä' => &[German, Swedish, Finnish],
        'ö' => &[German, Swedish, Finnish, Turkish, Hungarian],
        'ü' => &[German, Turkish, Hungarian],
        'ß' => &[German],
        'ñ' | '¿' => &[Spanish],
        'ç' => &[French, Portuguese, Turkish],
        'ê' | 'è' | 'ë' | 'œ' | 'û' => &[French],
        'é' => &[French, Spanish, Hungarian, Portuguese],
        'á' | 'í' | 'ó' | 'ú' => &[Spanish, Portuguese, Hungarian],
        'ã' | 'õ' => &[Portuguese],
        'à' | 'ì' | 'ò' | 'ù' => &[Italian, French],
        'å' => &[Swedish, Danish, Norwegian],
        'æ' | 'ø' => &[Danish, Norwegian],
        'ő' | 'ű' => &[Hungarian],
        'ă' | 'ș' | 'ț' | 'â' | 'î' => &[Romanian],
        'ğ' | 'ş' | 'ı' => &[Turkish],
        _ => &[],
    }
}

static STEMMERS: LazyLock<Vec<Stemmer>> =
    LazyLock::new(|| Language::ALL.iter().map(|language| Stemmer::create(language.algorithm())).collect());

static STOP_WORDS: LazyLock<HashMap<&'static str, u32>> = LazyLock::new(|| {
    let mut words = HashMap::new();
    for (language, list) in STOP_LISTS {
        for word in list.split_whitespace() {
            *words.entry(word).or_insert(0) |= 1 << *language as u32;
        }
    }
    words
});

/// Small words only: what is rare enough to mean something is left to BM25's weights.
const STOP_LISTS: &[(Language, &str)] = &[
    (
        Language::English,
        "a about after all also am an and any are as at be because been before being but by can could did do does doing don't for \
         from had has have having he her here hers him his how i i'd i'll i'm i've if in into is isn't it it's its just me more \
         most my no nor not now of off on once only or other our ours out over own please s same she should so some such t than \
         that that's the their theirs them then there these they this those through to too under up us very was we were what \
         what's when where which while who whom whose why will with would you you're your yours tell know",
    ),
    (
        Language::German,
        "aber alle als also am an auch auf aus bei bin bis bist da das dass dein deine dem den der des die dir doch du durch ein eine \
         einem einen einer eines er es euch für gegen hab habe haben hat hatte hier ich ihm ihn ihr ihre im in ist ja jede jeder jetzt \
         kann kein keine können man mein meine meinem meinen meiner mich mir mit nach nicht noch nur ob oder ohne sehr sein seine \
         seinen sich sie sind so über um und uns unser unter vom von vor war waren warum was weil welche welcher welches wenn wer \
         wie wir wird wo wohin zu zum zur",
    ),
    (
        Language::French,
        "à ai alors au aussi aux avec c'est ce cela ces cet cette comme comment dans de des donc du d'un d'une elle elles en es est et \
         eu il ils j'ai je l' la le les leur leurs lui ma mais me mes moi mon n'est ne nos notre nous on ont ou où par pas plus pour \
         pourquoi qu'est qu'il quand que quel quelle quelles quels qui quoi sa sans se ses si son sont suis sur ta te tes toi ton très \
         tu un une vos votre vous y",
    ),
    (
        Language::Spanish,
        "a al algo ante como con cual cuál cuando cuándo de del desde donde dónde el él ella ellas ellos en entre era eres es esa ese \
         eso esta está están este esto estoy fue ha han hasta hay he la las le les lo los más me mi mis mucho muy nada ni no nos \
         nosotros o para pero por porque qué que quien quién se sea ser si sí sin sobre son soy su sus también te tengo tiene todo tu \
         tus un una unos y ya yo cómo",
    ),
    (
        Language::Italian,
        "a ad ai al alla alle anche c'è che chi ci come con cosa cui da dal dalla de dei del della delle di dove e è ed gli ha hai hanno \
         ho i il in io l la le lei li lo loro lui ma mi mia mie miei mio ne nei nel nella no noi non o per perché più quale quando \
         quello questa questo qui se sei si sia sono su sua sue suo sul sulla ti tra tu tua tuo un una uno voi",
    ),
    (
        Language::Portuguese,
        "a ao aos as às até com como da das de dele dela do dos e é ela elas ele eles em entre era essa esse esta está estou eu foi há \
         isso isto já lhe mais mas me mesmo meu meus minha minhas muito na não nas nem no nos nós nossa nosso num numa o onde os ou \
         para pela pelo por porque qual quando que quem se sem ser seu seus só sou sua suas também te tem tenho teu um uma você vocês",
    ),
    (
        Language::Dutch,
        "aan al alles als altijd ben bij dan dat de der deze die dit doen door dus een en er ge geen haar had heb hebben heeft hem het hier \
         hij hoe hun ik in is ja je jij kan kon maar me meer mijn met mij na naar niet nog nu of om onder ons ook op over te tegen toch \
         toen tot u uit uw van veel voor waar want waren was wat we welke wel werd wie wij wil worden zal ze zelf zich zij zijn zo zou",
    ),
    (
        Language::Swedish,
        "alla allt att av blev bli den denna deras dess det detta dig din ditt du där då efter ej eller en er ett från för ha hade han hans \
         har hon honom hur här i icke inte jag ju kan kunde man med mellan men mig min mina mitt mot mycket ni nu när någon något och \
         om oss på sedan sig sin ska som så till under upp ut vad var vara varför vem vi vid vilken är över",
    ),
    (
        Language::Danish,
        "af alle alt at blev blive da de dem den denne der deres det dette dig din disse dog du efter eller en end er et for fra ham han \
         hans har havde hende her hun hvad hvis hvor hvornår i ikke ind jeg jo kan kunne man mange med meget men mig min mine mit mod \
         ned noget nogle nu når og også om op os over på selv sig sin skal som sådan til ud under var vi vil være været",
    ),
    (
        Language::Norwegian,
        "alle at av bare ble da de deg dem den denne der deres det dette din du eller en er et etter for fordi fra før ha hadde han hans har \
         hennes her hun hva hvem hvor hvorfor hvordan i ikke ingen jeg kan kom kunne man mange med meg meget men min mine mitt mot mye \
         nå når noe noen og også om opp oss over på selv seg sin skal som så til ut var ved vi vil være vært",
    ),
    (
        Language::Finnish,
        "ei eivät emme en et että he hän ja jo joka jos jossa jotka kanssa koska kuin kuka kun me mikä miksi minkä minua minulla minun minä \
         missä mitä mutta myös ne niin nyt ole olen olet oli olin olla on ovat se sen sinä sitä tai te tämä tätä vain voi",
    ),
    (
        Language::Hungarian,
        "a az aki ami amely azt csak de e egy el én ennek és ez ezt fel hogy hol ha hanem is itt jó ki kell le lehet lesz meg mert mi mik \
         mikor milyen most nagyon nem nincs ő ők olyan ott pedig s sem te ti ugyan van vagy vagyok volt",
    ),
    (
        Language::Romanian,
        "a acest aceasta ai al ale am ar are aș au că care ce cel cine cu cum când da dar de din dintre după ea ei el ele este eu fi fost \
         ia îi în îmi își la le lui mai mea mei mele meu mi ne nici noi nu o pe pentru prin sa sau se și sunt să te tu un una unde unei \
         unui vă voi",
    ),
    (
        Language::Turkish,
        "acaba ama aslında az bana bazı belki ben beni benim bir biri biz bu çok çünkü da daha de defa diye en gibi hem hep hepsi her hiç \
         için ile ise kez ki kim mı mi mu mü nasıl ne neden nerede nereye niçin niye o olan olarak on onu onun sen siz şey şu ve veya ya \
         yani var yok",
    ),
    (
        Language::Russian,
        "а без бы был была были было быть в вам вас весь во вот все всё вы где да для до его ее её если есть еще ещё же за и из или им их к \
         как какая какие какой когда кто ли меня мне мной мог мой моя моё мои мы на над нас наш не него нее ней нет ни них но ну о об он она \
         они оно от по под при с со так также там те тебя тем то того тоже той только том ты у уже что чтобы чем эта эти это этот я",
    ),
    (
        Language::Greek,
        "αι αλλα αν αντι απο αυτα αυτη αυτο αυτος για δε δεν ειμαι ειναι εχω και κι μα με μετα μου να ο οι οπως οτι ποιος που προς πως σε \
         στη στην στο στον τα την της τι το τον του των ως από είναι έχω η ή με πού πώς",
    ),
    (
        Language::Arabic,
        "في من على إلى عن مع هذا هذه ذلك التي الذي ما ماذا هل هو هي أنا أنت نحن هم كان كانت لا لم لن أن إن قد كل بعد قبل أين متى كيف و أو ثم",
    ),
    (Language::Tamil, "ஒரு என்று மற்றும் இந்த இது என் எந்த என்ன நான் நீ அது"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::text::words;

    #[test]
    fn languages_are_told_by_script_and_small_words() {
        for (text, language) in [
            ("Alice prefers async Python", Language::English),
            ("my dog likes to swim in the lake", Language::English),
            ("ich wohne seit drei Jahren in Berlin und arbeite bei der Bahn", Language::German),
            ("j'habite à Paris avec ma sœur", Language::French),
            ("me gusta el café con leche por la mañana", Language::Spanish),
            ("я живу в москве", Language::Russian),
            ("أنا أعيش في القاهرة", Language::Arabic),
            ("ben İstanbul'da yaşıyorum ve çok mutluyum", Language::Turkish),
        ] {
            assert_eq!(guess(&words(text)), language, "{text}");
        }
    }

    #[test]
    fn a_word_in_another_script_is_stemmed_by_its_script() {
        assert_eq!(of_word("python", Language::Russian), Some(Language::English));
        assert_eq!(of_word("москва", Language::German), Some(Language::Russian));
        assert_eq!(of_word("巴黎", Language::English), None);
        assert_eq!(of_word("42", Language::English), None);
    }
}
