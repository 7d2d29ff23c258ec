"""Tools for testing operators: a bench that runs one by hand, and the conformance kit that every operator has to pass.

    with Bench("image.canny", low=50) as bench:
        edges = bench(Image(picture))            # positional or keyword ports; seq and pts advance by themselves

    conform("image.canny")                       # raises AssertionError where the operator breaks its contract
    conform("mine.paint", model="tiny", at=tmp_path)

The kit needs no graph and no data: it makes sample inputs of every payload kind from a seed. It knows nothing of what an operator is for.
"""

from __future__ import annotations

import copy
import gc
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from engine import registry
from engine.clock import StepClock
from engine.operator import HOST_RGB, Operator, Param, Port, Spec, Stamped
from engine.packet import Packet
from engine.payload import Data, Image, Latent, Mask, Mesh, Payload, Pose, Prompt, Scalar, Text
from engine.pool import Pools
from engine.run.emit import check_picture
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

    def frames(self, limit: int) -> list[Stamped[Any]]:
        """For sources: the first `limit` frames, with copies of their arrays, as a session would pull them."""
        made: list[Stamped[Any]] = []
        frames = iter(self.operator() if self.operator is not None else self())
        try:
            while len(made) < limit and (item := next(frames, None)) is not None:
                stamped = item if isinstance(item, Stamped) else Stamped(item)
                made.append(stamped._replace(value=copy.deepcopy(stamped.value)))
                self.let_go()
        finally:
            getattr(frames, "close", lambda: None)()
        return made

    def let_go(self) -> None:
        """Return the buffers of the last call to their pools, as the runtime does when the last reader is done."""
        self.site.let_go()


# ---------------------------------------------------------------- sample inputs


SIZE = (48, 64)


def sample(kind: type[Payload], seed: int = 0) -> Payload:
    """A payload of `kind`, the same for the same seed. Register kinds of your own in `SAMPLES`."""
    import numpy as np

    if kind not in SAMPLES:
        raise KeyError(f"no sample of {kind.__name__} is known; add one to engine.testing.SAMPLES")
    return SAMPLES[kind](np.random.default_rng(seed))


def _image(dice: Any) -> Image:
    data = dice.integers(0, 256, (*SIZE, 3), "uint8")
    data[8:24, 8:24] = (200, 40, 40)
    return Image(data)


def _pose(dice: Any) -> Pose:
    people = dice.uniform(0.2, 0.8, (1, 18, 3)).astype("float32")
    people[..., 2] = 1.0
    return Pose(people, SIZE)


def _mesh(dice: Any) -> Mesh:
    import numpy as np

    return Mesh(dice.normal(size=(4, 3)).astype("float32"), np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], "int32"))


