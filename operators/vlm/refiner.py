"""How a prompt follows a picture and yet stays what was asked: the pure part of `vlm.refine`.

What was asked is kept: an attribute that the picture shows differently is put back by saying it again, louder the longer it stays wrong, and
more quietly once it is right. What was left open may follow what is seen. Invariant: the result depends on nothing but the wish and what was
seen since the last `reset`. It knows no model and no picture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from operators.vlm.attributes import Attribute, agree, parse, read

FIELD = re.compile(r"\{(?P<name>[A-Za-z_][A-Za-z_ ]*)(?:\|(?P<default>[^{}]*))?\}")
LOUDEST = 3
CAPTION_WORDS = 50  # a text encoder reads about 75 tokens


@dataclass(frozen=True)
class Wish:
    """What was asked for. `prompt` and `template` are text, the latter with fields `{name}` or `{name|words until seen}`; `keep` names
    attributes and their values; `follow` 0..1 says how readily the rest follows what is seen."""

    prompt: str = ""
    template: str = ""
    keep: dict[str, str] = field(default_factory=dict)
    negative: str = ""
    follow: float = 0.5

    @property
    def kept(self) -> dict[str, Attribute]:
        """Every attribute that was asked for: those the text itself mentions, and those of `keep`, which win."""
        asked = parse(FIELD.sub("", self.template).replace("{prompt}", "") + ", " + self.prompt)
        for name, value in self.keep.items():
            asked |= read(name, value)
        return asked

    @property
    def fields(self) -> list[str]:
        """The names of the template's fields."""
        return [match["name"] for match in FIELD.finditer(self.template)]


class Refinement(NamedTuple):
    """The prompt to use from now on, and why it is what it is (empty: nothing new)."""

    text: str
    negative: str
    reason: str


class Refiner:
    """Takes what is seen, look by look, and says what to ask for."""

    def __init__(self) -> None:
        self._level: dict[str, int] = {}  # how loudly a drifted attribute is said again: 0..LOUDEST
        self._wrong: dict[str, str] = {}  # what was seen in its place
        self._row: dict[str, tuple[Attribute, int]] = {}  # an open attribute, and in how many looks in a row it was the same
        self._followed: dict[str, str] = {}

    def reset(self) -> None:
        """Forget what was seen."""
        for state in (self._level, self._wrong, self._row, self._followed):
            state.clear()

    def snapshot(self) -> dict[str, Any]:
        """What was seen so far, as plain values."""
        row = {name: (_plain(attribute), count) for name, (attribute, count) in self._row.items()}
        return {"level": dict(self._level), "wrong": dict(self._wrong), "row": row, "followed": dict(self._followed)}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`."""
        self._level, self._wrong, self._followed = dict(state["level"]), dict(state["wrong"]), dict(state["followed"])
        self._row = {name: (_attribute(facts), count) for name, (facts, count) in state["row"].items()}

    def __call__(self, wish: Wish, caption: str, seen: dict[str, Attribute]) -> Refinement:
        """The prompt after one more look at the picture, which said `caption` and showed the attributes `seen`."""
        kept = wish.kept
        reasons = [*self._guard(kept, seen), *self._follow(wish, kept, seen)]
        for name in [n for n in self._level if n not in kept]:
            self._level.pop(name)
        text = self._compose(wish, kept, caption)
        wrong = [self._wrong[name] for name in kept if self._level.get(name, 0) >= 2]
        return Refinement(text, ", ".join(dict.fromkeys(part for part in (wish.negative, *wrong) if part)), "; ".join(reasons))

    def _guard(self, kept: dict[str, Attribute], seen: dict[str, Attribute]) -> list[str]:
        reasons = []
        for name, asked in kept.items():
            if name not in seen:
                continue
            level = self._level.get(name, 0)
            if not agree(asked, seen[name]):
                self._level[name], self._wrong[name] = min(LOUDEST, level + 1), seen[name].text
                reasons.append(f"{name} drifted to {seen[name].text}: {asked.text} put back")
            elif level:
                self._level[name] = level - 1
                reasons.append(f"{name} is {asked.text} again")
        return reasons

    def _follow(self, wish: Wish, kept: dict[str, Attribute], seen: dict[str, Attribute]) -> list[str]:
        if wish.follow <= 0:
            self._followed.clear()
            return []
        reasons, needed = [], math.ceil(1 / wish.follow)
        for name in [n for n in self._row if n not in seen]:
            self._row.pop(name)
        for name, attribute in seen.items():
            if name in kept:
                self._followed.pop(name, None)
                continue
            before, count = self._row.get(name, (attribute, 0))
            same = (before.colours, before.noun) == (attribute.colours, attribute.noun)
            self._row[name] = (attribute, count + 1 if same else 1)
            if self._row[name][1] >= needed and self._followed.get(name) != attribute.text:
                self._followed[name] = attribute.text
                reasons.append(f"{name} follows what is seen: {attribute.text}")
        return reasons

    def _compose(self, wish: Wish, kept: dict[str, Attribute], caption: str) -> str:
        text = self._fill(wish) if wish.template else wish.prompt
        said = parse(text)
        clauses = [text]
        for name, value in wish.keep.items():
            clauses += [a.text for n, a in read(name, value).items() if n not in said or not agree(a, said[n])]
        if not wish.template:
            clauses += self._followed.values()
        if not any(clauses):
            return shorten(caption)
        loud = [(kept[name].text, level) for name, level in self._level.items() if level > 0]
        front = [words for words, level in loud for _ in range(2 if level == LOUDEST else 1)]
        back = [words for words, level in loud if level >= 2]
        return ", ".join(part for part in (*front, *clauses, *back) if part)

    def _fill(self, wish: Wish) -> str:
        def value(match: re.Match[str]) -> str:
            name = match["name"]
            if name == "prompt":
                return wish.prompt
            if name in wish.keep:
                return wish.keep[name]
            about = next(iter(read(name, match["default"] or "")), name)
            return self._followed.get(about) or self._followed.get(name) or match["default"] or ""

        return tidy(FIELD.sub(value, wish.template))


def _plain(attribute: Attribute) -> list[Any]:
    return [attribute.text, sorted(attribute.colours), attribute.noun, sorted(attribute.qualities)]


def _attribute(facts: Sequence[Any]) -> Attribute:
    text, colours, noun, qualities = facts
    return Attribute(text, frozenset(colours), noun, frozenset(qualities))


def tidy(text: str) -> str:
    """`text` without what empty fields leave behind: doubled spaces and commas, and joining words with nothing to join."""
    text = re.sub(r"(?:\b(?:in|with|and|on|at|wearing|of|a|an|the)\b\s*)+(?=,|\.|$)", "", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.])", r"\1", text)
    return re.sub(r"(?:,\s*)+,", ",", text).strip(" ,")


def shorten(caption: str) -> str:
    """A caption as a prompt: its sentences without `name: value` lines and openings such as "The image shows", cut to CAPTION_WORDS."""
    lines = [line.strip() for line in caption.splitlines() if line.strip() and not re.match(r"^[\s*-]*[A-Za-z][A-Za-z _-]{0,23}\s*:", line)]
    text = re.sub(r"(?i)^(?:the|this) (?:image|picture|photo|painting) (?:shows|depicts|features|is of)\s+", "", " ".join(lines))
    return " ".join(text.split()[:CAPTION_WORDS]).rstrip(" .,")
