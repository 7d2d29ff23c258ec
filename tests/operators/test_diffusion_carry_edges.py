"""The carry tools at their edges: what counts just so, what is forgotten with what, and what is on after it was off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_carries import CARRY, NEAR, changed  # noqa: E402
from diffusion_checkpoints import same, skeleton, stream  # noqa: E402
from test_diffusion_carry_flow import alive, textured  # noqa: E402
from test_diffusion_carry_over_time import TOGETHER, play  # noqa: E402

from engine.payload import Image, Prompt  # noqa: E402
from operators.diffusion.carry import warp  # noqa: E402
from operators.diffusion.carry.flow import FINE, Flow  # noqa: E402
from operators.diffusion.carry.motion import Motion  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def grey(value: int, shape: tuple[int, int] = (64, 64)) -> Any:
    return np.full((*shape, 3), value, np.uint8)


def measured(bench: Any, name: str) -> list[float]:
    """What the node says of each frame from now on."""
    said: list[float] = []
    bench.site._measure = lambda node, seq, numbers: said.append(numbers.get(name, 0))
    return said


# ---------------------------------------------------------------- motion, hold, calm


def test_a_change_of_just_so_much_is_still() -> None:
    for value, moves in ((51, False), (52, True)):
        motion = Motion(still=0.2, reach=0.0)
        motion.look([grey(0)], (8, 8))
        motion.settle(False)
        assert bool(motion.look([grey(value)], (8, 8)).moved.any()) is moves  # type: ignore[union-attr]


def test_reach_goes_by_the_short_side() -> None:
    motion = Motion(reach=0.25)  # of 8 cells, two
    motion.look([grey(0, (64, 128))], (8, 16))
    motion.settle(False)
    other = grey(0, (64, 128))
    other[32:40, 64:72] = 255
    row = motion.look([other], (8, 16)).moved[4]  # type: ignore[index]
    assert [float(value) for value in row[4:8]] == pytest.approx([0.0, row[5], 1.0, 1.0])
    assert 0 < row[5] < 1  # the rim


def test_a_cell_that_was_painted_in_part_is_compared_with_what_it_was_painted_from() -> None:
    motion, now = Motion(still=0.06, reach=0.0), grey(100)
    motion.look([now], (8, 8))
    motion.settle(True)
    now[32:40, 32:40] = 200  # moves, and so its neighbour lies on the rim
    now[32:40, 40:48] = 110
    seen = motion.look([now], (8, 8)).moved
    assert seen is not None
    assert 0 < seen[4, 5] < 1
    motion.settle(True)
    now[32:40, 40:48] = 120  # not far from what it was painted from, and far from the first
    assert motion.look([now], (8, 8)).moved[4, 5] == 0  # type: ignore[index]


def test_where_nothing_is_held_all_of_it_was_painted() -> None:
    motion = Motion(still=0.06)
    for value in (100, 110, 120, 130):
        seen = motion.look([grey(value)], (8, 8))
        motion.settle(False)
        assert seen.moved is None or not seen.moved.any()
    passes: list[int] = []
    with stream(skip=100) as bench:
        bench.operator.models.unet.register_forward_pre_hook(lambda module, args: passes.append(1))
        counts = []
        for by in (0, 8, 8):  # enough to paint, too little to count as motion
            bench(changed((3, 3), by))
            counts.append(len(passes) // 4)
    assert counts == [1, 2, 2]


@pytest.mark.parametrize("more", [{}, {"remember": {}}])
def test_what_moved_while_nothing_was_held_moved(more: dict[str, Any]) -> None:
    """There and back, while `hold` was off in between: the carry has what was seen in between."""
    with stream(hold=1.0, motion=NEAR, **more) as bench:
        bench(skeleton(), carry=CARRY)
        bench.set(hold=0.0)
        bench(changed((3, 3)), carry=CARRY)
        bench.set(hold=1.0)
        back = bench(skeleton(), carry=CARRY).latent.data
        assert not torch.equal(back[..., 3, 3], CARRY.data[..., 3, 3])


def test_the_frame_of_a_cut_is_painted_in_full() -> None:
    """Also where no single cell changed enough to count as moved."""
    with stream(scene_cut=0.02, calm=0.25, strength=1.0, motion={"still": 0.9}) as bench:
        said = measured(bench, "strength")
        for value in (60, 60, 90):
            bench([Image(grey(value))], carry=CARRY)
    assert bench.resets == ["scene cut"]
    assert said == [1.0, 0.25, 1.0]


# ---------------------------------------------------------------- skip, epochs, snapshots


def test_with_no_change_allowed_the_same_picture_is_skipped_all_the_same() -> None:
    with stream(skip=100, skip_change=0.0) as bench:
        for shown in (skeleton(), skeleton(), changed((0, 0), 1)):
            bench(shown)
        assert bench.operator.tally() == {"skipped": 1}


def test_skipped_frames_age_the_epoch() -> None:
    with stream(skip=100, reset_every=3) as bench:
        for _ in range(3):
            bench(skeleton())
        assert bench.resets == ["drift"]


def test_a_row_of_skipped_frames_goes_on_in_a_replay() -> None:
    with stream(skip=2) as bench:
        for _ in range(2):
            bench(skeleton())
        state = bench.operator.snapshot()
    with stream(skip=2) as bench:
        bench.operator.recall(state)
        for _ in range(2):
            bench(skeleton())
        assert bench.operator.tally() == {"skipped": 1}  # the second of two, then one that is painted


def test_nothing_is_left_of_an_epoch() -> None:
    with stream(**TOGETHER) as bench:
        play(bench, range(5), None)
        bench.operator.reset()
        left = bench.operator._tools.snapshot()
    assert (left["key"], left["count"], left["base"], left["kept"], left["flow"]) == ("", 0, None, None, (None, None))
    assert left["memory"]["steps"] == []


# ---------------------------------------------------------------- flow


class Search:
    """Says what it was told to: flow back, then flow forth."""

    def __init__(self, back: Any, forth: Any) -> None:
        self.found = [back, forth]

    def calc(self, a: Any, b: Any, none: None) -> Any:
        return self.found.pop(0)


def ways(back: Any, forth: Any) -> tuple[Any, Any]:
    """Where cells came from in a picture without any marks."""
    flow = Flow()
    flow.look(grey(90), (8, 8))
    flow.settle()
    flow.search = Search(back.astype(np.float32), forth.astype(np.float32))
    found = flow.look(grey(90), (8, 8))
    assert found is not None
    return found


def test_what_came_from_outside_is_not_trusted() -> None:
    side = 8 * FINE
    back = np.zeros((side, side, 2))
    back[..., 0] = -2 * FINE  # two cells to the right
    _, trust = ways(back, -back)
    assert (trust[:, :2] == 0).all()
    assert (trust[:, 2:] == 1).all()


def test_the_part_of_a_cell_that_moves_tells_its_way() -> None:
    side = 8 * FINE
    back, forth = np.zeros((side, side, 2)), np.zeros((side, side, 2))
    back[:, 4 * FINE, 0] = -FINE  # one column of four in the fifth cell, which came from the cell before
    forth[:, 3 * FINE, 0] = FINE
    came, _ = ways(back, forth)
    assert came[3, 4, 0] == pytest.approx(3.0, abs=0.1)
    assert came[3, 6, 0] == pytest.approx(6.0, abs=1e-5)


def test_where_the_way_is_not_known_the_encoded_picture_fills_in() -> None:
    with stream(flow={"on": "image"}) as bench:
        tools, (x, y) = bench.operator._tools, torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy")
        tools.way = torch.stack([x, y, (x < 4).float()])
        found = tools.moved(torch.full((1, 4, 8, 8), 1.0), torch.full((1, 4, 8, 8), 5.0))
    assert torch.allclose(found[..., :4], torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(found[..., 4:], torch.tensor(5.0), atol=1e-5)


def test_the_border_goes_on_outside() -> None:
    field = torch.arange(8.0).expand(1, 1, 8, 8)
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy")
    found = warp.sample(field, torch.stack([x + 3, y - 5]))
    assert torch.allclose(found[0, 0, 0], torch.tensor([3.0, 4, 5, 6, 7, 7, 7, 7]), atol=1e-5)


def test_a_way_ends_with_a_cut_and_with_its_picture() -> None:
    pictures = [Image(np.ascontiguousarray(textured(shift)[96:160, 96:160])) for shift in (0, 8, 16)]
    with stream(flow={"on": "image", "noise": True}, scene_cut=0.3) as bench:
        tools = bench.operator._tools
        for shown in pictures[:2]:
            bench(skeleton(), image=shown, carry=CARRY)
        assert tools.flow.origin is not None
        assert tools.way is not None
        bench(skeleton(), carry=CARRY)  # nobody shows where anything went
        assert tools.way is None
        assert tools.since is None
        bench(skeleton(), image=pictures[2], carry=CARRY)
        assert tools.way is not None
        bench(skeleton(), image=Image(255 - np.asarray(pictures[2].data)), carry=CARRY)
        assert bench.resets == ["scene cut"]
        assert tools.way is None
        assert tools.since is None
        assert tools.flow.origin is None  # the noise of what comes now has not moved yet


# ---------------------------------------------------------------- remember


def heard(bench: Any) -> list[list[Any]]:
    """What layers find from now on."""
    memory, found = bench.operator._tools.memory, []
    plain = memory.found
    memory.found = lambda layer: found.append(plain(layer)) or found[-1]
    return found


def test_only_the_last_frame_is_found_and_not_the_one_before_it() -> None:
    with stream(remember={}, steps=4, strength=0.5) as bench:
        memory = bench.operator._tools.memory
        for carry in (None, CARRY, CARRY):  # all steps, then the last two of them
            bench(skeleton(), carry=carry)
        assert memory.left[1 - memory.now] == {2, 3}


def test_at_weight_zero_nothing_is_looked_at() -> None:
    with stream(remember={"anchor": True}, remember_weight=0.0) as bench:
        bench(skeleton())
        found = heard(bench)
        bench(skeleton(1))
        assert found
        assert not any(found)
        bench.set(remember_weight=0.1)
        bench(skeleton(1))
        assert any(found)


def test_the_weight_moves_while_frames_are_remembered() -> None:
    def last(*weights: float) -> Any:
        with stream(remember={}, remember_weight=weights[0]) as bench:
            memory = bench.operator._tools.memory
            for weight in weights:
                bench.set(remember_weight=weight)
                memory.forget()
                bench(skeleton(0), seq=1)
                out = bench(skeleton(1), seq=2)
        return out

    assert same(last(0.3, 2.0), last(2.0))
    assert not same(last(0.3), last(2.0))


def test_an_anchor_of_steps_that_the_last_frame_did_not_take_is_in_a_snapshot() -> None:
    with stream(remember={"anchor": True}, steps=4, strength=0.5) as bench:
        bench(skeleton(), carry=None)
        bench(skeleton(1), carry=CARRY)
        state = bench.operator.snapshot()
        memory = bench.operator._tools.memory
        first = {step: [each.clone() for each in memory.steps[step].first] for step in memory.begun}
    with stream(remember={"anchor": True}, steps=4, strength=0.5) as bench:
        bench.operator.recall(state)
        memory = bench.operator._tools.memory
        assert memory.begun == set(first) == {0, 1, 2, 3}
        assert memory.left[1 - memory.now] == {2, 3}
        for step, tensors in first.items():
            assert all(torch.equal(a, b) for a, b in zip(memory.steps[step].first, tensors, strict=True))


def test_another_size_takes_the_room_of_the_last() -> None:
    with stream(remember={"anchor": True}, width=128, height=128, size=128) as bench:
        memory, held = bench.operator._tools.memory, []
        for size in (128, 64, 128):
            bench.set(size=size)
            bench(skeleton())
            held.append(memory.held)
            assert alive(memory) == memory.held
    assert held[1] < held[0] < held[2]  # at last with the places of both sizes, and the frames of one


def test_a_pass_of_two_rows_does_not_look_at_one_of_one() -> None:
    """A step that was the first of its frame, and heard the negative prompt, is not the same in a frame in which another one was."""
    with stream(remember={}, guidance="rcfg-onetime", negative="blue", steps=4, strength=0.5) as bench:
        bench(skeleton())
        found = heard(bench)
        bench(skeleton(1), carry=CARRY)  # steps 2 and 3: two rows, then one
        layers = len(found) // 2
        assert not any(found[:layers])
        assert all(found[layers:])


def test_as_many_places_as_cells_says_take_part() -> None:
    held = {}
    for cells in (63, 64):
        with stream(remember={"cells": cells}) as bench:
            bench(skeleton())
            held[cells] = bench.operator._tools.memory.held
    assert held[64] > held[63] > 0


# ---------------------------------------------------------------- guidance


def test_after_the_first_step_the_prompt_alone_is_heard() -> None:
    told: list[Any] = []
    sources: list[Any] = []
    with stream(guidance="rcfg-onetime", guidance_scale=2.0, negative="blue", prompt="red", steps=4) as bench:
        loop = bench.operator._loop

        def note(module: Any, args: Any) -> None:
            told.append(args[2].clone())
            sources.append([each.clone() for basis in loop.bases.values() for each in basis.source])

        bench.operator.models.unet.register_forward_pre_hook(note)
        bench(skeleton(), prompt=Prompt("red"))
    assert [len(each) for each in told] == [2, 1, 1, 1]
    assert not torch.equal(told[0][0], told[0][1])
    assert all(torch.equal(each[0], told[0][1]) for each in told[1:])
    assert not torch.equal(sources[0][0], sources[1][0])  # what the negative prompt made of the first step
    assert all(torch.equal(a, b) for each in sources[2:] for a, b in zip(each, sources[1], strict=True))


