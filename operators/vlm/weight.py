"""What a picture-to-text model weighs before it is loaded, and how it may be kept: nobody waits for it, so the host will do.

It knows parameters and files, not models.
"""

from __future__ import annotations

from engine.errors import EngineError
from engine.planning.memory import BUS, HOST_MS
from engine.planning.outlook import Asked, Outlook, Way, Weights
from operators.models import find, quantise
from operators.models.catalogue import lookup
from operators.models.sizes import Sizes, count

LINEAR = 0.85  # of the numbers of such a model are in layers that can be quantised, about; where its files are here, they are counted


def outlook(asked: Asked) -> Outlook:
    """The weights of the model that vlm.refine looks with, in half precision, and the ways to keep them."""
    model, often, table = str(asked.params["model"]), 1 / asked.every, asked.params.get("quantise")
    known = lookup(model)
    total = (known.size if known else 0) // 2
    size = Sizes(total, round(LINEAR * total))
    try:
        found = count(find(model), deep=True)
        size = found if found.total else size
    except (EngineError, OSError, ValueError, KeyError, TypeError):
        pass
    notes = () if size.total else (f"the size of {model} is not known before it is here",)
    whole = full = 2 * size.total
    fixed = table if isinstance(table, dict) else None
    packed = _packed(size, str(fixed.get("backend", "auto")) if fixed else "auto", int(fixed.get("bits", 8)) if fixed else 8)
    if fixed:
        full = packed.stays
    move = 1e3 * full * min(1.0, often) / BUS
    ways = {
        "resident": packed if fixed else Way("resident", stays=full),
        "offload": Way("offload", visits=full, cost_ms=move, says="moved in for each look"),
        "host": Way("host", cost_ms=HOST_MS),
    }
    said = str(asked.params.get("placement", "auto"))
    chosen = [ways[said]] if said != "auto" else list(ways.values())
    if said == "auto" and table == "auto" and quantise.installed():
        chosen.insert(1, packed)
    return Outlook((Weights("vlm", whole, size.exact, often, anywhere=True, ways=tuple(chosen)),), 0, notes=notes)


def _packed(size: Sizes, backend: str, bits: int) -> Way:
    name = backend if backend != "auto" else next(iter(quantise.installed(bits)), "torchao" if bits == 8 else "bitsandbytes")
    stays = quantise.bytes_of(name, bits, linear=size.linear, conv=size.conv, rest=size.total - size.linear - size.conv)
    return Way(f"int{bits}", stays=stays, cost_ms=1.0, says=f"quantised to {bits} bits by {name}")
