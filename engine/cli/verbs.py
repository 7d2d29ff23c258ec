"""The verbs and their options, as typer reads them. What a verb does lives in a module of its own, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engine.cli import ctl

app = typer.Typer(
    name="engine", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Afterimage: frame graphs for live diffusion. A graph is a TOML file; [bold]engine run GRAPH[/bold] runs it.",
    epilog="Exit codes: 0 done, 2 graph or usage, 3 missing model or part, 4 device, 5 failed at run time, 130 interrupted (files closed).",
)  # fmt: skip
models = typer.Typer(no_args_is_help=True, help="List, fetch, check and train models.")
app.add_typer(models, name="models")
app.add_typer(ctl.app, name="ctl")

GraphName = Annotated[str, typer.Argument(metavar="GRAPH", help="A graph file, or the name of one that ships with the engine.")]
Graphs = Annotated[list[str], typer.Argument(metavar="GRAPH", help="Graph files, or names of graphs that ship with the engine.")]
Changes = Annotated[list[str] | None, typer.Argument(metavar="NODE.PARAM=VALUE", help="The same as --set.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NODE.PARAM=VALUE", help="Change a value of the graph; may be repeated.", show_default=False),
]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="Set a value of the graph's \\[param]; may be repeated.", show_default=False),
]
Embedded = Annotated[bool, typer.Option("--embedded", help="Use the small models that ship with the engine in place of all others.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
    ask: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """`--debug` is here for the help alone: `main` has taken it out already."""


@app.command()
def run(
    graph: GraphName,
    changes: Changes = None,
    sets: Sets = None,
    params: Params = None,
    embedded: Embedded = False,
    clock: Annotated[Literal["live", "offline"] | None, typer.Option(help="Real time with late frames dropped, or no frame lost.")] = None,
    seed: Annotated[int | None, typer.Option(help="What all random numbers follow from.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames have come in.")] = None,
    duration: Annotated[float | None, typer.Option(min=0.001, metavar="SECONDS", help="Stop after so many seconds.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default a GPU where there is one.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace that ui.perfetto.dev opens.")] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every event as a line of JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view and no progress.")] = False,
    inline: Annotated[bool, typer.Option("--inline", help="One thread on a step clock: slow, and the same every time.")] = False,
    poison: Annotated[bool, typer.Option("--poison", help="Fill returned buffers with a pattern, to find who keeps them.")] = False,
    govern: Annotated[bool, typer.Option("--govern/--no-govern", help="Let the governor move the knobs.")] = True,
    watch: Annotated[bool, typer.Option("--watch", help="Put changes of the graph file in force while it runs.")] = False,
    report_to: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a report with plots as one HTML file.", show_default=False)
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Serve a page with the picture, the graph and its controls.")] = False,
    preview_of: Annotated[
        list[str] | None, typer.Option("--preview-of", metavar="NODE.OUTPUT", help="What it shows first; may be repeated.", show_default=False)
    ] = None,
    web: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to serve it; turns --preview on.", show_default=False)] = None,
    web_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Pages from there may embed the preview, with its token; exact, repeatable.", show_default=False),
    ] = None,
    control: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="Take control requests here: a port, HOST:PORT, or ipc://FILE.", show_default=False)
    ] = None,
    control_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="The secret key of the control socket; engine keys makes one.", show_default=False)
    ] = None,
    control_allow: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A public key, file or folder that may connect; repeatable.", show_default=False)
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve numbers for Prometheus at /metrics there.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow addresses that other machines can reach, unencrypted.")] = False,
    record: Annotated[Path | None, typer.Option(metavar="FILE.mcap", help="Record the run; engine replay runs it again.")] = None,
    record_frames: Annotated[
        Literal["auto", "store", "hash", "none"],
        typer.Option(help="Keep source frames, or their digests, or neither; auto keeps those that no file can give again."),
    ] = "auto",
    record_snapshots: Annotated[int, typer.Option(min=0, metavar="N", help="Keep the state every N frames, for replay --from; 0 never.")] = 240,
) -> None:
    """Run a graph. Ctrl-C finishes the frames under way, a second one gives them up; files are closed either way."""
    from engine.cli import run as verb
    from engine.cli.attach import Attachment

    attachments: list[Attachment] = []
    if watch:
        from engine.cli.reload import Reload

        attachments.append(Reload())
    if report_to is not None:
        from remote.report.collect import Report

        attachments.append(Report(report_to))
    if preview or preview_of or web_origin or web is not None:
        from remote.preview import Preview

        attachments.append(Preview(web or "", insecure=insecure, of=preview_of or (), origins=web_origin or ()))
    if control is not None or control_key is not None:
        from engine.cli.report import say
        from remote.server import ENDPOINT, Control

        attachments.append(Control(control or ENDPOINT, key=control_key, allow=control_allow or (), insecure=insecure, say=say))
    if metrics is not None:
        from engine.cli.report import say
        from remote.metrics import Metrics

        attachments.append(Metrics(metrics, insecure=insecure, say=say))
    sets = [*(sets or ()), *(changes or ())]
    sets += [f"graph.clock={clock}"] if clock else []
    sets += [f"graph.seed={seed}"] if seed is not None else []
    if record is not None:
        from engine.cli.report import say
        from recorder.attachment import Record

        attachments.append(Record(record, say=say, frames=record_frames, snapshot_every=record_snapshots, sets=sets))
    options = verb.Options(
        graph=graph, sets=tuple(sets), params=tuple(params or ()), embedded=embedded, frames=frames, duration=duration, device=device,
        inline=inline, trace=trace, log=log, json=json, quiet=quiet, poison=poison, govern=govern,
        attachments=tuple(attachments),
    )  # fmt: skip
    raise typer.Exit(verb.run(options))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE.mcap", help="What engine run --record wrote.")],
    begin: Annotated[int, typer.Option("--from", min=0, metavar="N", help="Begin at the last snapshot up to source frame N.")] = 0,
    until: Annotated[int | None, typer.Option(min=0, metavar="N", help="End with source frame N.", show_default=False)] = None,
    wanted: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NODE.PARAM=VALUE", help="What would have happened with this value; repeatable.", show_default=False),
    ] = None,
    rerun: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="Compute this slow node anew, not from the recording.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write what the sinks write to this new folder.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default what it was recorded on.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Mean deviation allowed on another device or version, in 8-bit steps.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Run a recording again and compare what reaches the sinks: exit code 0 identical, 5 different."""
    from engine.cli import replay as verb

    raise typer.Exit(verb.replay(file, begin=begin, until=until, wanted=wanted or (), rerun=rerun or (), out=out, device=device,
                                 tolerance=tolerance, json=json))  # fmt: skip


