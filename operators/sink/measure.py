"""`sink.measure`: numbers that come on edges, put into the run's own measurements: plots of the report, and whoever reads them live."""

from __future__ import annotations

from engine.operator import Operator, operator
from engine.payload import Data, Payload, Scalar


@operator("sink.measure")
class Measure(Operator):
    """Keep the numbers of every frame under this node's name: a Scalar as `value` (or `value 2`, `value 3` … where there are several), Data
    under its keys. What is no number is left out."""

    onlooker = True

    def __init__(self) -> None:
        pass

    def __call__(self, values: list[Payload]) -> None:
        numbers: dict[str, float] = {}
        for i, value in enumerate(values):
            if isinstance(value, Scalar):
                numbers["value" if i == 0 else f"value {i + 1}"] = value.value
            elif isinstance(value, Data):
                numbers |= {name: float(n) for name, n in value.values.items() if isinstance(n, (int, float))}
        self.site.measure(**numbers)
