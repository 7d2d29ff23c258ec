"""Reads attributes out of plain sentences: what a caption says of hair, clothes and background.

The grammar is small and explicit. A noun names an attribute (`coat` is what is worn on top); the words before it, back to the last noun,
article, joining word or comma, describe it, and of these only colours and a few known qualities count. `hair that is red`, `red-haired` and
lines such as `hair: red` are read too. What the grammar does not know it does not report; a caption that leaves something out says nothing
about it. Invariant: the same sentence gives the same attributes; no model is asked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

COLOURS: dict[str, str] = {
    word: plain
    for plain, words in {
        "red": "red scarlet crimson maroon burgundy ruby", "orange": "orange", "yellow": "yellow golden gold mustard",
        "green": "green emerald olive lime", "teal": "teal turquoise cyan aqua", "blue": "blue navy azure indigo",
        "purple": "purple violet lilac lavender", "pink": "pink magenta rose", "brown": "brown chestnut auburn tan beige",
        "black": "black dark-haired", "white": "white cream ivory", "gray": "gray grey silver charcoal", "blond": "blond blonde fair",
        "ginger": "ginger redhead",
    }.items()
    for word in words.split()
}  # fmt: skip

NOUNS: dict[str, str] = {
    word: attribute
    for attribute, words in {
        "hair": "hair haired", "eyes": "eyes eyed", "beard": "beard",
        "top": "shirt shirts tshirt t-shirt top sweater blouse jumper pullover coat jacket hoodie blazer vest tunic",
        "dress": "dress gown robe", "suit": "suit", "bottom": "trousers pants jeans leggings shorts skirt",
        "hat": "hat cap beanie helmet hood", "shoes": "shoes boots sneakers trainers", "scarf": "scarf", "glasses": "glasses sunglasses",
        "background": "background backdrop wall walls curtain curtains sky",
    }.items()
    for word in words.split()
}  # fmt: skip

# Nouns that mean much the same: swapping one for another is no drift.
ALIKE: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "shirt shirts tshirt t-shirt top blouse", "sweater jumper pullover hoodie", "coat jacket blazer", "trousers pants jeans leggings",
        "cap beanie", "shoes sneakers trainers", "background backdrop wall walls", "dress gown robe",
    )
)  # fmt: skip

QUALITIES = {"long", "short", "curly", "straight", "wavy", "bald", "striped", "checked", "leather", "denim", "plain", "floral"}
PLACES = {
    "studio": "studio", "stage": "stage", "street": "city", "city": "city", "downtown": "city", "beach": "beach", "sea": "beach",
    "forest": "forest", "woods": "forest", "park": "meadow", "meadow": "meadow", "field": "meadow", "grass": "meadow", "snow": "snow",
    "sunset": "sunset", "night": "night", "room": "room", "office": "office", "garden": "garden",
}  # fmt: skip
STOPS = {"a", "an", "the", "and", "with", "in", "on", "at", "of", "wearing", "has", "his", "her", "their", "its", "who", "front", "against"}
ASIDES = {"is", "are", "was", "were", "that", "which", "very", "looks", "bright", "light", "dark", "deep", "pale"}

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*|[,.;:\n]")
_LINE = re.compile(r"^[\s*-]*([a-z][a-z _-]{0,23}?)\s*[:=]\s*(.+?)\s*$", re.MULTILINE)


class Attribute(NamedTuple):
    """One attribute as it was described: the words, the plain colours among them, the noun, and qualities such as `long`."""

    text: str
    colours: frozenset[str]
    noun: str
    qualities: frozenset[str] = frozenset()


def parse(sentence: str) -> dict[str, Attribute]:
    """Attributes by name, in the order in which the sentence mentions them; the first mention of each counts."""
    found: dict[str, Attribute] = {}
    text = sentence.lower().replace("top hat", "hat")
    for name, value in _LINE.findall(text):
        if value.strip(" .") not in ("unknown", "none", "not visible", "n/a"):
            found = {**read(name, value), **found}
    return {**_phrases(_LINE.sub("", text)), **found}


def read(name: str, value: str) -> dict[str, Attribute]:
    """What `name = value` says, such as `hair = "red"` or `clothes = "a red coat"` (which is about `top`)."""
    name = name.strip().lower().replace("_", " ").removesuffix(" colour").removesuffix(" color")
    name = NOUNS.get(name, name)
    value = value.strip(" .,;").lower().replace("top hat", "hat")
    own = _phrases(value)
    if name in own:
        return {name: own[name]}
    if own and name not in NOUNS.values():
        return own
    words = [w for w in _WORD.findall(value) if w[0].isalpha()]
    place = next((PLACES[w] for w in words if w in PLACES), "") if name == "background" else ""
    told = [w for w in words if w not in COLOURS and w not in QUALITIES and w not in STOPS]
    return {
        name: Attribute(
            value if told else f"{value} {name}",
            frozenset(COLOURS[w] for w in words if w in COLOURS),
            place or (told[-1] if told else name),
            frozenset(w for w in words if w in QUALITIES),
        )
    }


def _phrases(text: str) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    pending: list[str] = []  # describing words since the last stop
    last = ""  # the attribute just named, for "hair is red"
    joined = False  # "white and red coat": the joint keeps what came before it
    words = [part for word in _WORD.findall(text) for part in _split(word)]
    for index, word in enumerate(words):
        if word in NOUNS:
            name = NOUNS[word]
            after = words[index + 1 : index + 5]
            said = pending
            if not any(w in COLOURS for w in said) and after[:1] and after[0] in ("is", "are", "that", "which", ":"):
                said = [*said, *[w for w in after if w in COLOURS or w in QUALITIES]]
            if name not in found and (said or word not in ("haired", "eyed")):
                noun = {"haired": "hair", "eyed": "eyes"}.get(word, word)
                found[name] = _attribute(said, noun)
            pending, last, joined = [], name, False
        elif word in COLOURS or word in QUALITIES:
            pending.append(word)
            joined = False
        elif word in PLACES and (last != "background" or "background" not in found):
            colours = frozenset(COLOURS[w] for w in pending if w in COLOURS)
            found.setdefault("background", Attribute(" ".join([*pending, word]), colours, PLACES[word]))
            pending = []
        elif word == "and" and pending and not joined:
            joined = True
        elif word in ASIDES:
            continue
        elif word in STOPS or not word[0].isalpha():
            pending, joined = [], False
    return found


def _split(word: str) -> list[str]:
    return [word] if word in NOUNS or word in COLOURS else word.split("-")


def _attribute(said: list[str], noun: str) -> Attribute:
    return Attribute(
        " ".join([*said, noun]),
        frozenset(COLOURS[w] for w in said if w in COLOURS),
        noun,
        frozenset(w for w in said if w in QUALITIES),
    )


def from_table(table: dict[str, str]) -> dict[str, Attribute]:
    """Attributes from a captioner's own table, such as `{"hair": "long", "hair_colour": "red", "top": "coat", "top_colour": "blue"}`."""
    found: dict[str, Attribute] = {}
    for name in dict.fromkeys(key.removesuffix("_colour").removesuffix("_color") for key in table):
        thing = table.get(name, "")
        colour = table.get(f"{name}_colour") or table.get(f"{name}_color") or ""
        if thing == "plain":
            thing = ""
        if thing not in ("none", "unknown") and (thing or colour):
            words = f"{thing} {colour}" if thing in QUALITIES else f"{colour} {thing}"
            found |= read({"place": "background"}.get(name, name), words.strip())
    return found


def agree(asked: Attribute, seen: Attribute) -> bool:
    """Whether what is seen fits what was asked: a colour in common where both name colours, and else the same kind of thing."""
    if asked.colours and seen.colours:
        if not same_colour(asked.colours, seen.colours):
            return False
    elif not asked.colours and not _same_noun(asked.noun, seen.noun):
        return False
    lengths = {"long", "short"}
    return not (asked.qualities & lengths and seen.qualities & lengths) or bool(asked.qualities & seen.qualities & lengths)


def same_colour(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two sets of plain colours share one; red and ginger, blond and yellow, and gray and white hair are told apart by taste only."""
    near = {"ginger": {"red", "orange", "brown"}, "blond": {"yellow"}}
    wide = set(one) | {n for colour in one for n in near.get(colour, ())}
    return bool(wide & other) or bool(one & {n for colour in other for n in near.get(colour, ())})


def _same_noun(one: str, other: str) -> bool:
    if {NOUNS.get(one), NOUNS.get(other)} & {"background"}:
        return True  # a wall may well stand in a studio
    return one == other or any(one in group and other in group for group in ALIKE)
