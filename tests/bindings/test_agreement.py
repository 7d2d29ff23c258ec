"""Python, JavaScript and C agree on what is a message: the recorded ones, mutated at random, are taken by all three or by none."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import others

from bindings.python import plain, wire

ROUNDS = 60
NASTY = b"\x00\x7f\x80\x90\xa0\xc0\xc1\xc3\xca\xcb\xcf\xd3\xdf\xff"  # where kinds of MessagePack begin and end


def mutated(parts: list[bytes], dice: random.Random) -> list[bytes]:
    """One or two bytes changed, or an end cut off: mostly in the header, sometimes in a plain payload."""
    which = 2 if len(parts) > 2 and len(parts[2]) < 600 and dice.random() < 0.3 else 1
    data = bytearray(parts[which])
    for _ in range(dice.randint(1, 2)):
        at = dice.randrange(len(data))
        data[at] = dice.choice([dice.randrange(256), data[at] ^ 1 << dice.randrange(8), dice.choice(NASTY)])
    if dice.random() < 0.1:
        del data[dice.randrange(len(data)) :]
    return [*parts[:which], bytes(data), *parts[which + 1 :]]


def taken(parts: list[bytes]) -> bool:
    try:
        header, payload = wire.decode(parts)
        if isinstance(header, wire.Frame) and header.enc == "msgpack":
            plain.read(header, payload)
    except wire.WireError:
        return False
    return True


def countable(parts: list[bytes]) -> bool:
    """Whether its counters fit into a number of JavaScript, which refuses others rather than rounding them."""
    try:
        header, _ = wire.decode(parts)
    except wire.WireError:
        return True
    counters = [header.n] + ([header.seq, header.epoch, header.params] if isinstance(header, wire.Frame) else [])
    return max(counters) < 2**53


def test_all_take_the_same(tmp_path: Path) -> None:
    dice = random.Random(20)
    index = others.golden()
    messages = []
    for entry in index["messages"] + index["refused"] + [e for e in index["refused_values"] if "png" not in e["file"]]:
        parts = others.unframed((others.GOLDEN / entry["file"]).read_bytes())
        messages.append(parts)
        if sum(map(len, parts)) < 8000 and len(parts) > 1:
            messages += [mutated(parts, dice) for _ in range(ROUNDS)]
    file = tmp_path / "messages.bin"
    file.write_bytes(b"".join(map(others.framed, messages)))
    in_python = "".join(str(int(taken(parts))) for parts in messages)
    run = {"capture_output": True, "text": True, "timeout": 60}
    in_c = subprocess.run([str(others.probe()), "verdicts", str(file)], **run)
    assert in_c.returncode == 0, in_c.stderr
    verdicts = str(others.JAVASCRIPT / "test/verdicts.mjs")
    in_javascript = subprocess.run([others.node(), verdicts, str(file)], **run)
    assert in_javascript.returncode == 0, in_javascript.stderr
    assert in_python.count("1") > 100
    assert in_python.count("0") > 500
    assert differing("c", in_python, in_c.stdout.strip(), messages) == []
    found = differing("javascript", in_python, in_javascript.stdout.strip(), messages)
    assert [what for what in found if countable(messages[what[0]])] == []


def differing(name: str, one: str, two: str, messages: list[list[bytes]]) -> list[tuple[int, str, bytes]]:
    assert len(one) == len(two) == len(messages)
    return [(i, f"python {a}, {name} {b}", messages[i][1]) for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
