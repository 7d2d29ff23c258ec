"""`engine ctl`: look at and change a run in another process, over its control socket.

Every command is one request of docs/control.md. A change waits until it has landed and says on which frame; `--no-wait` returns when it is
accepted. Exit codes: 2 where the engine refused, 5 where nobody answered or an accepted change did not land.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from engine.cli import report
from engine.cli.ctl_text import Answer, body, changed, kept, kind, line, parsed, shown, span
from engine.errors import RunError, UsageError, writing

if TYPE_CHECKING:
    from bindings.python.control import Control, Receipt

DEFAULT = "tcp://127.0.0.1:5570"
EVERYWHERE = {"--at": True, "--timeout": True, "--server-key": True, "--key": True, "--json": False}  # option to whether it has a value


class AnyPlace(TyperGroup):
    """A group whose own options may stand anywhere: `engine ctl stats --at 5571` is what people type."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours: list[str] = []
        rest: list[str] = []
        left = list(args)
        while left:
            word = left.pop(0)
            if word == "--":
                rest, left = [*rest, word, *left], []
            elif word.partition("=")[0] not in EVERYWHERE:
                rest.append(word)
            else:
                ours.append(word)
                if EVERYWHERE[word.partition("=")[0]] and "=" not in word and left:
                    ours.append(left.pop(0))
        return list(super().parse_args(ctx, ours + rest))


app = typer.Typer(
    cls=AnyPlace, no_args_is_help=True, rich_markup_mode="rich",
    help="Look at and change a run in another process, started with [bold]engine run GRAPH --control 5570[/bold].",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """The options of the group."""

    at: str
    timeout: float
    server_key: str | None
    key: str | None
    json: bool


@app.callback()
def group(
    context: typer.Context,
    at: Annotated[str, typer.Option(metavar="ENDPOINT", help="Where the run listens: a port, HOST:PORT, tcp:// or ipc://.")] = DEFAULT,
    timeout: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="How long to wait for an answer, or a change to land.")] = 5.0,
    server_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The run's public key: a file, or 40 characters.", show_default=False)
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="FILE", help="A file with a secret key that the run allows.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, one a line where there are several.")] = False,
) -> None:
    """Holds what all commands share."""
    context.obj = Asked(at, timeout, server_key, key, json)


@contextmanager
def connected(context: typer.Context) -> Iterator[Control]:
    """A client; what goes wrong while it is used becomes one of the engine's own errors."""
    from bindings.python import control, curve
    from remote.server import check_endpoint

    asked: Asked = context.obj
    try:
        with control.Control(check_endpoint(asked.at), timeout=asked.timeout, server_key=asked.server_key, key=asked.key) as client:
            yield client
    except control.Refused as error:
        raise Answer(error) from None
    except control.ControlError as error:
        raise RunError(error.message, fix=error.fix) from None
    except curve.KeyProblem as error:
        raise UsageError(str(error)) from None


# ---------------------------------------------------------------- looking


@app.command()
def hello(context: typer.Context) -> None:
    """Who answers, and what it runs."""
    with connected(context) as client:
        answer = body(client.hello())
    facts = f"engine {answer['engine']}, plan {str(answer['plan'])[:12]}, run {answer['run']}"
    say(context, answer, f"{answer['graph']}: {answer['state']}, {facts}")


@app.command()
def get(
    context: typer.Context,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[NODE.PARAM]...", show_default=False)] = None,
) -> None:
    """Print parameters, by default all."""
    with connected(context) as client:
        values = client.get(*(paths or ()))
    if context.obj.json:
        print(report.as_json(values))
    elif len(paths or ()) == 1:
        report.tell(shown(next(iter(values.values()))))
    else:
        for path, value in values.items():
            report.tell(f"{path} = {shown(value)}")


