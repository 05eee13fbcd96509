#!/usr/bin/env python3
"""Turns the texts in source/ into tuning.jsonl and held_out.jsonl, in the format of docs/quality.md.

The texts are written by hand; this only gives ids and times, appends the paragraphs of pools.txt to long replies, and resolves
labels to ids. `memori quality` checks the result. With --check nothing is written, and a difference is an error.

    @entity tuning|held_out NAME LANGUAGE      @conversation NAME          @session 2025-03-04T18:30
    u[label]: text                             a message of role user; the label names it in questions
    a[label]: text ++cooking*2                 the assistant's, followed by at least two paragraphs of that pool
    Tom[label]: text                           a message of role user with a name
    u: text ~label                             a label at the end of the line is one, too
    ? CATEGORY | text | labels, or @1 for the first session | answers ; apart | lang=de as_of=2025-05-01T00:00:00Z
"""

import datetime
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
MESSAGE = re.compile(r"^([^\s:\[\]]+)(?:\[(\w+)\])?: (.+)$")
LABEL = re.compile(r"\s~(\w+)$")
POOL = re.compile(r"\s\+\+(\w+)(?:\*(\d))?$")
# A reply that takes paragraphs is about so many times as long as what it replies to, with so many paragraphs at most.
TIMES, LONGEST = 7, 4


def fail(place, text):
    sys.exit(f"{place}: {text}")


def pools():
    found, pool = {}, None
    for line in (HERE / "source" / "pools.txt").read_text().splitlines():
        if line.startswith("@pool "):
            pool = found.setdefault(tuple(line.split()[1:3]), [])
        elif line and not line.startswith("#"):
            pool.append(line)
    return found


class Entity:
    def __init__(self, place, words):
        self.place, (self.file, self.name, self.language) = place, words
        self.conversations, self.questions, self.labels, self.used = [], [], {}, {}
        self.sessions = 0
        self.last = None

    def session(self, time):
        self.sessions += 1
        self.in_session = set()
        start = datetime.datetime.fromisoformat(time)
        self.last = max(self.last, start) if self.last else start
        session = {"session_id": f"{self.name}-s{self.sessions:02}", "started_at": start.isoformat() + "Z", "messages": []}
        self.conversations[-1]["sessions"].append(session)

    def message(self, place, line, texts):
        match = MESSAGE.match(line)
        if not match:
            fail(place, f"what is this? {line[:60]}")
        who, label, text = match.groups()
        trailing = LABEL.search(text)
        if trailing:
            label, text = trailing.group(1), text[: trailing.start()]
        wanted = POOL.search(text)
        if wanted:
            text = text[: wanted.start()]
            pool = texts.get((self.language, wanted.group(1))) or fail(place, f"no pool {wanted.group(1)} in {self.language}")
            said = len(self.conversations[-1]["sessions"][-1]["messages"][-1]["content"])
            for n in range(LONGEST):
                if n >= int(wanted.group(2) or 1) and len(text) >= TIMES * said:
                    break
                # Entities begin at different paragraphs; none comes twice in one session.
                number = self.used[wanted.group(1)] = self.used.get(wanted.group(1), sum(map(ord, self.name))) + 1
                paragraph = pool[number % len(pool)]
                if paragraph in self.in_session:
                    break
                self.in_session.add(paragraph)
                text += ("\n\n" if len(text) > 150 else " ") + paragraph
        session = self.conversations[-1]["sessions"][-1]
        message = {"message_id": f"{session['session_id']}-m{len(session['messages']) + 1:02}"}
        message["role"] = "assistant" if who == "a" else "user"
        if who not in ("a", "u"):
            message["name"] = who
        message["content"] = text
        session["messages"].append(message)
        if label:
            if label in self.labels:
                fail(place, f"the label {label} is there already")
            self.labels[label] = message["message_id"]

    def question(self, place, line):
        parts = [part.strip() for part in line[1:].split("|")]
        if len(parts) < 3:
            fail(place, "a question has at least three parts")
        category, text, labels, answers, extra = (parts + ["", ""])[:5]
        options = dict(option.split("=", 1) for option in extra.split())
        evidence = {"messages": [], "sessions": []}
        for label in labels.split():
            if label.startswith("@"):
                evidence["sessions"].append(f"{self.name}-s{int(label[1:]):02}")
            elif label in self.labels:
                evidence["messages"].append(self.labels[label])
            else:
                fail(place, f"no label {label}")
        asked = self.last + datetime.timedelta(days=3)
        question = {
            "type": "question",
            "question_id": f"{self.name}-q{len(self.questions) + 1:02}",
            "entity_id": self.name,
            "text": text,
            "category": category,
            "language": options.get("lang", self.language),
            "asked_at": asked.isoformat() + "Z",
        }
        if "as_of" in options:
            question["as_of"] = options["as_of"]
        if category == "instruction":
            question["instruction"] = True
        if category == "abstain":
            question["unanswerable"] = True
        else:
            question["evidence"] = {name: ids for name, ids in evidence.items() if ids}
        answer = [part.strip() for part in answers.split(";") if part.strip()]
        if answer:
            question["answer"] = answer
        self.questions.append(question)


def read():
    texts, entities = pools(), []
    for path in sorted((HERE / "source").glob("*.txt")):
        if path.name == "pools.txt":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            place = f"{path.name}:{number}"
            if not line.strip() or line.startswith("#"):
                continue
            if line.startswith("@entity "):
                entities.append(Entity(place, line.split()[1:]))
            elif line.startswith("@conversation "):
                entity = entities[-1]
                entity.conversations.append({
                    "type": "conversation",
                    "conversation_id": f"{entity.name}-{line.split()[1]}",
                    "entity_id": entity.name,
                    "language": entity.language,
                    "sessions": [],
                })
            elif line.startswith("@session "):
                entities[-1].session(line.split()[1])
            elif line.startswith("?"):
                entities[-1].question(place, line)
            else:
                entities[-1].message(place, line, texts)
    return entities


def main():
    entities = read()
    for name in ("tuning", "held_out"):
        of_file = [entity for entity in entities if entity.file == name]
        lines = [line for entity in of_file for line in entity.conversations + entity.questions]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path = HERE / f"{name}.jsonl"
        if "--check" in sys.argv[1:]:
            if path.read_text() != text:
                fail(path.name, "is not what source/ says: run tests/quality/build.py")
        else:
            path.write_text(text)
        messages = [m for e in of_file for c in e.conversations for s in c["sessions"] for m in s["messages"]]
        said = {role: [len(m["content"]) for m in messages if m["role"] == role] for role in ("user", "assistant")}
        shown = ", ".join(f"{role} {len(n)} × {sum(n) // max(len(n), 1)} characters" for role, n in said.items())
        print(f"{name}: {len(of_file)} entities, {sum(len(e.conversations) for e in of_file)} conversations, {len(messages)} messages"
              f" ({shown}), {sum(len(e.questions) for e in of_file)} questions")


main()
