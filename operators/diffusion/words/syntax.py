"""Prompts with weights: from what a person types to fragments with weights, in parts with shares.

Three habits are read, chosen by name:

    "weights"  (word:1.3)  ((word))  [word]  BREAK  and  `a :0.7 AND b :0.3`     as the AUTOMATIC1111 interface reads them
    "compel"   word++  word--  (some words)1.3  ("a", "b").blend(0.7, 0.3)       as the compel library reads them
    "plain"    nothing is special

A pair of round brackets multiplies by 1.1, of square ones divides by 1.1, a backslash takes the meaning from a bracket; `+` and `-` of compel
multiply by 1.1 and 0.9 each. AND, like compel's blend, mixes the encodings by their shares: one pass of the UNet, not one a part as in
composable diffusion (arXiv 2206.01714). BREAK fills the present chunk of 77 tokens and begins the next.

Invariant: text without special characters is one fragment of weight 1, letter for letter. What looks like a weight and is no number, and a
bracket that is never closed, raise WeightError with the place. It knows text, neither tokens nor tensors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from engine.errors import UsageError

Syntax = Literal["weights", "compel", "plain"]
STEP = 1.1  # what a pair of brackets multiplies by
MOST = 20.0  # a weight beyond is a slip of the keyboard
BREAK = "BREAK"


class WeightError(UsageError):
    """A prompt whose weights cannot be read: `position` is the 0-based place in the text."""

    def __init__(self, text: str, position: int, expected: str, found: str) -> None:
        self.position = position
        shown = text if len(text) <= 60 else f"…{text[max(0, position - 28) : position + 28]}…"
        super().__init__(
            f"prompt {shown!r}: character {position + 1}: expected {expected}, found {found!r}",
            fix='write a weight as (word:1.3), put a backslash before a bracket that is meant as one, or take syntax = "plain"',
        )


@dataclass(frozen=True, slots=True)
class Fragment:
    """Some text and its weight; `ends`: the chunk ends behind it (BREAK)."""

    text: str
    weight: float = 1.0
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One of the prompts that are mixed, with its share; shares of a prompt add up to 1."""

    fragments: tuple[Fragment, ...]
    share: float = 1.0


def parse(text: str, syntax: Syntax = "weights") -> tuple[Part, ...]:
    """The parts of `text`. Raises WeightError."""
    if syntax == "plain":
        return (Part((Fragment(text),)),)
    return _compel(text) if syntax == "compel" else _weights(text)


def plain(text: str) -> tuple[Part, ...]:
    """`text` with nothing special in it: what is painted where `parse` raises in the middle of a run."""
    return (Part((Fragment(text),)),)


def _shares(text: str, parts: list[tuple[tuple[Fragment, ...], float, int]]) -> tuple[Part, ...]:
    total = sum(share for _, share, _ in parts)
    if not math.isfinite(total) or total <= 0:
        raise WeightError(text, parts[0][2], "shares that add up to more than 0", f"{total:g}")
    return tuple(Part(fragments, share / total) for fragments, share, _ in parts)


def _join(fragments: list[Fragment]) -> tuple[Fragment, ...]:
    """Neighbours of one weight as one: words are not torn apart where a bracket changes nothing."""
    joined: list[Fragment] = []
    for fragment in fragments:
        last = joined[-1] if joined else None
        if last is not None and last.weight == fragment.weight and not last.ends:
            joined[-1] = Fragment(last.text + fragment.text, last.weight, fragment.ends)
        elif fragment.text or fragment.ends:
            joined.append(fragment)
    return tuple(joined) or (Fragment(""),)


# ---------------------------------------------------------------- (word:1.3)


