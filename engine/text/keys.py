"""The keys of a graph file, section by section: their types, bounds and meanings.

One table from which the loader checks, the schema for editors is made, and the reference is printed, so that the three cannot disagree.
Parameters of operators are not here: their specs describe them. This module reads no file and knows no operator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.graph import CLOCKS, MISSING, ON_ERROR, POLICIES

SIZE: Final = re.compile(r"\d+(\.\d+)?\s*([KMGT]i?)?B")
NODE_NAME: Final = re.compile(r"[A-Za-z_][\w-]*")


def is_number(value: Any) -> bool:
    """A finite number; booleans are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: what messages call it, whether a value is of it, and its JSON Schema."""

    words: str
    fits: Callable[[Any], bool] = lambda value: True  # what is looked into elsewhere
    schema: Mapping[str, Any] = field(default_factory=dict)


KINDS: Final = {
    "text": Kind("text in quotes", lambda value: isinstance(value, str) and bool(value.strip()), {"type": "string", "pattern": r"\S"}),
    "whole number": Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool), {"type": "integer"}),
    "number": Kind("a number", is_number, {"type": "number"}),
    "boolean": Kind("true or false", lambda value: isinstance(value, bool), {"type": "boolean"}),
    "pair": Kind(
        "two numbers, [a, b]", lambda value: isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value)),
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    ),
    "list": Kind("a list with something in it", lambda value: isinstance(value, list) and bool(value), {"type": "array", "minItems": 1}),
    "size": Kind(
        'a size such as "6GB"', lambda value: isinstance(value, str) and SIZE.fullmatch(value.strip()) is not None,
        {"type": "string", "pattern": rf"^\s*{SIZE.pattern}\s*$"},
    ),
    "table": Kind("a table", lambda value: isinstance(value, dict), {"type": "object"}),
    "value": Kind("any value"),
    "inputs": Kind("nodes by name"),
    "files": Kind("a graph file, or a list of these"),
    "tables": Kind("a list of tables"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `kind` names one of `KINDS`; `lo` is a lower bound of a number, not included where `above`."""

    name: str
    kind: str
    doc: str
    default: str = ""
    lo: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What the key takes, in words."""
        if self.choices:
            return ("a list of " if self.kind == "list" else "one of ") + ", ".join(f'"{c}"' for c in self.choices)
        words = KINDS[self.kind].words
        if self.lo is None:
            return words
        return f"{words} above {self.lo:g}" if self.above else f"{words} of at least {self.lo:g}"

    def accepts(self, value: Any) -> bool:
        """Whether `value` has the right type and lies within the bounds."""
        if not KINDS[self.kind].fits(value):
            return False
        if self.choices:
            return all(each in self.choices for each in (value if isinstance(value, list) else [value]))
        return self.lo is None or value > self.lo or (value == self.lo and not self.above)


FILE = (
    Key("graph", "table", "What holds for the whole graph."),
    Key("node", "table", "The nodes: `[node.NAME]` with an operator, its inputs and its parameters."),
    Key("govern", "table", "What the governor aims at, and the knobs that it may move."),
    Key("memory", "table", "How much memory the models may take."),
    Key("param", "table", "Values used elsewhere in the file as `${name}`; `--set param.name=value` changes them."),
    Key(
        "include", "files",
        "A graph file, or a list of these, to build on; paths are relative to this file, and graphs that ship go by their name. What stands "
        "here wins.",
    ),
)
GRAPH = (
    Key("name", "text", "What the graph is called in plans, reports and traces.", "the file's name"),
    Key("clock", "text", "`live`: real time, the newest frame first, late ones dropped. `offline`: nothing is lost, as fast as it goes.",
        "offline", choices=CLOCKS),
    Key("budget_ms", "number", "How old a frame may be when it leaves, in milliseconds.", "none", 0, above=True),
    Key("in_flight", "whole number", "How many frames may be under way at once.", "2 live, 4 offline", 1),
    Key("seed", "whole number", "What all random numbers of the graph follow from.", "0"),
)  # fmt: skip
NODE = (
    Key("op", "text", "The operator, as `family.name`."),
    Key("in", "table", "What feeds the ports: `in.PORT = \"node\"` or `\"node.output\"`, a list of these, or a table (see Inputs). A live "
        "parameter may be fed by an edge in the same way."),
    Key("lane", "text", "The thread and stream the node runs on; nodes with the same lane share one.",
        "the operator's own, else `main`; a source has its own, sinks share `out`"),
    Key("on_error", "text", "When the operator raises: `fail` ends the run, `skip` drops the frame, `hold` repeats the last result.",
        "fail", choices=ON_ERROR),
    Key("max_errors", "whole number", "How many errors in a row `skip` and `hold` forgive before the run ends.", "10", 1),
    Key("trigger", "text", "The port whose packet fires the node.", "the first connected one that keeps no value"),
    Key("batch", "whole number", "How many frames are gathered into one call; fewer where nothing else can go on without them.", "1", 1),
    Key("process", "boolean", "Run in a child process: for CPU-bound Python, and for what may hang.", "false"),
)  # fmt: skip
INPUT = (
    Key("from", "inputs", "`node`, `node.output`, or `node.output@-1` for the value of the last processed frame; a list where the port takes "
        "several."),
    Key("policy", "text", "When the queue is full: `block` the sender, keep only the `latest`, or `drop-oldest`. A side input with `latest` "
        "reads the newest value there is. Offline nothing is dropped.", "block; live, a slow lane samples with latest", choices=POLICIES),
    Key("cap", "whole number", "How many packets the queue holds.", "the frames in flight", 1),
    Key("every", "whole number", "Take every n-th frame only.", "1", 1),
    Key("max_age_ms", "number", "Of a side input: leave out a value that is older than its frame by more than this.", "none", 0, above=True),
    Key("hold", "value", "The value before the first one comes; from then on the last one is kept. Alone, a constant."),
    Key("map", "pair", "For a number: `[a, b]` sends 0..1 to a..b in a straight line."),
    Key("missing", "text", "When the partner of a frame never comes: `skip` the frame, `reuse` the last value, take the port's `default`, or "
        "fail with an `error`.", "skip", choices=MISSING),
)  # fmt: skip
GOVERN = (
    Key("target_fps", "number", "Frames a second to hold.", "the source's", 0, above=True),
    Key("dwell_s", "number", "How long a setting stays before the governor climbs back, in seconds.", "2.0", 0),
    Key("enabled", "boolean", "Whether knobs are moved at all.", "true"),
    Key("knob", "tables", "`[[govern.knob]]`: the knobs, in the order in which they give way."),
)
KNOB = (
    Key("set", "text", "The knob, as `node.parameter`."),
    Key("range", "pair", "The values it may take, `[worst, best]`."),
    Key("choices", "list", "The values it may take, best first; instead of a range."),
    Key("step", "number", "How far one move goes.", "1 for whole numbers, else a tenth of the range", 0, above=True),
    Key("follow", "text", "A Scalar output, as `node.output`, that limits the knob too: at 0 the best value, at 1 the worst.", "none"),
)
MEMORY = (
    Key("vram", "size", "What the models may take on the card.", "what the card has"),
    Key("card", "text", "The card a plan is made for, such as `rtx-2060`: its rates and its memory are those that `engine plan` predicts with.",
        "none"),
    Key("headroom", "size", "What is kept back for the driver, libraries and fragments.", "600MiB"),
    Key("forbid", "list", "Ways to keep models that the plan must not choose by itself.", "none",
        choices=("offload", "group", "fp8", "int8", "int4", "host", "tiling")),
)  # fmt: skip
