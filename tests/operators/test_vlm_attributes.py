"""What sentences say of hair, clothes and background."""

from __future__ import annotations

import pytest

from operators.vlm.attributes import agree, from_table, parse, read


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a dancer in a red coat, studio light", {"top": {"red"}, "background": set()}),
        ("The woman has long red hair and wears a blue jacket and black jeans", {"hair": {"red"}, "top": {"blue"}, "bottom": {"black"}}),
        ("a person whose hair is dark brown, in front of a white wall", {"hair": {"brown"}, "background": {"white"}}),
        ("a red-haired man in a white and blue t-shirt", {"hair": {"red"}, "top": {"white", "blue"}}),
        ("Hair: blonde\nclothes: scarlet coat\nbackground: city street", {"hair": {"blond"}, "top": {"red"}, "background": set()}),
        ("a man in a black suit and a grey top hat", {"suit": {"black"}, "hat": {"gray"}}),
        ("hair: unknown\nbackground: teal", {"background": {"teal"}}),
        ("a juggler in a park", {"background": set()}),
        ("red light falls on nobody in particular", {}),
        ("", {}),
    ],
)
def test_colours_belong_to_their_noun(sentence: str, expected: dict[str, set[str]]) -> None:
    assert {name: set(a.colours) for name, a in parse(sentence).items()} == expected


def test_a_colour_does_not_leak_over_a_stop() -> None:
    assert not parse("red curtains and hair")["hair"].colours
    assert parse("a blue hat, hair")["hair"].colours == frozenset()


def test_a_place_is_a_background() -> None:
    assert parse("a dancer on the beach")["background"].noun == "beach"
    assert parse("background: city street")["background"].noun == "city"


def test_a_table_reads_like_a_sentence() -> None:
    table = {"hair": "long", "hair_colour": "red", "top": "coat", "top_colour": "blue", "hat": "none", "hat_colour": "black", "place": "beach"}
    said = from_table(table)
    assert from_table({"place": "plain", "place_colour": "gray"})["background"].text == "gray background"
    assert from_table({"place": "stage", "place_colour": "red"})["background"].text == "red stage"
    assert {name: a.text for name, a in said.items()} == {"hair": "long red hair", "top": "blue coat", "background": "beach"}


@pytest.mark.parametrize(
    ("asked", "seen", "same"),
    [
        ("red hair", "brown hair", False),
        ("red hair", "ginger hair", True),
        ("scarlet hair", "crimson hair", True),
        ("long red hair", "short red hair", False),
        ("red coat", "red shirt", True),  # the colour is what was asked for
        ("coat", "blazer", True),
        ("coat", "shirt", False),
        ("studio light", "a gray background", True),  # a wall may well stand in a studio
        ("studio light", "on the beach", False),
        ("red curtains", "a gray background", False),
    ],
)
def test_agreement(asked: str, seen: str, same: bool) -> None:
    (one,), (other,) = parse(asked).values(), parse(seen).values()
    assert agree(one, other) is same


def test_a_value_may_name_the_garment() -> None:
    assert list(read("clothes", "a red coat")) == ["top"]
    assert read("hair", "red")["hair"].text == "red hair"
