"""From a reload request to a plan: the file that was loaded, another one, or a text, compiled as the run itself was.

Changes and parameters of the command line hold for the new graph too, and so do the nodes that a preview or a control socket added, so that a
reload of an unchanged file changes nothing. It compiles, and puts nothing in force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.plan import Plan
    from engine.session import Session


def planned(session: Session, path: str = "", text: str = "") -> Plan:
    """The plan to go on with. Raises GraphError with every problem, UsageError and MissingError."""
    from engine.cli.inspect import compiled
    from engine.planning.compile import compile
    from engine.text.load import loads, value_of

    options = getattr(session, "options", None)  # of a run of the command line; a session made by a program has none
    sets, params = (options.sets, options.params) if options is not None else ((), ())
    embedded = session.plan.embedded
    change = [attachment.graph for attachment in options.attachments] if options is not None else []
    if text:
        pairs = (param.partition("=") for param in params)
        graph = loads(text, "<reload>", sets=sets, params={name.strip(): value_of(raw) for name, _, raw in pairs})
        for made in change:
            graph = made(graph)
        return compile(graph, embedded=embedded)
    name = path or (options.graph if options is not None else session.plan.file)
    if name.startswith("<"):
        raise UsageError("this run was not started from a file", fix="name a path, or send the text of a graph")
    return compiled(name, sets, params, embedded=embedded, change=change)
