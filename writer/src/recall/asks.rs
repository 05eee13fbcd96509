//! What kind of question a query is, and what kind of statement an item: told by small lists of words per language.
//!
//! A language that is missing, or a wording, costs a prior and never an answer. Words and phrases are folded; `^` is the beginning.
//! In scripts without spaces between words a phrase counts wherever it stands.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// What a query is after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// A time.
    pub when: bool,
    /// What the assistant said.
    pub assistant: bool,
    /// A summary.
    pub summary: bool,
}

/// The lists of one language.
struct Lists {
    when: &'static [&'static str],
    summary: &'static [&'static str],
    /// Asks for what the assistant said by itself.
    said: &'static [&'static str],
    /// Does so together with one of `saying`.
    address: &'static [&'static str],
    saying: &'static [&'static str],
    /// Asks to be told something, whatever else it says.
    tell: &'static [&'static str],
}

/// What a phrase is a sign of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    When,
    Summary,
    Said,
    Address,
    Saying,
    Tell,
}

/// A phrase with its language, by number, and its sign.
type Phrase = (&'static str, usize, Sign);

/// All phrases, ready to be looked for.
struct Phrases {
    /// Where words are spaced: by their first word.
    spaced: HashMap<&'static str, Vec<Phrase>>,
    unspaced: Vec<Phrase>,
}

static PHRASES: LazyLock<Phrases> = LazyLock::new(|| {
    let mut phrases = Phrases { spaced: HashMap::new(), unspaced: Vec::new() };
    for (language, lists) in LANGUAGES.iter().enumerate() {
        let of_sign = [
            (lists.when, Sign::When),
            (lists.summary, Sign::Summary),
            (lists.said, Sign::Said),
            (lists.address, Sign::Address),
            (lists.saying, Sign::Saying),
            (lists.tell, Sign::Tell),
        ];
        for (list, sign) in of_sign {
            for phrase in list {
                if phrase.chars().next_back().is_some_and(is_unspaced) {
                    phrases.unspaced.push((phrase, language, sign));
                } else {
                    let first = phrase.split(' ').next().unwrap_or(phrase);
                    phrases.spaced.entry(first).or_default().push((phrase, language, sign));
                }
            }
        }
    }
    phrases
});

/// Han, kana, Hangul (whose endings stick to the word) and Thai.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0E7F}' | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}')
}

/// Whether a phrase's words stand next to each other from here on.
fn goes_on(words: &[&str], phrase: &str) -> bool {
    let mut rest = words.iter();
    phrase.split(' ').all(|word| rest.next() == Some(&word))
}

impl Asks {
    /// Of a query with its folded words.
    #[must_use]
    pub fn of(query: &str, words: &[String]) -> Self {
        let mut found = [[false; 6]; LANGUAGES.len()];
        let marked: Vec<&str> = std::iter::once("^").chain(words.iter().map(String::as_str)).collect();
        for (at, word) in marked.iter().enumerate() {
            for (phrase, language, sign) in PHRASES.spaced.get(word).into_iter().flatten() {
                found[*language][*sign as usize] |= goes_on(&marked[at..], phrase);
            }
        }
        if query.chars().any(is_unspaced) {
            for (phrase, language, sign) in &PHRASES.unspaced {
                found[*language][*sign as usize] |= query.contains(phrase);
            }
        }
        let any = |sign: Sign| found.iter().any(|signs| signs[sign as usize]);
        let said = |signs: &[bool; 6]| {
            let has = |sign: Sign| signs[sign as usize];
            has(Sign::Said) || (has(Sign::Address) && has(Sign::Saying) && !has(Sign::Tell))
        };
        Self { when: any(Sign::When), assistant: found.iter().any(said), summary: any(Sign::Summary) }
    }
}

/// Whether a text asks something: it ends as questions do.
#[must_use]
pub fn is_question(text: &str) -> bool {
    let end = text.trim_end_matches(|c: char| c.is_whitespace() || "\"'”’)»」。.!".contains(c));
    end.ends_with(['?', '？', '؟'])
        || ["吗", "呢", "嗎", "か", "かな", "ไหม", "มั้ย", "หรือเปล่า", "까요", "나요"].iter().any(|ending| end.ends_with(ending))
}