@app.command()
def check(graphs: Graphs, sets: Sets = None, params: Params = None, embedded: Embedded = False) -> None:
    """Compile graphs and print every problem, each with its line and what would fix it."""
    from engine.cli import inspect

    raise typer.Exit(inspect.check(graphs, sets or (), params or (), embedded=embedded))


@app.command()
def plan(
    graph: GraphName,
    changes: Changes = None,
    sets: Sets = None,
    params: Params = None,
    embedded: Embedded = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid flowchart.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="In Graphviz' language.")] = False,
    json: Json = False,
    card: Annotated[str | None, typer.Option(metavar="NAME", help="Predict for this card, such as rtx-2060.", show_default=False)] = None,
) -> None:
    """Print what would run where, in what order, how every edge behaves, and what a frame costs."""
    from engine.cli import inspect

    how = "mermaid" if mermaid else "dot" if dot else "json" if json else "text"
    inspect.plan(graph, [*(sets or ()), *(changes or ())], params or (), embedded=embedded, how=how, card=card)


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="An operator, or a family.")] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The whole reference, as Markdown.")] = False,
) -> None:
    """List the operators, or show one: ports, outputs, parameters, ranges, what it does."""
    from engine.cli import operators

    operators.ops(name, how="markdown" if markdown else "json" if json else "text")


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files, for editors."""
    from engine.cli import operators

    operators.schema()


@app.command()
def doctor(json: Json = False) -> None:
    """Look over this machine: packages, processor, GPU, encoders, models, disk; say what is wrong and what to do."""
    from engine.cli import doctor as verb

    verb.doctor(json=json)


@app.command()
def devices(json: Json = False) -> None:
    """List cameras, graphics cards, and the encoders that really open here."""
    from engine.cli import doctor as verb

    verb.devices(json=json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def bench(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The measurement to run; none lists them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="OPTION", help="Handed on to it.")] = None,
) -> None:
    """Run a measurement of bench/, from a checkout of the project."""
    from engine.cli import bench as verb

    raise typer.Exit(verb.bench(name, arguments or []))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What it is called; a path is a path.")],
    operator: Annotated[bool, typer.Option("--operator", help="A package with an operator and a test, in place of a graph.")] = False,
) -> None:
    """Write a starter graph NAME.toml, or a starter operator package with a test. Both run as they are."""
    from engine.cli import new as verb

    verb.new(name, operator=operator)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="A folder with graphs, or with a serve.toml.")] = Path(),
    status: Annotated[bool, typer.Option("--status", help="Ask who serves the folder how it goes, and start nothing.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a status page that other machines can reach, unencrypted.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --status: one JSON object on stdout.")] = False,
) -> None:
    """Keep one engine process running per stream: started again when it fails or brings no frames. Ctrl-C ends them all in order."""
    from engine.cli import serve as verb

    raise typer.Exit(verb.status(folder, as_json=json) if status else verb.serve(folder, insecure=insecure))


@app.command()
def keys(
    name: Annotated[str, typer.Argument(help="What the key is called: NAME.key and NAME.key_secret are written.")],
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to.")] = Path("keys"),
) -> None:
    """Make a key pair for sockets that other machines can reach. The .key is given away, the .key_secret stays here."""
    from engine.cli import keys as verb

    verb.keys(name, folder)


@app.command()
def version() -> None:
    """Print the version."""
    import engine

    typer.echo(f"engine {engine.__version__}")


@models.command("list")
def models_list(json: Json = False) -> None:
    """What there is, what lies on this machine, and where."""
    from engine.cli import models as verb

    verb.list_all(json=json)


@models.command("pull")
def models_pull(names: Annotated[list[str], typer.Argument(metavar="NAME", help="A model of the list, or owner/name of the Hub.")]) -> None:
    """Fetch a model and check it against its hash. Nothing else ever fetches one."""
    from engine.cli import models as verb

    verb.pull(names)


@models.command("verify")
def models_verify(names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="By default all that are here.")] = None) -> None:
    """Read models whole and compare them with their hashes."""
    from engine.cli import models as verb

    raise typer.Exit(verb.verify(names or []))


@models.command("train", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def models_train(context: typer.Context) -> None:
    """Train the embedded model from nothing; all options are the trainer's (--help shows them)."""
    from engine.cli import models as verb

    arguments: list[Any] = context.args
    raise typer.Exit(verb.train(arguments))
