"""What was asked is put back, the rest may follow."""

from __future__ import annotations

from operators.vlm.attributes import parse
from operators.vlm.refiner import Refiner, Wish, shorten, tidy


def looks(wish: Wish, *captions: str) -> list[tuple[str, str, str]]:
    refiner = Refiner()
    return [tuple(refiner(wish, c, parse(c))) for c in captions]


def test_a_drifted_attribute_is_put_back_louder_and_louder_and_let_go_again() -> None:
    wish = Wish(prompt="a dancer on a stage", keep={"hair": "red"}, follow=0)
    texts = looks(wish, "red hair", "brown hair", "brown hair", "brown hair", "red hair", "red hair", "red hair", "red hair")
    times = [text.count("red hair") for text, _, _ in texts]
    assert times == [1, 2, 3, 4, 3, 2, 1, 1]
    assert texts[1][0] == "red hair, a dancer on a stage, red hair"
    assert [negative for _, negative, _ in texts] == ["", "", "brown hair", "brown hair", "brown hair", "", "", ""]
    assert "drifted to brown hair" in texts[1][2]
    assert texts[-1][2] == ""


def test_what_the_prompt_itself_names_is_kept_too() -> None:
    (text, _, reason), = looks(Wish(prompt="a dancer in a red coat", follow=1), "a man in a blue coat")
    assert text.startswith("red coat, ")
    assert "blue" not in text
    assert "put back" in reason


def test_open_attributes_follow_after_as_many_looks_as_asked() -> None:
    captions = ["gray background"] * 4
    at_once, second, never = (
        [text for text, _, _ in looks(Wish(prompt="a dancer", follow=follow), *captions)] for follow in (1.0, 0.5, 0.0)
    )
    assert at_once[0] == "a dancer, gray background"
    assert second[:2] == ["a dancer", "a dancer, gray background"]
    assert set(never) == {"a dancer"}


def test_one_odd_look_does_not_change_what_is_followed() -> None:
    wish = Wish(prompt="a dancer", follow=0.5)
    texts = [text for text, _, _ in looks(wish, "gray background", "gray background", "pink background", "gray background")]
    assert texts[1:] == ["a dancer, gray background"] * 3


def test_fields_take_the_kept_value_then_the_seen_one_then_their_own() -> None:
    template = "a {subject|dancer} with {hair} hair in {clothes|a red coat}, {background|studio light}"
    wish = Wish(template=template, keep={"hair": "red"}, follow=1)
    first, second = (text for text, _, _ in looks(wish, "somebody", "red hair, a blue coat, city street"))
    assert first == "a dancer with red hair in a red coat, studio light"
    assert second == "a dancer with red hair in blue coat, city"


def test_an_empty_field_leaves_no_hole() -> None:
    (text, _, _), = looks(Wish(template="{prompt} in {clothes}, {background}", prompt="a dancer"), "nothing")
    assert text == "a dancer"
    assert tidy("a dancer in , on  a , studio ,, light") == "a dancer, studio, light"


def test_without_a_wish_the_caption_is_the_prompt() -> None:
    (text, _, _), = looks(Wish(), "The image shows a man who juggles.\nmood: calm")
    assert text == "a man who juggles"
    assert len(shorten("word " * 200).split()) == 50


def test_reset_forgets_the_drift() -> None:
    wish, refiner = Wish(prompt="a dancer", keep={"hair": "red"}, follow=0), Refiner()
    refiner(wish, "", parse("green hair"))
    refiner.reset()
    assert refiner(wish, "", parse("a hat")).text == "a dancer, red hair"
