"""A picture of now, from a tap in the graph, as a file. It knows taps as mailboxes, and no graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote.request import Refused

if TYPE_CHECKING:
    from engine.session import Session
    from operators.sink.tap import Mailbox

WAIT_S = 3.0  # for a picture made from now on


def find(session: Session, of: str) -> tuple[Mailbox, str]:
    """The mailbox that pictures of `of` (node.output, node, or "" for the main one) come into, and what it shows. Raises Refused."""
    from operators.sink.tap import mailbox

    taps: dict[str, str] = {}
    for name, run in list(session.nodes.items()):
        if run.plan.op == "sink.tap" and run.trigger is not None:
            edge = run.trigger.edge
            taps.setdefault(_before(session, edge.source, edge.output), name)
    known = list(taps)
    fits = known[:1] if not of else [what for what in known if of in (what, what.partition(".")[0])]
    if not known:
        fix = 'start with --preview or --control, or put a node with op = "sink.tap" after the picture'
        raise Refused("NoTap", "nothing in this graph takes pictures for a snapshot", fix=fix)
    if len(fits) != 1:
        raise Refused("NoTap", f"there is no tap for {of!r}", expected="one of " + ", ".join(known), found=of)
    run = session.nodes[taps[fits[0]]]
    box = str(run.params.get("box", ""))
    if not box and run.operator is None:
        raise Refused("NoPicture", "the graph is still opening", fix="try again in a moment")
    return (mailbox(box) if box else run.operator.mailbox), fits[0]


def _before(session: Session, node: str, output: str) -> str:
    """What the graph calls a picture: conversions that the compiler put in are stepped over."""
    run = session.nodes[node]
    while run.plan.kind == "convert" and run.trigger is not None:
        node, output = run.trigger.edge.source, run.trigger.edge.output
        run = session.nodes[node]
    return f"{node}.{output}"


def take(mailbox: Mailbox, of: str, format: str) -> dict[str, Any]:
    """The newest picture. Waits up to WAIT_S for a frame; a paused graph gives its last one. Raises Refused where there never was one."""
    from operators.link.coder import file_of

    seen = mailbox.fresh(WAIT_S)
    if seen is None:
        raise Refused("NoPicture", f"{of} has shown no picture yet", fix="is the graph getting frames?")
    data = file_of(seen.picture, format, 90)
    height, width = seen.picture.shape[:2]
    return {"of": of, "seq": seen.seq, "epoch": seen.epoch, "params": seen.version, "format": format, "size": [height, width], "data": data}