/// Whether a text says when something is: a date, a day, a time, or a word for one. `words` are its folded words.
#[must_use]
pub fn says_when(text: &str, words: &[String]) -> bool {
    let number = |word: &str, from: u32, to: u32| word.parse::<u32>().is_ok_and(|n| (from..=to).contains(&n));
    let year = |word: &String| word.len() == 4 && number(word, 1900, 2099);
    let digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let mut clocks = text.match_indices(':').filter(|(at, _)| *at > 0 && digit(at - 1) && digit(at + 1) && digit(at + 2));
    if clocks.next().is_some() || words.iter().any(|word| year(word) || TIME_WORDS.contains(&word.as_str())) {
        return true;
    }
    if text.is_ascii() {
        return false;
    }
    let after_digit = |sign: &str| {
        text.match_indices(sign)
            .any(|(at, _)| text[..at].chars().next_back().is_some_and(|c| c.is_numeric() || "一二三四五六七八九十".contains(c)))
    };
    UNSPACED_TIMES.iter().any(|time| text.contains(time))
        || ["年", "月", "日", "号", "點", "点", "時", "년", "월", "일", "시"].iter().any(|sign| after_digit(sign))
}

const LANGUAGES: &[Lists] = &[
    // English
    Lists {
        when: &[
            "^ when",
            "when did",
            "when does",
            "when do",
            "when is",
            "when was",
            "when were",
            "when are",
            "when will",
            "when has",
            "when have",
            "when had",
            "what day",
            "which day",
            "what date",
            "which date",
            "what time",
            "what year",
            "which year",
            "what month",
            "which month",
            "what week",
            "which week",
            "how long ago",
            "since when",
            "what season",
        ],
        summary: &["summary", "summaries", "summarize", "summarise", "sum up", "recap", "overview"],
        said: &["assistant", "chatbot"],
        address: &["you", "your"],
        saying: &[
            "said",
            "say",
            "told",
            "tell",
            "suggested",
            "suggest",
            "recommended",
            "recommend",
            "recommendation",
            "recommendations",
            "suggestion",
            "suggestions",
            "answer",
            "answered",
            "replied",
            "reply",
            "advice",
            "advised",
            "explained",
            "mentioned",
            "provided",
            "gave",
            "wrote",
            "listed",
            "proposed",
        ],
        tell: &[
            "can you tell",
            "could you tell",
            "would you tell",
            "will you tell",
            "please tell",
            "can you say",
            "could you say",
            "do you recommend",
            "would you recommend",
            "can you recommend",
            "could you recommend",
            "can you suggest",
            "could you suggest",
            "would you suggest",
            "can you answer",
            "can you reply",
        ],
    },
    // German
    Lists {
        when: &[
            "wann",
            "welchem tag",
            "welcher tag",
            "welchen tag",
            "welchem jahr",
            "welches jahr",
            "welchem monat",
            "welches datum",
            "welchem datum",
            "wie viel uhr",
            "wieviel uhr",
            "wie lange ist",
            "wie lange her",
        ],
        summary: &["zusammenfassung", "zusammenfassen", "fasse", "fass", "zusammengefasst", "überblick", "übersicht"],
        said: &["assistent", "der bot"],
        address: &["du", "dein", "deine", "deinen", "deiner", "ihr vorschlag", "sie mir"],
        saying: &[
            "gesagt",
            "empfohlen",
            "vorgeschlagen",
            "geantwortet",
            "geraten",
            "erklärt",
            "erwähnt",
            "genannt",
            "geschrieben",
            "rat",
            "vorschlag",
            "vorschläge",
            "empfehlung",
            "empfehlungen",
            "tipp",
            "tipps",
            "antwort",
            "sagtest",
        ],
        tell: &[],
    },
    // French
    Lists {
        when: &[
            "quand",
            "quel jour",
            "quels jours",
            "quelle date",
            "quelle année",
            "quelle heure",
            "quel mois",
            "depuis combien de temps",
        ],
        summary: &["résumé", "résume", "résumer", "résumez", "récapitule", "récapitulatif", "synthèse", "aperçu"],
        said: &["l'assistant", "assistante"],
        address: &["tu", "as", "vous", "avez", "ton", "ta", "tes", "votre", "vos", "m'as"],
        saying: &[
            "dit",
            "recommandé",
            "conseillé",
            "suggéré",
            "proposé",
            "répondu",
            "expliqué",
            "mentionné",
            "écrit",
            "recommandation",
            "recommandations",
            "conseil",
            "conseils",
            "suggestion",
            "suggestions",
            "réponse",
        ],
        tell: &[],
    },
    // Spanish
    Lists {
        when: &[
            "cuándo",
            "^ cuando",
            "qué día",
            "que día",
            "qué fecha",
            "que fecha",
            "qué año",
            "que año",
            "qué hora",
            "que hora",
            "qué mes",
            "hace cuánto",
        ],
        summary: &["resumen", "resume", "resumir", "resúmeme", "resumeme", "recapitula", "sinopsis"],
        said: &[
            "asistente",
            "dijiste",
            "recomendaste",
            "sugeriste",
            "aconsejaste",
            "propusiste",
            "respondiste",
            "contestaste",
            "explicaste",
            "mencionaste",
            "escribiste",
            "has dicho",
            "has recomendado",
            "has sugerido",
        ],
        address: &["tu", "tus"],
        saying: &["recomendación", "recomendaciones", "sugerencia", "sugerencias", "consejo", "consejos", "respuesta"],
        tell: &[],
    },
    // Italian
    Lists {
        when: &[
            "quando",
            "che giorno",
            "quale giorno",
            "che data",
            "quale data",
            "che anno",
            "quale anno",
            "che ora",
            "che mese",
        ],
        summary: &["riassunto", "riassumi", "riassumere", "riepilogo", "riepiloga", "sintesi"],
        said: &[
            "assistente",
            "hai detto",
            "hai consigliato",
            "hai suggerito",
            "hai raccomandato",
            "hai proposto",
            "hai risposto",
            "hai spiegato",
            "hai menzionato",
            "hai scritto",
        ],
        address: &["tuo", "tua", "tuoi", "tue"],
        saying: &["consiglio", "consigli", "raccomandazione", "raccomandazioni", "suggerimento", "suggerimenti", "risposta"],
        tell: &[],
    },
    // Portuguese
    Lists {
        when: &[
            "quando",
            "que dia",
            "qual dia",
            "que data",
            "qual data",
            "que ano",
            "qual ano",
            "que horas",
            "que mês",
            "há quanto tempo",
        ],
        summary: &["resumo", "resuma", "resume", "resumir", "recapitule", "síntese"],
        said: &["assistente", "disseste", "recomendaste", "sugeriste", "aconselhaste", "explicaste", "mencionaste"],
        address: &["você", "voce", "teu", "tua", "seu", "sua", "seus", "suas"],
        saying: &[
            "disse",
            "recomendou",
            "sugeriu",
            "aconselhou",
            "propôs",
            "respondeu",
            "explicou",
            "mencionou",
            "escreveu",
            "recomendação",
            "recomendações",
            "sugestão",
            "sugestões",
            "conselho",
            "conselhos",
            "resposta",
        ],
        tell: &[],
    },
    // Dutch
    Lists {
        when: &["wanneer", "welke dag", "welke datum", "welk jaar", "welke maand", "hoe laat", "hoe lang geleden"],
        summary: &["samenvatting", "samenvatten", "vat samen", "samengevat", "overzicht"],
        said: &["de assistent"],
        address: &["je", "jij", "jouw", "u", "uw"],
        saying: &[
            "zei",
            "gezegd",
            "aanbevolen",
            "aangeraden",
            "voorgesteld",
            "geadviseerd",
            "genoemd",
            "uitgelegd",
            "geantwoord",
            "geschreven",
            "advies",
            "aanbeveling",
            "aanbevelingen",
            "suggestie",
            "suggesties",
            "antwoord",
            "tip",
            "tips",
        ],
        tell: &[],
    },
    // Polish
    Lists {
        when: &["kiedy", "którego dnia", "jaki dzień", "którym roku", "jakim roku", "której godzinie", "jaka data", "jak dawno"],
        summary: &["podsumowanie", "podsumuj", "podsumować", "streszczenie", "streść", "przegląd"],
        said: &[
            "asystent",
            "powiedziałeś",
            "powiedziałaś",
            "poleciłeś",
            "poleciłaś",
            "zasugerowałeś",
            "zasugerowałaś",
            "zaproponowałeś",
            "zaproponowałaś",
            "doradziłeś",
            "doradziłaś",
            "radziłeś",
            "odpowiedziałeś",
            "wyjaśniłeś",
            "wspomniałeś",
            "napisałeś",
            "mówiłeś",
        ],
        address: &["twoja", "twoje", "twój", "twoją"],
        saying: &["rada", "rady", "radę", "rekomendacja", "rekomendacje", "sugestia", "sugestie", "propozycja", "odpowiedź"],
        tell: &[],
    },
    // Russian
    Lists {
        when: &[
            "когда",
            "какого числа",
            "каком году",
            "какой день",
            "какого дня",
            "каком месяце",
            "какой месяц",
            "во сколько",
            "с каких пор",
            "как давно",
            "какое время",
        ],
        summary: &[
            "резюме",
            "сводка",
            "сводку",
            "итог",
            "итоги",
            "обобщи",
            "обобщение",
            "суммируй",
            "обзор",
            "краткое содержание",
        ],
        said: &["ассистент", "ассистента", "помощник"],
        address: &["ты", "вы", "твой", "твоя", "твои", "твое", "ваш", "ваша", "ваши"],
        saying: &[
            "сказал",
            "сказала",
            "сказали",
            "говорил",
            "говорила",
            "говорили",
            "посоветовал",
            "посоветовала",
            "посоветовали",
            "советовал",
            "рекомендовал",
            "рекомендовала",
            "рекомендовали",
            "порекомендовал",
            "порекомендовала",
            "порекомендовали",
            "предложил",
            "предложила",
            "предложили",
            "предлагал",
            "ответил",
            "ответила",
            "ответили",
            "объяснил",
            "объяснила",
            "упомянул",
            "упоминал",
            "написал",
            "написала",
            "совет",
            "советы",
            "рекомендация",
            "рекомендации",
            "предложение",
            "ответ",
        ],
        tell: &[],
    },
    // Turkish
    Lists {
        when: &[
            "ne zaman",
            "hangi gün",
            "hangi yıl",
            "hangi ay",
            "hangi tarih",
            "hangi tarihte",
            "saat kaçta",
            "kaç yılında",
            "ne zamandan",
        ],
        summary: &["özet", "özetle", "özeti", "özetler", "özetini", "özetlesene"],
        said: &[
            "asistan",
            "söyledin",
            "dedin",
            "önerdin",
            "tavsiye ettin",
            "demiştin",
            "söylemiştin",
            "önermiştin",
            "tavsiye etmiştin",
            "cevapladın",
            "açıkladın",
            "anlattın",
            "yazdın",
            "söylediniz",
            "önerdiniz",
            "tavsiye ettiniz",
        ],
        address: &["senin"],
        saying: &["önerin", "önerilerin", "tavsiyen", "tavsiyelerin", "cevabın"],
        tell: &[],
    },
    // Japanese
    Lists {
        when: &["いつ", "何日", "何月", "何年", "何時", "何曜日"],
        summary: &["要約", "まとめ", "概要"],
        said: &[
            "アシスタント",
            "教えてくれた",
            "勧めてくれた",
            "すすめてくれた",
            "提案してくれた",
            "推薦してくれた",
            "おすすめしてくれた",
            "説明してくれた",
            "言ってくれた",
            "答えてくれた",
        ],
        address: &["あなた", "君が", "君は", "きみ"],
        saying: &["言っ", "言い", "勧め", "すすめ", "提案", "推薦", "答え", "説明し", "教えた"],
        tell: &["教えてくれます", "教えてください", "教えて下さい"],
    },
    // Chinese
    Lists {
        when: &[
            "什么时候",
            "什麼時候",
            "甚麼時候",
            "何时",
            "何時",
            "哪天",
            "哪一天",
            "哪年",
            "哪一年",
            "几月",
            "幾月",
            "几点",
            "幾點",
            "几号",
            "多久以前",
        ],
        summary: &["总结", "總結", "摘要", "概括", "概述", "小结"],
        said: &["助手", "助理"],
        address: &["你", "您"],
        saying: &["说", "說", "建议", "建議", "推荐", "推薦", "提到", "回答", "解释", "解釋", "提议", "告诉过"],
        tell: &["你能告诉", "请告诉", "你能说", "你能推荐", "你能建议"],
    },
    // Korean
    Lists {
        when: &["언제", "며칠", "몇 월", "몇월", "몇 년", "몇년", "몇 시", "무슨 요일", "어느 날"],
        summary: &["요약", "정리해"],
        said: &[
            "어시스턴트",
            "챗봇",
            "추천해 줬",
            "추천해줬",
            "추천해 준",
            "추천해준",
            "알려 줬",
            "알려줬",
            "말해 줬",
            "말해줬",
            "제안해 준",
        ],
        address: &["네가", "니가", "너는", "당신"],
        saying: &["말했", "말한", "추천", "제안", "조언", "대답", "설명"],
        tell: &["추천해 줄 수", "추천해줄 수"],
    },
    // Arabic
    Lists {
        when: &["متى", "أي يوم", "أي عام", "أي سنة", "أي شهر", "أي تاريخ", "ما تاريخ", "أي ساعة", "منذ متى"],
        summary: &["ملخص", "ملخصا", "لخص", "تلخيص", "خلاصة"],
        said: &[
            "المساعد",
            "نصحتني",
            "أوصيتني",
            "اقترحت",
            "أخبرتني",
            "ذكرت لي",
            "شرحت لي",
            "قلت لي",
            "توصيتك",
            "توصياتك",
            "نصيحتك",
            "اقتراحك",
            "اقتراحاتك",
            "إجابتك",
        ],
        address: &["أنت"],
        saying: &["قلت", "قلته", "نصحت", "أوصيت", "ذكرت", "شرحت", "أجبت"],
        tell: &[],
    },
    // Thai
    Lists {
        when: &["เมื่อไหร่", "เมื่อไร", "วันไหน", "ปีไหน", "เดือนไหน", "กี่โมง", "วันที่เท่าไหร่", "วันที่เท่าไร"],
        summary: &["สรุป", "ย่อความ"],
        said: &["ผู้ช่วย"],
        address: &["คุณ", "เธอ"],
        saying: &["แนะนำ", "บอกว่า", "บอกไว้", "พูดว่า", "เสนอ", "ตอบว่า", "อธิบาย"],
        tell: &["ช่วยแนะนำ", "ช่วยบอก"],
    },
];