@app.command()
def describe(
    context: typer.Context, node: Annotated[str | None, typer.Argument(metavar="[NODE]", show_default=False)] = None
) -> None:
    """What can be changed: parameters with their kinds, ranges and values."""
    with connected(context) as client:
        answer = body(client.describe())
    nodes = answer["nodes"]
    if node is not None and node not in nodes:
        from engine.registry import suggest

        raise UsageError(f"there is no node {node!r}", fix=suggest(node, list(nodes)))
    if context.obj.json:
        print(report.as_json(answer if node is None else nodes[node]))
        return
    table = report.table("parameter", "kind", "range", "value", "")
    for name, one in nodes.items():
        for param, facts in one["params"].items():
            if node in (None, name) and (facts["live"] or node is not None):
                what = "knob" if facts["knob"] else "live" if facts["live"] else "fixed"
                fed = f"fed by {facts['fed']}" if facts["fed"] else ""
                shape = facts["schema"]
                table.add_row(f"{name}.{param}", kind(shape), span(shape), shown(facts["value"]), f"{what} {fed}".strip())
        for port, facts in one.get("inputs", {}).items():
            if node in (None, name) and facts.get("settable", True):
                table.add_row(f"{name}.in.{port.removeprefix('in.')}", facts["type"], "", shown(facts["value"]), "input")
    report.show(table)


@app.command()
def stats(context: typer.Context) -> None:
    """How it goes: frames, ages, drops, nodes."""
    with connected(context) as client:
        answer = body(client.stats())
    if context.obj.json:
        print(report.as_json(answer))
        return
    frames, age = answer["frames"], answer["age_ms"]
    report.tell(f"{answer['state']}   {report.number(answer['fps'])} fps   {report.clock(answer['seconds'])}", "bold")
    for reason in answer.get("reasons", ()):
        report.tell(f"        {reason}")
    report.tell(f"frames  {frames['in']} in · {frames['out']} out · {frames['in_flight']} under way")
    if frames["drops"]:
        report.tell(f"drops   {report.listed(frames['drops'])}")
    report.tell("age ms  " + report.listed({name: float(value) for name, value in age.items()}))
    if answer["knobs"]:
        held = f"   (held: {', '.join(answer['held'])})" if answer.get("held") else ""
        report.tell(f"knobs   {report.listed(answer['knobs'])}{held}")
    table = report.table("node", "lane", ">frames", ">ms p50", ">p95", ">errors")
    for name, one in answer["nodes"].items():
        ms = one["ms"]
        table.add_row(name, one["lane"], str(one["count"]), report.number(ms["p50"]), report.number(ms["p95"]), str(one["errors"] or ""))
    report.show(table)


@app.command()
def watch(
    context: typer.Context,
    what: Annotated[list[str] | None, typer.Argument(metavar="[stats|params|events]...", show_default=False)] = None,
    every: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="Between two lines of statistics.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many messages.", show_default=False)] = None,
) -> None:
    """Follow a run until it ends or Ctrl-C: statistics, parameters that change, events."""
    with connected(context) as client, client.watch(*(what or ()), every=every) as messages:
        for number, message in enumerate(messages, 1):
            if context.obj.json:
                print(json.dumps(body(message), default=str), flush=True)
            else:
                report.tell(line(message))
            if number == count:
                return


@app.command()
def snapshot(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write it, - is stdout; by default snapshot-FRAME.png.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="The same as FILE.", show_default=False)] = None,
    of: Annotated[str | None, typer.Option(metavar="NODE.OUTPUT", help="Which picture; by default the main one.", show_default=False)] = None,
) -> None:
    """Write the picture of now into a file; the name's end says png or jpeg."""
    if file is not None and output is not None:
        raise UsageError("a snapshot is written to one file", fix=f"leave out {output}")
    output = output or file
    named = output is not None and str(output) != "-"
    format = "jpeg" if named and output is not None and output.suffix.lower() in (".jpg", ".jpeg") else "png"
    if named and output is not None and output.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UsageError(f"{output}: a snapshot is a .png or a .jpg")
    with connected(context) as client:
        taken = client.snapshot(of, format=format)
    if output is not None and not named:
        sys.stdout.buffer.write(taken.data)
        return
    path = output or Path(f"snapshot-{taken.seq}.png")
    with writing(path):
        path.write_bytes(taken.data)
    say(context, {"path": str(path), "seq": taken.seq, "epoch": taken.epoch, "bytes": len(taken.data)}, f"→ {path}  (frame {taken.seq})")


# ---------------------------------------------------------------- changing

Changes = Annotated[list[str], typer.Argument(metavar="NODE.PARAM=VALUE...", help="A value is TOML where it can be, else text.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when the change is accepted.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[=VALUE]", help="An attribute that a new prompt keeps, as hair or hair=red; repeatable.", show_default=False),
]


