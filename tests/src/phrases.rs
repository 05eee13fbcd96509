//! What people say in the workload: statements, wishes, questions and small talk in several languages and scripts.

use rand::RngExt;
use rand::rngs::StdRng;

/// How one language's people talk. `{}` takes the person's own word, `{n}` a small number.
pub struct Language {
    /// Sentences are joined by a space.
    pub spaced: bool,
    /// What may be learned.
    pub statements: &'static [&'static str],
    /// What must not be learned.
    pub chatter: &'static [&'static str],
}

/// A block of an earlier recall, as a client may send it back; the door removes it.
pub const RECALLED_BLOCK: &str = "<memori_context>\n- Nobody may ever learn this sentence\n</memori_context>";

/// Makes the same sentence of two people differ.
pub const WORDS: [&str; 12] =
    ["Falke", "Otter", "Quitte", "Linde", "Basalt", "Kranich", "Ginkgo", "Mistral", "Zephyr", "Karmin", "Nori", "Tundra"];

/// Weighted by nothing: everybody is as likely.
pub const LANGUAGES: [Language; 9] = [
    Language {
        spaced: true,
        statements: &[
            "I live in Lisbon.",
            "I live in Porto.",
            "I live in Berlin.",
            "I moved to Oslo.",
            "My name is {}.",
            "I work at {} Labs.",
            "I like {} tea.",
            "I don't like coriander.",
            "I prefer async Python over threads.",
            "My favourite language is C++.",
            "My favourite language is C#.",
            "My favourite language is C.",
            "I have {n} cats.",
            "I'm allergic to peanuts.",
            "My sister {} is a nurse.",
            "Yesterday I ran {n} kilometres.",
            "I will fly to Tokyo next Friday.",
            "I own item 10.",
            "I own item 1-0.",
            "Always answer me in metric units.",
            "From now on call me {}.",
            "The {} project ships in May.",
            "My dog is called {}.",
        ],
        chatter: &["Hi!", "Thanks a lot!", "How are you?", "Can you help me?", "ok", "What did I tell you about {}?"],
    },
    Language {
        spaced: true,
        statements: &[
            "Ich wohne in Köln.",
            "Ich arbeite bei {}.",
            "Meine Lieblingsfarbe ist Grün.",
            "Ich habe {n} Kinder.",
            "Antworte mir immer auf Deutsch.",
            "Die Straße heißt {}weg.",
        ],
        chatter: &["Hallo!", "Danke!", "Wie geht's?", "Kannst du mir helfen?"],
    },
    Language {
        spaced: true,
        statements: &[
            "J'habite à Lyon.",
            "Je travaille chez {}.",
            "J'aime le fromage de {}.",
            "J'ai {n} frères.",
            "Réponds toujours en français.",
        ],
        chatter: &["Bonjour !", "Merci beaucoup !", "Ça va ?"],
    },
    Language {
        spaced: true,
        statements: &[
            "Vivo en Lima.",
            "Trabajo en {}.",
            "Me gusta el mate de {}.",
            "Tengo {n} gatos.",
            "Mi hermana se llama {}.",
        ],
        chatter: &["¡Hola!", "Gracias.", "¿Cómo estás?"],
    },
    Language {
        spaced: false,
        statements: &["我住在巴黎。", "我住在柏林。", "我在{}公司工作。", "我喜欢绿茶。", "我有{n}只猫。", "请总是用中文回答。"],
        chatter: &["你好！", "谢谢！", "你能帮我吗？"],
    },
    Language {
        spaced: false,
        statements: &["私は京都に住んでいます。", "{}で働いています。", "抹茶が好きです。", "猫を{n}匹飼っています。"],
        chatter: &["こんにちは！", "ありがとう。", "元気ですか？"],
    },
    Language {
        spaced: true,
        statements: &["Я живу в Казани.", "Я работаю в {}.", "Мне нравится зелёный чай.", "У меня {n} кошки."],
        chatter: &["Привет!", "Спасибо!", "Как дела?"],
    },
    Language {
        spaced: true,
        statements: &["أنا أعيش في القاهرة.", "أعمل في {}.", "أحب الشاي الأخضر.", "لدي {n} قطط."],
        chatter: &["مرحبا!", "شكرا!", "كيف حالك؟"],
    },
    Language {
        spaced: true,
        statements: &["मैं दिल्ली में रहता हूँ।", "मैं {} में काम करता हूँ।", "मुझे हरी चाय पसंद है।", "मेरे पास {n} बिल्लियाँ हैं।"],
        chatter: &["नमस्ते!", "धन्यवाद!", "आप कैसे हैं?"],
    },
];

/// One sentence of `language`; `word` is the speaker's own.
#[must_use]
pub fn sentence(rng: &mut StdRng, language: usize, word: &str) -> String {
    let language = &LANGUAGES[language];
    let pool = if rng.random_bool(0.2) { language.chatter } else { language.statements };
    let template = pool[rng.random_range(0..pool.len())];
    template.replace("{}", word).replace("{n}", &rng.random_range(2..6).to_string())
}