/// Days, months and nearby times in scripts with spaces, folded.
static TIME_WORDS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    "january february march april june july august september october november december jan feb apr jun jul aug sep sept oct nov dec \
     monday tuesday wednesday thursday friday saturday sunday yesterday today tomorrow tonight ago weekend noon midnight \
     week weeks month months year years morning evening afternoon spring summer autumn winter christmas easter birthday \
     januar februar märz mai juni juli oktober dezember montag dienstag mittwoch donnerstag freitag samstag sonntag gestern heute \
     vorgestern übermorgen woche wochen monat monate jahr jahre jahren wochenende abend frühling sommer herbst \
     janvier février mars avril juin juillet août septembre octobre novembre décembre lundi mardi mercredi jeudi vendredi samedi \
     dimanche hier aujourd'hui demain semaine semaines mois année années ans matin soir printemps été automne hiver \
     enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre lunes martes miércoles jueves viernes \
     sábado domingo ayer hoy mañana semana semanas mes meses año años verano invierno otoño primavera \
     gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre lunedì martedì mercoledì giovedì venerdì sabato domenica \
     ieri oggi domani settimana settimane mese mesi anno anni mattina sera estate inverno autunno \
     janeiro fevereiro março maio junho julho setembro outubro novembro dezembro segunda terça quarta quinta sexta ontem hoje amanhã \
     mês ano anos manhã verão outono \
     januari februari maart mei augustus maandag dinsdag woensdag donderdag vrijdag zaterdag zondag gisteren vandaag morgen maand \
     maanden jaar jaren weken ochtend avond lente zomer herfst \
     stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia poniedziałek wtorek środa \
     czwartek piątek sobota niedziela wczoraj dziś dzisiaj jutro tydzień tygodnie tygodni miesiąc miesięcy rok roku lata lat temu \
     wiosna lato jesień zima \
     января февраля марта апреля мая июня июля августа сентября октября ноября декабря январь февраль март апрель май июнь июль август \
     сентябрь октябрь ноябрь декабрь понедельник вторник среда среду четверг пятница пятницу суббота субботу воскресенье вчера сегодня \
     завтра неделя неделю недели месяц месяца год года лет назад утром вечером весной летом осенью зимой \
     ocak şubat mart nisan mayıs haziran temmuz ağustos eylül ekim kasım aralık pazartesi salı çarşamba perşembe cuma cumartesi pazar \
     dün bugün yarın hafta ay yıl önce sabah akşam ilkbahar yaz sonbahar kış \
     يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر الاثنين الثلاثاء الأربعاء الخميس الجمعة السبت الأحد \
     أمس اليوم غدا أسبوع الأسبوع شهر الشهر سنة السنة عام العام صباحا مساء"
        .split_whitespace()
        .collect()
});

