"""Changes of prompts: which paths hold one, how a new one is blended in, and which attributes of the old one stay.

`blend` and `keep` of a request are turned into plain changes of the same transaction, so that a prompt lands like any other value. A prompt
is an input of type Prompt (`paint.prompt`), or a live text called `prompt` beside live parameters `blend` and `keep` (`refine.prompt`). It
knows requests as maps, and of operators only their descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import MissingError
from engine.payload import Prompt
from remote.request import Refused

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.session import Session

MAX_BLEND = 1000  # frames
NAMES = 32  # attributes in one `keep`


def is_prompt(session: Session, path: str) -> bool:
    """Whether `path` is where a prompt is written."""
    return _port(session, path) is not None or _beside(session, path) is not None


def with_prompts(session: Session, changes: dict[str, Any], blend: int | None, keep: Any) -> dict[str, Any]:
    """`changes` with `blend` and `keep` carried into the prompts among them. Raises Refused where there is none that could take them."""
    keep = _checked(keep)
    if blend is None and keep is None and not any(isinstance(v, Mapping) and "keep" in v for v in changes.values()):
        return changes
    made: dict[str, Any] = {}
    taken = False
    for path, value in changes.items():
        if (port := _port(session, path)) is not None:
            taken = True
            made[path] = _input(session, port, path, value, blend, keep)
        elif (run := _beside(session, path)) is not None and isinstance(value, str):
            taken = True
            made[path] = value
            if blend is not None:
                made.setdefault(f"{run.name}.blend", blend)
            if keep is not None:
                old = str(session.changing.wanted.get(run.name, run.params).get("prompt", ""))
                made.setdefault(f"{run.name}.keep", keep if isinstance(keep, dict) else _named(keep, old))
        else:
            made[path] = value
    if not taken:
        what = " and ".join(name for name, there in (("blend", blend), ("keep", keep)) if there is not None) or "keep"
        raise Refused("BadRequest", f"no prompt among the changes that could take {what}", found=", ".join(changes)[:200])
    return made


def _input(session: Session, run: NodeRun, path: str, value: Any, blend: int | None, keep: Any) -> Any:
    table = dict(value) if isinstance(value, Mapping) else {"text": value}
    own = _checked(table.pop("keep", None))
    keep = own if own is not None else keep
    if set(table) - {"text", "negative", "blend"} or not isinstance(table.get("text"), str):
        return value  # wrong in a way that the session itself explains
    key = "in." + path.partition(".")[2].removeprefix("in.")
    before = session.changing.wanted.get(run.name, {}).get(key, run.inputs.written(key[3:]))
    if isinstance(before, Prompt):
        table.setdefault("negative", before.negative)
        table.setdefault("blend", before.blend)
    if blend is not None:
        table["blend"] = blend
    if keep is not None:
        old = before.text if isinstance(before, Prompt) else ""
        table["text"] = composed(table["text"], keep if isinstance(keep, dict) else _named(keep, old))
    return table


def composed(text: str, keep: Mapping[str, str]) -> str:
    """`text` with every attribute of `keep` said in it: what it leaves out, or says otherwise, is added at its end."""
    attributes = _attributes()
    said = attributes.parse(text)
    clauses = [text.strip().rstrip(",")]
    for name, value in keep.items():
        clauses += [a.text for n, a in attributes.read(name, value).items() if n not in said or not attributes.agree(a, said[n])]
    return ", ".join(part for part in clauses if part)


def _named(names: Sequence[str], old: str) -> dict[str, str]:
    """The attributes called `names` as the old prompt has them. `clothes` are all that is worn."""
    found = _attributes().parse(old)
    wanted = [n for name in names for n in (("top", "dress", "suit", "bottom", "shoes", "hat", "scarf") if name == "clothes" else (name,))]
    unknown = [name for name in names if name != "clothes" and name not in found]
    if unknown:
        known = ", ".join(found) or "none that is known"
        raise Refused(
            "BadRequest", f"the present prompt says nothing of {unknown[0]!r}", expected=f"one of its attributes: {known}",
            found=unknown[0], fix='name the value too: keep = {"hair": "red"}',
        )  # fmt: skip
    return {name: found[name].text for name in wanted if name in found}


def _attributes() -> Any:
    from importlib import import_module

    try:
        return import_module("operators.vlm.attributes")
    except ImportError as error:
        raise MissingError(f"keep needs the attribute reader of operators.vlm: {error}", fix="install the whole project") from error


def _checked(keep: Any) -> Any:
    """`keep` as a list of names or a map of name to value, None where it is not given. Raises Refused."""
    if keep is None:
        return None
    if isinstance(keep, Mapping) and len(keep) <= NAMES and all(isinstance(v, str) and 0 < len(v) <= 200 for v in keep.values()):
        return {str(name): value for name, value in keep.items()}
    if isinstance(keep, (list, tuple)) and len(keep) <= NAMES and all(isinstance(v, str) and 0 < len(v) <= 64 for v in keep):
        return list(keep)
    raise Refused("BadRequest", "keep is wrong", expected='names such as ["hair"], or names and values such as {"hair": "red"}')


def _port(session: Session, path: str) -> NodeRun | None:
    """The node of `path` where it names a Prompt input that can be set."""
    name, _, rest = path.partition(".")
    run = session.nodes.get(name)
    if run is None:
        return None
    found = run.inputs.settable().get(rest.removeprefix("in."))
    return run if found is not None and found[1] is not None and found[1].type is Prompt else None


def _beside(session: Session, path: str) -> NodeRun | None:
    """The node of `path` where it is a live text called prompt that has blend and keep beside it."""
    name, _, rest = path.partition(".")
    run = session.nodes.get(name)
    if run is None or rest != "prompt":
        return None
    params = [run.spec.param(p) for p in ("prompt", "blend", "keep")]
    return run if all(p is not None and p.live for p in params) else None