_AND = re.compile(r"\bAND\b")
_SHARE = re.compile(r":\s*([^\s:]+)\s*$")
_TOKEN = re.compile(r"\\[()\[\]\\]|[()\[\]]|\bBREAK\b|[^\\()\[\]B]+|.", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")


def _number(text: str, place: int, word: str) -> float:
    value = float(word) if _NUMBER.fullmatch(word) else math.nan
    if not abs(value) <= MOST:
        raise WeightError(text, place, f"a weight between -{MOST:g} and {MOST:g}", word)
    return value


def _weights(text: str) -> tuple[Part, ...]:
    pieces, start = [], 0
    for found in [*_AND.finditer(text), None]:
        end = found.start() if found else len(text)
        pieces.append((start, end))
        start = found.end() if found else end
    parts = []
    for begin, end in pieces:
        share = 1.0
        if len(pieces) > 1:
            tail = _SHARE.search(text, begin, end)
            if tail:
                share, end = _number(text, tail.start(1), tail[1]), tail.start()
            while begin < end and text[begin] == " ":
                begin += 1
            while end > begin and text[end - 1] == " ":
                end -= 1
        parts.append((_brackets(text, begin, end), share, begin))
    return _shares(text, parts)


def _brackets(text: str, begin: int, end: int) -> tuple[Fragment, ...]:
    made: list[Fragment] = []
    open_at: list[tuple[str, int, int]] = []  # bracket, place, fragments before it

    def scale(since: int, by: float) -> None:
        for n in range(since, len(made)):
            made[n] = Fragment(made[n].text, made[n].weight * by, made[n].ends)

    for token in _TOKEN.finditer(text, begin, end):
        word, place = token[0], token.start()
        if word in "([":
            open_at.append((word, place, len(made)))
        elif word == ")" and open_at and open_at[-1][0] == "(":
            since = open_at.pop()[2]
            colon = _explicit(text, made, since, place)
            scale(since, STEP if colon is None else colon)
        elif word == "]" and open_at and open_at[-1][0] == "[":
            scale(open_at.pop()[2], 1 / STEP)
        elif word == BREAK:
            text_before = made.pop() if made and not made[-1].ends and len(made) > (open_at[-1][2] if open_at else 0) else Fragment("")
            made.append(Fragment(text_before.text.rstrip(), text_before.weight, True))
        else:
            made.append(Fragment(word[1:] if word[0] == "\\" and len(word) == 2 else word))
    if open_at:
        bracket, place, _ = open_at[-1]
        raise WeightError(text, place, f"a bracket that closes this one ({')' if bracket == '(' else ']'})", bracket)
    return _join(made)


def _explicit(text: str, made: list[Fragment], since: int, close: int) -> float | None:
    """The weight written before the closing bracket at `close`, taken off the last fragment; None where there is none."""
    if len(made) <= since or ":" not in made[-1].text or made[-1].ends:
        return None
    body, _, word = made[-1].text.rpartition(":")
    if not word.strip() or " " in word.strip() or (word != word.strip() and not _NUMBER.fullmatch(word.strip())):
        return None  # a colon of the sentence, as in "(note: blue)"
    word = word.strip()
    value = _number(text, close - len(word), word)
    made[-1] = Fragment(body, made[-1].weight)
    return value


# ---------------------------------------------------------------- word++


_BLEND = re.compile(r"""\s*\(((?:\s*"(?:[^"\\]|\\.)*"\s*,?)+)\)\.blend\(([^)]*)\)\s*$""", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_COMPEL = re.compile(r"\\[()\\]|[()]|(?P<signs>(?<=\S)(?:\++|-{2,})(?=[\s,.;)]|$))|[^\\()+\-]+|.", re.DOTALL)
_AFTER = re.compile(r"(\++|-+)(?=[\s,.;)(]|$)|([+-]?[\d.]+)")


def _compel(text: str) -> tuple[Part, ...]:
    blend = _BLEND.match(text)
    if not blend:
        return (Part(_signs(text, 0, len(text))),)
    quoted = list(_QUOTED.finditer(text, blend.start(1), blend.end(1)))
    words = [word.strip() for word in blend[2].split(",")] if blend[2].strip() else ["1"] * len(quoted)
    if len(words) != len(quoted):
        raise WeightError(text, blend.start(2), f"{len(quoted)} shares, one a prompt", blend[2])
    shares = [_number(text, blend.start(2), word) for word in words]
    return _shares(text, [(_signs(text, q.start(1), q.end(1)), share, q.start(1)) for q, share in zip(quoted, shares, strict=True)])


def _signs(text: str, begin: int, end: int) -> tuple[Fragment, ...]:
    made: list[Fragment] = []
    open_at: list[tuple[int, int]] = []
    skip = begin
    for token in _COMPEL.finditer(text, begin, end):
        word, place = token[0], token.start()
        if place < skip:  # a weight behind a bracket, which may be the head of a longer run of text
            if token.end() > skip:
                made.append(Fragment(text[skip : token.end()]))
            continue
        if word == "(":
            open_at.append((place, len(made)))
        elif word == ")" and open_at:
            since = open_at.pop()[1]
            after = _AFTER.match(text, place + 1, end)
            if after:
                skip = after.end()
                by = _power(after[1]) if after[1] else _number(text, place + 1, after[2])
                for n in range(since, len(made)):
                    made[n] = Fragment(made[n].text, made[n].weight * by)
        elif token["signs"] and made:
            before, space, last = made.pop().text.rpartition(" ")
            made += [Fragment(before + space), Fragment(last, _power(word))] if space else [Fragment(last, _power(word))]
        else:
            made.append(Fragment(word[1:] if word[0] == "\\" and len(word) == 2 else word))
    if open_at:
        raise WeightError(text, open_at[-1][0], "a bracket that closes this one ())", "(")
    return _join(made)


def _power(signs: str) -> float:
    return 1.1 ** len(signs) if signs[0] == "+" else 0.9 ** len(signs)