/// The same where words are not spaced.
const UNSPACED_TIMES: &[&str] = &[
    "昨天",
    "今天",
    "明天",
    "前天",
    "后天",
    "後天",
    "上周",
    "下周",
    "上週",
    "下週",
    "上个月",
    "下个月",
    "去年",
    "今年",
    "明年",
    "星期",
    "礼拜",
    "周末",
    "昨日",
    "今日",
    "明日",
    "先週",
    "来週",
    "先月",
    "来月",
    "来年",
    "曜日",
    "週末",
    "어제",
    "오늘",
    "내일",
    "지난주",
    "다음 주",
    "지난달",
    "작년",
    "올해",
    "내년",
    "요일",
    "주말",
    "เมื่อวาน",
    "วันนี้",
    "พรุ่งนี้",
    "สัปดาห์",
    "เดือน",
    "ปีที่แล้ว",
    "ปีหน้า",
    "วันจันทร์",
    "วันอังคาร",
    "วันพุธ",
    "วันพฤหัส",
    "วันศุกร์",
    "วันเสาร์",
    "วันอาทิตย์",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::text;

    fn asks(query: &str) -> Asks {
        Asks::of(query, &text::words(query))
    }

    #[test]
    fn a_time_is_asked_for_in_every_language() {
        for query in [
            "When did Alice move to Berlin?",
            "And when was the concert?",
            "Wann ist sie umgezogen?",
            "Quand a-t-elle déménagé ?",
            "¿Cuándo se mudó?",
            "Quando si è trasferita?",
            "Quando ela se mudou?",
            "Wanneer is ze verhuisd?",
            "Kiedy się przeprowadziła?",
            "Когда она переехала?",
            "Ne zaman taşındı?",
            "彼女はいつ引っ越しましたか",
            "她什么时候搬家的？",
            "언제 이사했어?",
            "متى انتقلت إلى برلين؟",
            "เธอย้ายบ้านเมื่อไหร่",
        ] {
            assert!(asks(query).when, "{query}");
        }
        for query in
            ["What does she do when she is sad?", "Where does she live?", "Wo wohnt sie?", "她住在哪里", "どこに住んでいますか"]
        {
            assert!(!asks(query).when, "{query}");
        }
    }

    #[test]
    fn what_the_assistant_said_is_asked_for_in_every_language() {
        for query in [
            "what did you recommend",
            "Which hotel was in your suggestions?",
            "Was hast du mir empfohlen?",
            "Qu'est-ce que tu m'as recommandé ?",
            "¿Qué me recomendaste?",
            "Che cosa mi hai consigliato?",
            "O que você recomendou?",
            "Wat heb je aangeraden?",
            "Co mi poleciłeś?",
            "Что ты посоветовал?",
            "Bana ne önerdin?",
            "あなたは何を勧めましたか",
            "你推荐了什么？",
            "네가 추천한 게 뭐였지?",
            "بماذا نصحتني؟",
            "คุณแนะนำอะไร",
        ] {
            assert!(asks(query).assistant, "{query}");
        }
        for query in [
            "can you tell me where I live",
            "where do I live",
            "Wo wohne ich?",
            "où est-ce que j'habite",
            "dove abito",
            "我住在哪里",
        ] {
            assert!(!asks(query).assistant, "{query}");
        }
    }

    #[test]
    fn a_summary_is_asked_for_in_every_language() {
        for query in [
            "give me a summary of the trip",
            "Fasse die Reise zusammen",
            "un résumé du voyage",
            "un resumen del viaje",
            "un riassunto del viaggio",
            "um resumo da viagem",
            "een samenvatting van de reis",
            "podsumowanie podróży",
            "краткое содержание поездки",
            "gezinin özeti",
            "旅行の要約",
            "总结一下旅行",
            "여행 요약",
            "ملخص الرحلة",
            "สรุปการเดินทาง",
        ] {
            assert!(asks(query).summary, "{query}");
        }
        assert!(!asks("where was the trip").summary);
    }

    #[test]
    fn items_ask_and_say_when() {
        for text in ["Where do you live?", "\"Really?\" ", "你住在哪里？", "أين تسكن؟", "どこに住んでいますか。", "你好吗"]
        {
            assert!(is_question(text), "{text}");
        }
        assert!(!is_question("What a day!") && !is_question("I asked: why? And left."));
        for text in [
            "We met in May 2019",
            "the train leaves at 17:05",
            "ich komme gestern",
            "我昨天去了",
            "3月5日に会う",
            "встретились вчера",
            "2024",
        ] {
            assert!(says_when(text, &text::words(text)), "{text}");
        }
        for text in ["I like tea", "room 404", "日本に住む", "я живу в Москве"] {
            assert!(!says_when(text, &text::words(text)), "{text}");
        }
    }
}
