"""What a figure looks like, and the sentences that say so.

A `Look` is a handful of named choices. `describe` turns it into a caption from a small grammar with synonyms, and says which
choices the caption mentions, so that what a prompt leaves open is known. Nothing here knows of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (214, 46, 50), "orange": (243, 142, 40), "yellow": (247, 214, 66), "green": (58, 158, 74),
    "teal": (28, 164, 164), "blue": (48, 94, 208), "purple": (124, 68, 182), "pink": (242, 132, 178),
    "brown": (124, 80, 50), "black": (36, 36, 42), "white": (240, 240, 238), "gray": (138, 142, 150),
}  # fmt: skip
HAIR: dict[str, RGB] = {
    "black": (30, 27, 30), "brown": (98, 60, 34), "blond": (238, 202, 110), "ginger": (208, 96, 36),
    "silver": (192, 195, 204), "blue": (58, 108, 224), "pink": (246, 120, 180), "green": (66, 172, 92), "purple": (140, 78, 196),
}  # fmt: skip
SKIN: dict[str, RGB] = {"light": (250, 214, 186), "tan": (218, 164, 120), "dark": (128, 82, 56)}
METAL: RGB = (168, 178, 190)

KINDS = ("person", "robot")
TOPS = ("shirt", "jacket")
BOTTOMS = ("trousers", "shorts", "skirt")
HAIR_CUTS = ("short", "long")
HATS = ("none", "cap", "top hat")
STYLES = ("soft", "flat", "comic")
PLACES = ("plain", "stage", "studio", "sunset", "night", "meadow", "beach", "city", "snow", "forest")
TINTED = ("plain", "stage")  # places that take a colour


@dataclass(frozen=True)
class Look:
    """One choice for every attribute; the values are keys of the tables above."""

    kind: str = "person"
    top: str = "shirt"
    top_colour: str = "red"
    bottom: str = "trousers"
    bottom_colour: str = "blue"
    hair: str = "short"
    hair_colour: str = "brown"
    hat: str = "none"
    hat_colour: str = "black"
    skin: str = "light"
    style: str = "soft"
    place: str = "plain"
    place_colour: str = "gray"


CHOICES: dict[str, tuple[str, ...]] = {
    "kind": KINDS, "top": TOPS, "top_colour": tuple(COLOURS), "bottom": BOTTOMS, "bottom_colour": tuple(COLOURS),
    "hair": HAIR_CUTS, "hair_colour": tuple(HAIR), "hat": HATS, "hat_colour": tuple(COLOURS), "skin": tuple(SKIN),
    "style": STYLES, "place": PLACES, "place_colour": tuple(COLOURS),
}  # fmt: skip
assert tuple(CHOICES) == tuple(f.name for f in fields(Look))

WORDS: dict[str, tuple[str, ...]] = {  # the first word of a row is the plain one
    "person": ("person", "dancer", "figure", "performer", "character", "juggler", "man", "woman", "boy", "girl"),
    "robot": ("robot", "android"),
    "shirt": ("shirt", "tshirt", "top", "sweater", "blouse"), "jacket": ("jacket", "coat", "hoodie", "blazer"),
    "trousers": ("trousers", "pants", "jeans", "leggings"), "shorts": ("shorts",), "skirt": ("skirt", "dress"),
    "cap": ("cap",), "top hat": ("hat",),
    "red": ("red", "scarlet", "crimson"), "orange": ("orange",), "yellow": ("yellow", "golden"), "green": ("green", "emerald"),
    "teal": ("teal", "turquoise", "cyan"), "blue": ("blue", "navy"), "purple": ("purple", "violet"), "pink": ("pink", "magenta"),
    "brown": ("brown",), "black": ("black",), "white": ("white",), "gray": ("gray", "grey"),
    "blond": ("blond", "blonde"), "ginger": ("ginger", "red"), "silver": ("silver", "gray", "grey", "white"),
    "light": ("light", "fair", "pale"), "tan": ("tan", "olive"), "dark": ("dark",),
    "soft": ("soft shading", "shaded", "3d render"), "flat": ("flat colours", "flat illustration", "flat style"),
    "comic": ("comic", "cartoon", "ink outlines", "comic style"),
    "plain": ("background", "wall", "backdrop"), "stage": ("curtains", "curtain"),
    "studio": ("studio light", "studio", "in a studio", "plain background", "photo studio"),
    "sunset": ("sunset", "at sunset", "evening light"), "night": ("night", "at night", "night sky", "moonlight"),
    "meadow": ("meadow", "in a meadow", "on the grass", "in a park"), "beach": ("beach", "on the beach", "by the sea"),
    "city": ("city", "in the city", "city street", "downtown"), "snow": ("snow", "in the snow", "winter"),
    "forest": ("forest", "in a forest", "in the woods"),
}  # fmt: skip
VERBS = ("dancing", "walking", "running", "jumping", "waving", "standing", "juggling", "posing", "clapping", "moving")
FILLERS = (
    "beautiful", "detailed", "high quality", "masterpiece", "sharp focus", "elegant", "full body", "warm", "cinematic", "bright",
    "portrait", "photo", "picture", "illustration", "dramatic", "one", "young", "old", "happy", "best quality", "a clear day",
)  # fmt: skip
SLOTS = ("top", "bottom", "hair", "hat", "place")  # attributes that own a colour, in this order everywhere
LONG_HAIRED, SHORT_HAIRED = ("woman", "girl"), ("man", "boy")


@dataclass(frozen=True)
class Caption:
    """A sentence, the attributes it fixes, and for every word the slot whose colour it names, if any: (word, slot)."""

    text: str
    fixed: frozenset[str]
    nouns: tuple[tuple[str, str], ...] = ()


def draw_look(rng: np.random.Generator, *, natural: float = 0.0) -> Look:
    """A random look. `natural`: the chance that hair, skin and style follow habit rather than chance alone."""

    def pick(options: tuple[str, ...], weights: tuple[float, ...] | None = None) -> str:
        return str(options[int(rng.choice(len(options), p=weights))]) if weights else options[int(rng.integers(len(options)))]

    look = Look(
        kind=pick(KINDS, (0.86, 0.14)), top=pick(TOPS), top_colour=pick(tuple(COLOURS)),
        bottom=pick(BOTTOMS, (0.5, 0.25, 0.25)), bottom_colour=pick(tuple(COLOURS)),
        hair=pick(HAIR_CUTS), hair_colour=pick(tuple(HAIR)),
        hat=pick(HATS, (0.72, 0.14, 0.14)), hat_colour=pick(tuple(COLOURS)), skin=pick(tuple(SKIN)),
        style=pick(STYLES, (0.5, 0.22, 0.28)),
        place=pick(PLACES, (0.33, 0.1, 0.22, 0.06, 0.06, 0.07, 0.06, 0.03, 0.03, 0.04)), place_colour=pick(tuple(COLOURS)),
    )  # fmt: skip
    if rng.random() < natural:
        look = replace(look, hair_colour=pick(("brown", "black", "blond")), skin=pick(("light", "tan")), style="soft", hat="none")
    if look.place == "plain" and look.place_colour in (look.top_colour, look.bottom_colour) and rng.random() < 0.8:
        look = replace(look, place_colour=pick(tuple(c for c in COLOURS if c not in (look.top_colour, look.bottom_colour))))
    return look


# What a picture shows when its caption leaves an attribute out, as often as HABIT says: a one-step sample is a mean, and a mean
# with a mode looks like something. The rest of the time it is drawn freely, so that a carried latent has something to say.
DEFAULTS = {
    "bottom_colour": "black", "hair_colour": "brown", "skin": "light", "style": "soft", "hat": "none", "place": "studio", "kind": "person",
}  # fmt: skip
HABIT = 0.35


def fill_gaps(look: Look, fixed: frozenset[str], rng: np.random.Generator) -> Look:
    """`look` with some of the attributes that a caption leaves open put to their defaults."""
    gaps = {name: value for name, value in DEFAULTS.items() if name not in fixed and rng.random() < HABIT}
    return replace(look, **gaps)


def describe(
    look: Look, rng: np.random.Generator | None = None, *, drop: float = 0.0, shuffle: bool = False, noise: float = 0.0,
) -> Caption:  # fmt: skip
    """A caption of `look`. Without `rng` it is the plain full sentence. `drop`: chance of leaving each attribute out;
    `shuffle`: clauses in any order; `noise`: chance of filler words that mean nothing."""
    fixed: set[str] = set()
    nouns: list[tuple[str, str]] = []

    def word(key: str) -> str:
        row = WORDS.get(key, (key,))
        return row[0] if rng is None or rng.random() < 0.5 else row[int(rng.integers(len(row)))]

    def keep(*names: str) -> bool:
        if rng is not None and rng.random() < drop:
            return False
        fixed.update(names)
        return True

    def chance(p: float) -> bool:
        return rng is not None and rng.random() < p

    subject = word(look.kind)
    if look.kind == "person" and rng is not None:
        if subject in LONG_HAIRED and look.hair != "long" and not chance(0.1):
            subject = "person"
        if subject in SHORT_HAIRED and look.hair != "short" and not chance(0.1):
            subject = "person"
    subject = f"{'the' if chance(0.1) else 'a'} {subject}" if keep("kind") else "a figure"
    clauses: list[str] = []
    top, bottom = word(look.top), word(look.bottom)
    wear = ""
    if keep("top", "top_colour"):
        wear = f"in a {word(look.top_colour)} {top}" if not chance(0.25) else f"wearing a {word(look.top_colour)} {top}"
        nouns.append((top, "top"))
    if keep("bottom", "bottom_colour"):
        article = "a " if bottom in ("skirt", "dress") else ""
        piece = f"{article}{word(look.bottom_colour)} {bottom}"
        wear = f"{wear} and {piece}" if wear and not chance(0.2) else f"{wear}, {piece}".lstrip(", ")
        nouns.append((bottom, "bottom"))
    if wear:
        clauses.append(wear)
    if look.kind == "person":
        if keep("hair_colour"):
            cut = f"{look.hair} " if (rng is None or rng.random() < 0.75) else ""
            if cut:
                fixed.add("hair")
            colour = word(look.hair_colour)
            clauses.append(f"with {cut}{colour} hair" if not chance(0.25) else f"{cut}{colour} hair")
            nouns.append(("hair", "hair"))
        if (rng is None or rng.random() < 0.5) and keep("skin"):
            clauses.append(f"with {word(look.skin)} skin" if chance(0.5) else f"{word(look.skin)} skin")
    if look.hat != "none" and keep("hat", "hat_colour"):
        hat = word(look.hat)
        clauses.append(f"{word(look.hat_colour)} {hat}" if chance(0.3) else f"in a {word(look.hat_colour)} {hat}")
        nouns.append((hat, "hat"))
    if keep("place", *(("place_colour",) if look.place in TINTED else ())):
        place = word(look.place)
        if look.place == "plain":
            before = {"background": "on a", "wall": "in front of a", "backdrop": "against a"}[place]
            clauses.append(f"{before} {word(look.place_colour)} {place}" if not chance(0.3) else f"{word(look.place_colour)} {place}")
            nouns.append((place, "place"))
        elif look.place == "stage":
            colour = word(look.place_colour)
            clauses.append(f"on a stage with {colour} {place}" if not chance(0.2) else f"stage, {colour} {place}")
            nouns.append((place, "place"))
        else:
            clauses.append(place)
    if (rng is None or rng.random() < 0.6) and keep("style"):
        clauses.append(word(look.style))
    if rng is not None:
        if shuffle and len(clauses) > 1 and rng.random() < 0.5:
            clauses = [clauses[i] for i in rng.permutation(len(clauses))]
        if rng.random() < 0.4:
            subject = f"{subject} {VERBS[int(rng.integers(len(VERBS)))]}"
        while rng.random() < noise and len(clauses) < 9:
            filler = FILLERS[int(rng.integers(len(FILLERS)))]
            if rng.random() < 0.4:  # a word nobody knows, so that the like of it does no harm later
                filler = "".join(chr(97 + int(v)) for v in rng.integers(26, size=int(rng.integers(3, 9))))
            clauses.insert(int(rng.integers(len(clauses) + 1)), filler)
    joined = subject
    for n, clause in enumerate(clauses):
        joined += (" " if n == 0 and clause.split()[0] in ("in", "wearing", "with", "on", "at", "by") else ", ") + clause
    return Caption(joined, frozenset(fixed), tuple(nouns))


def slot_colour(look: Look, slot: str) -> RGB:
    """The RGB that owns `slot` in `look`."""
    return HAIR[look.hair_colour] if slot == "hair" else COLOURS[getattr(look, f"{slot}_colour")]
