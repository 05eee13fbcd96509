"""People of whom so many facts are known, and questions about them that nobody has asked before."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from urllib.parse import quote

from memori import Memori

_COLOURS, _THINGS, _PLACES = (
    words.split()
    for words in (
        "amber black blue brown coral cream gold green grey ivory lilac olive orange pink purple red silver teal white yellow",
        "anchor basket bed bell boat book bowl cap clock coat comb cup drum fan flag guitar hammer hat jug lamp oar pan piano rug saw",
        "Aarhus Bergen Bern Cork Dublin Gdansk Genoa Ghent Girona Graz Kyoto Lisbon Lyon Malmo Nantes Oslo Porto Riga Turin Vienna",
    )
)
_PER_EVENT = 50


def entity(facts: int) -> str:
    return f"somebody-with-{facts}"


def teach(mem: Memori, facts: int) -> None:
    """Makes so many facts known of `entity(facts)`, through the whole line."""
    all_of_them = [
        f"I own a {colour} {thing} from {place}." for colour, thing, place in itertools.product(_COLOURS, _THINGS, _PLACES)
    ]
    said = random.Random(facts).sample(all_of_them, facts)
    with mem.scope(entity_id=entity(facts)):
        for first in range(0, facts, _PER_EVENT):
            mem.capture([{"role": "user", "content": text} for text in said[first : first + _PER_EVENT]])
    if not mem.augmentation.wait(1_200):
        raise RuntimeError(f"the facts were not learned: {mem.augmentation.failures()[:1]}")
    known = _known(mem, entity(facts))
    if not 0.95 * facts <= known <= 1.05 * facts:
        raise RuntimeError(f"{facts} facts were told, {known} are known")


def _known(mem: Memori, entity_id: str) -> int:
    path = f"/v1/entities/{quote(entity_id)}/export"
    status, body = mem.engine().native.request_json("GET", path, None, 60_000)
    if status != 200:
        raise RuntimeError(f"the export answers {status}")
    return sum(json.loads(line)["type"] == "fact" for line in body.splitlines())


def questions(seed: int) -> Iterator[str]:
    """Questions, each asked once."""
    chance = random.Random(seed)
    for number in itertools.count():
        colour, thing, place = chance.choice(_COLOURS), chance.choice(_THINGS), chance.choice(_PLACES)
        yield f"Where did I get the {colour} {thing} that I showed you before trip {number} to {place}?"