@app.command("set")
def set_(
    context: typer.Context,
    changes: Changes,
    blend: Annotated[
        int | None, typer.Option(min=0, metavar="FRAMES", help="Frames over which a new prompt comes in.", show_default=False)
    ] = None,
    keep: Keep = None,
    no_wait: NoWait = False,
) -> None:
    """Change live parameters and prompts, all on one frame."""
    with connected(context) as client:
        landed(context, client.set(parsed(changes), blend=blend, keep=kept(keep)), no_wait)


@app.command()
def ramp(
    context: typer.Context,
    changes: Changes,
    frames: Annotated[int | None, typer.Option(min=1, help="Over so many frames.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Over so many seconds.", show_default=False)] = None,
    curve: Annotated[Literal["linear", "ease"], typer.Option(help="Evenly, or slow at both ends.")] = "linear",
    keep: Keep = None,
    done: Annotated[bool, typer.Option("--done", help="Wait for the last frame of the ramp.")] = False,
    no_wait: NoWait = False,
) -> None:
    """Move numbers to their targets step by step; blend a prompt over frames."""
    with connected(context) as client:
        receipt = client.ramp(parsed(changes), frames=frames, seconds=seconds, curve=curve, keep=kept(keep))
        landed(context, receipt, no_wait)
        if done:
            seq = receipt.wait_done(None)
            say(context, {"kind": "done", "seq": seq}, f"done at frame {seq}")


@app.command()
def reset(context: typer.Context, reason: Annotated[str, typer.Argument(show_default=False)] = "", no_wait: NoWait = False) -> None:
    """Start a new epoch: carries and holds forget what came before."""
    with connected(context) as client:
        landed(context, client.reset(reason), no_wait)


@app.command()
def release(
    context: typer.Context,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[NODE.PARAM]...", show_default=False)] = None,
    no_wait: NoWait = False,
) -> None:
    """Let the governor move knobs again that were set by hand, by default all."""
    with connected(context) as client:
        landed(context, client.release(*(paths or ())), no_wait)


@app.command()
def pause(context: typer.Context) -> None:
    """Admit no frames until resume."""
    with connected(context) as client:
        landed(context, client.pause(), False)


@app.command()
def resume(context: typer.Context, no_wait: NoWait = False) -> None:
    """Admit frames again."""
    with connected(context) as client:
        landed(context, client.resume(), no_wait)


@app.command()
def reload(
    context: typer.Context,
    graph: Annotated[
        str | None, typer.Argument(metavar="[GRAPH]", help="A file; - is a graph on stdin; by default the one that was loaded.")
    ] = None,
    no_wait: NoWait = False,
) -> None:
    """Take up a changed graph while frames fly. A file is read by the run, in its folder."""
    with connected(context) as client:
        receipt = client.reload(text=sys.stdin.read()) if graph == "-" else client.reload(graph)
        landed(context, receipt, no_wait)


@app.command()
def stop(
    context: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="Give up the frames under way; files are closed all the same.")] = False,
    no_wait: NoWait = False,
) -> None:
    """End the run; by default the frames under way are finished first."""
    with connected(context) as client:
        landed(context, client.stop(drain=not now), no_wait, "stopped")


# ---------------------------------------------------------------- receipts


def landed(context: typer.Context, receipt: Receipt, no_wait: bool, word: str = "applied") -> None:
    """Wait for a change, and say where it landed; `word` says what has become of it."""
    if no_wait:
        say(context, {"kind": "accepted", "receipt": receipt.number}, f"accepted, receipt {receipt.number}")
        return
    seq = receipt.wait_applied(context.obj.timeout)
    facts = {"kind": "applied", "receipt": receipt.number, "seq": seq, "epoch": receipt.epoch, "params": receipt.params}
    text = word + (f" at frame {seq}" if seq is not None else "") + f" (epoch {receipt.epoch}, parameters {receipt.params})"
    if receipt.diff:
        facts["diff"] = receipt.diff
        text += "".join(f"\n  {line}" for line in changed(receipt.diff))
    say(context, facts, text)


def say(context: typer.Context, facts: Mapping[str, Any], text: str) -> None:
    """The answer, for programs or for people."""
    if context.obj.json:
        print(json.dumps(facts, default=str), flush=True)
    else:
        report.tell(text)