SAMPLES: dict[type[Payload], Callable[[Any], Payload]] = {
    Payload: _image,  # a port that takes anything
    Image: _image,
    Mask: lambda dice: Mask((dice.integers(0, 2, SIZE, "uint8") * 255).astype("uint8")),
    Pose: _pose,
    Latent: lambda dice: Latent(dice.normal(size=(1, 4, SIZE[0] // 8, SIZE[1] // 8)).astype("float32")),
    Prompt: lambda dice: Prompt("a dancer in a red coat"),
    Scalar: lambda dice: Scalar(float(dice.uniform())),
    Text: lambda dice: Text("a caption"),
    Mesh: _mesh,
    Data: lambda dice: Data({"score": 0.5}),
}
"""Payload kind to a function from a NumPy generator to a sample."""


# ---------------------------------------------------------------- conformance


class Conformance:
    """The checks that every operator passes, one method each; `check` runs them all.

    `params` are those the operator needs (a model, a file); a callable is called with nothing for every instance, for what must be new each
    time, such as an output path. `ports`: inputs instead of the samples. `site`: fields of the Site, such as `embedded=True`.
    `seeded`: False where results depend on the outside world (a camera, wall-clock time). Every check raises AssertionError with a sentence.
    """

    FRAMES = 4

    def __init__(
        self, name: str, params: Mapping[str, Any] | None = None, *, ports: Mapping[str, Any] | None = None,
        site: Mapping[str, Any] | None = None, seeded: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.spec, self.seeded = name, registry.find(name), seeded
        self._params, self._ports = dict(params or {}), dict(ports or {})
        self._site = {f"site_{key}": value for key, value in (site or {}).items()}

    def check(self) -> None:
        """Run every check."""
        self.describes_itself()
        self.refuses_bad_parameters()
        self.opens_and_closes()
        self.closes_after_a_failed_open()
        first = self.plays()
        if self.seeded:
            assert same(first, self.plays()), f"{self.name} does not repeat itself under the same seed"
        self.leaks_nothing()

    def bench(self) -> Bench:
        return Bench(self.name, **self._given(), **self._site)

    def _given(self) -> dict[str, Any]:
        return {key: value() if callable(value) else value for key, value in self._params.items()}

    def inputs(self, seq: int) -> dict[str, Any]:
        """What every port gets on frame `seq`."""
        given = {port.name: self._ports.get(port.name) or self._input(port, seq) for port in self.spec.ports}
        return copy.deepcopy(given) if self.spec.inplace else given

    def _input(self, port: Port, seq: int) -> Any:
        samples = [_stored(sample(port.type, n), port) for n in ((seq, seq + 100) if port.many else (seq,))]
        return samples if port.many else samples[0]

    # ---- the checks

    def describes_itself(self) -> None:
        """A docstring says what it does; a name of the form family.name; parameters with defaults that hold."""
        assert self.spec.doc, f"{self.name} has no docstring"
        assert self.spec.family, f"{self.name} is not called family.name"
        assert not self.spec.source or not self.spec.ports, f"{self.name} is a source with ports"
        self.spec.model()(**self._given())

    def refuses_bad_parameters(self) -> None:
        """Unknown ones, wrong types, and values beyond each bound are refused before anything is opened."""
        from pydantic import ValidationError

        good = self._given()
        bad: list[dict[str, Any]] = [{"no_such_parameter": 1}]
        for param in self.spec.params:
            bad.append({param.name: _Nonsense()})
            bad += [{param.name: value} for value in _beyond(param)]
        for change in bad:
            try:
                self.spec.model()(**{**good, **change})
            except ValidationError:
                continue
            (name, value), = change.items()
            raise AssertionError(f"{self.name} takes {name} = {value!r}")

    def opens_and_closes(self) -> None:
        """Without a single frame between, and without anything left behind; live parameters are attributes, where a change would go."""
        with _nothing_left(self.name):
            bench = self.bench()
            with bench:
                if self.spec.is_class and type(bench.operator).update is Operator.update:
                    for param in (p for p in self.spec.params if p.live):
                        assert hasattr(bench.operator, param.name), f"{self.name} does not keep its live parameter as self.{param.name}"
            bench.let_go()

    def closes_after_a_failed_open(self) -> None:
        """`close` on an operator whose `open` never got anywhere raises nothing."""
        if self.spec.is_class:
            with _nothing_left(self.name):
                self.spec.target(**self.bench().params).close()

    def plays(self) -> list[Any]:
        """Run some frames; returns copies of the results. Checks types, inputs that must not be written to, and buffers that must go back."""
        results: list[Any] = []
        bench = self.bench()
        with bench:
            if self.spec.source:
                results = self._pull(bench)
            for seq in range(0 if self.spec.source else self.FRAMES):
                given = self.inputs(seq)
                before = None if self.spec.inplace else copy.deepcopy(given)
                result = bench(**given)
                self._typed(result)
                assert bench.site.seq == seq, f"{self.name} changed the frame it was given"
                assert before is None or same(given, before), f"{self.name} writes to its inputs"
                results.append(copy.deepcopy(result))
                bench.let_go()
        bench.let_go()
        assert bench.site.pools.loaned == 0, f"{self.name} keeps {bench.site.pools.loaned} frame buffers"
        return results

    def _pull(self, bench: Bench) -> list[Any]:
        frames = bench.frames(self.FRAMES)
        assert frames, f"{self.name} makes no frame"
        last: int | None = None
        for frame in frames:
            self._typed(frame.value)
            if frame.pts is not None:
                assert last is None or frame.cut or frame.pts > last, f"{self.name}: pts do not rise"
                last = frame.pts
        return [(frame.value, frame.pts, frame.cut) for frame in frames]

    def _typed(self, result: Any) -> None:
        outputs = self.spec.outputs
        values: Iterable[Any] = result if self.spec.result is not None and result is not None else [result] * len(outputs)
        for output, value in zip(outputs, values, strict=True):
            if value is None:
                assert output.may_skip, f"{self.name} leaves out {output.name}, which it does not declare as X | None"
                continue
            assert isinstance(value, output.type), f"{self.name} returns {type(value).__name__} as {output.name}"
            if isinstance(value, Image):
                found = ("cpu" if hasattr(value.data, "__array_interface__") else "lane", str(value.data.dtype).removeprefix("torch."))
                said = (output.format.device or found[0], output.format.dtype or found[1])
                assert found == said, f"{self.name} returns {output.name} as {found}, and declares {said}"
                for what in ("layout", "color"):
                    wanted = getattr(output.format, what)
                    assert wanted in (None, getattr(value, what)), f"{self.name} returns {output.name} as {getattr(value, what)}"
                try:
                    check_picture(value, output)
                except TypeError as error:
                    raise AssertionError(f"{self.name} {error}") from None
        if not outputs:
            assert result is None, f"{self.name} is a sink and returns {type(result).__name__}"

    def leaks_nothing(self) -> None:
        """A second life leaves no thread, no open file and no buffer that the first had not left."""
        with _nothing_left(self.name):
            self.plays()


def conform(
    name: str, *, ports: Mapping[str, Any] | None = None, site: Mapping[str, Any] | None = None, seeded: bool = True, **params: Any
) -> None:  # fmt: skip
    """Hold the operator `name` to its contract (see `Conformance`). Raises AssertionError at the first breach."""
    Conformance(name, params, ports=ports, site=site, seeded=seeded).check()


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal, arrays by their bytes."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__") and type(a) is type(b):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if hasattr(a, "dtype") and hasattr(b, "dtype"):
        import numpy as np

        a, b = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in (a, b))
        return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    return bool(a == b)


class _Nonsense:
    """A value of no type that a parameter could have."""

    def __repr__(self) -> str:
        return "nonsense"


def _beyond(param: Param) -> list[float]:
    whole = isinstance(param.default, int)
    step = 1 if whole else 0.5
    bounds = [None if param.lo is None else param.lo - step, None if param.hi is None else param.hi + step]
    return [int(bound) if whole else bound for bound in bounds if bound is not None]


def _stored(payload: Payload, port: Port) -> Payload:
    """`payload` in the format that `port` asks for, as the compiler's conversion would bring it."""
    if not isinstance(payload, Image) or port.format.accepts(HOST_RGB):
        return payload
    from engine.planning.convert import convert

    dtype, layout, color, device = port.format.onto(HOST_RGB).astuple()
    return convert(payload, dtype=dtype, layout=layout, color=color, device=device, site=Site(node="sample"))  # type: ignore[arg-type]


@contextmanager
def _nothing_left(name: str) -> Iterator[None]:
    """No more threads and open files after the block than before it."""
    gc.collect()
    threads, files = set(threading.enumerate()), _open_files()
    yield
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(5.0)
        assert not thread.is_alive(), f"{name} leaves the thread {thread.name!r} running"
    left = _open_files() - files
    assert not left, f"{name} leaves open: {', '.join(sorted(left))}"


def _open_files() -> set[str]:
    """Files this process has open, where the system tells."""
    found = set()
    here = Path("/proc/self/fd")
    for link in here.iterdir() if here.is_dir() else ():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
            found.add(f"{target} ({link.name})")
    return found
