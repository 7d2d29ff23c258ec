"""Tools for testing operators: a bench that runs one operator by hand, without a graph.

    with Bench("image.canny", low=50) as bench:
        edges = bench(Image(picture))            # positional or keyword ports; seq and pts advance by themselves
"""

from __future__ import annotations

from typing import Any, Self

from engine import registry
from engine.clock import StepClock
from engine.operator import Operator, Spec
from engine.packet import Packet
from engine.payload import Data
from engine.pool import Pools
from engine.site import Site


class Bench:
    """One operator under test, opened on enter and closed on exit, with its parameters validated as the compiler would.

    `events`, `resets`, `outputs` collect what the operator said through its site. Keyword arguments starting with `site_` set fields of
    the Site (`site_embedded=True`, `site_live=True`, `site_seed=3`); the others are parameters.
    """

    def __init__(self, name: str, *, fps: float = 25.0, **params: Any) -> None:
        site = {k.removeprefix("site_"): params.pop(k) for k in list(params) if k.startswith("site_")}
        self.spec: Spec = registry.find(name)
        self.params = dict(self.spec.model()(**params))
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.resets: list[str] = []
        self.outputs: list[str] = []
        self.site = Site(node=name.rpartition(".")[2], **{"clock": StepClock(), "pools": Pools(poison=True), **site})
        self.site._event = lambda what, node, seq, **facts: self.events.append((what, facts))
        self.site._reset = lambda node, reason: self.resets.append(reason)
        self.site._output = self.outputs.append
        self.period = round(1e9 / fps)
        self.seq = 0
        self.epoch = 0
        self.operator: Any = None

    def __enter__(self) -> Self:
        self.operator = self.spec.target(**self.params) if self.spec.is_class else None
        if isinstance(self.operator, Operator):
            try:
                self.operator.open(self.site)
            except BaseException:
                self.operator.close()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        if isinstance(self.operator, Operator):
            try:
                if exc[0] is None:
                    self.operator.flush()
            finally:
                self.operator.close()

    def __call__(self, *ports: Any, seq: int | None = None, pts: int | None = None, **named: Any) -> Any:
        """Fire once. Changes the frame in hand to (`seq`, `pts`); both advance by one frame by default."""
        self.seq = self.seq if seq is None else seq
        when = self.seq * self.period if pts is None else pts
        self.site.packet = Packet(self.seq, when, self.epoch, self.site.clock.now(), Data(), origin=self.site.stream)
        self.seq += 1
        if self.operator is not None:
            return self.operator(*ports, **named)
        extra = {"site": self.site} if self.spec.wants_site else {}
        return self.spec.target(*ports, **named, **self.params, **extra)

    def set(self, **changes: Any) -> None:
        """Change live parameters, validated, as the session would between two frames."""
        self.params = dict(self.spec.model()(**{**self.params, **changes}))
        if isinstance(self.operator, Operator):
            self.operator.update(**{name: self.params[name] for name in changes})

    def new_epoch(self) -> None:
        """Start a new epoch, as a scene cut would."""
        self.epoch += 1
        if isinstance(self.operator, Operator):
            self.operator.reset()
