"""The report as one HTML file: numbers first, then plots, pictures and what happened. No script, nothing from elsewhere, fit to be mailed."""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from engine.errors import scrub
from engine.live.summary import percentile
from remote.report import plots

if TYPE_CHECKING:
    from engine.session import Session
    from remote.report.collect import Report
    from remote.report.facts import Facts

STYLE = """
:root{--ground:#fbfaf8;--card:#fff;--line:#e4e0da;--text:#22252b;--muted:#6b7280;--bad:#c0392b;--accent:#d9622b}
@media(prefers-color-scheme:dark){:root{--ground:#0f1013;--card:#17191e;--line:#2a2d35;--text:#e7e9ed;--muted:#98a0ad;--bad:#f2777a}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0}h2{font-size:16px;margin:36px 0 8px}
p{margin:4px 0 12px}.muted{color:var(--muted);font-size:13px}.bad{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:20px 0}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px;margin:0}
.card b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.card span{color:var(--muted);font-size:12px}
figure{padding:10px}svg{width:100%;height:auto;display:block}.grid{stroke:var(--line)}
.tick{fill:var(--muted);font-size:11px}
.curve{fill:none;stroke-width:1.5}.area{opacity:.85}.mark{stroke:var(--muted);stroke-dasharray:2 3}
.band{border-radius:4px}.band+.band{margin-top:6px}
.limit{stroke:var(--bad);stroke-dasharray:6 4}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12px;color:var(--muted);padding:6px 4px 0}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
.bar{display:grid;grid-template-columns:190px 1fr 110px;gap:10px;align-items:center;font-size:13px;padding:2px 0}
.bar b{background:var(--accent);height:10px;border-radius:5px;min-width:1px}.bar em{font-style:normal;color:var(--muted);text-align:right}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(130px,1fr));gap:8px}
.strip img{width:100%;border-radius:8px;display:block}
.thumb{height:64px;border-radius:6px;display:block}
.strip figcaption{font-size:11px;color:var(--muted)}.strip figure{padding:6px}
@media(max-width:640px){figure{overflow-x:auto}figure>svg{min-width:600px}.bar{grid-template-columns:136px 1fr 76px;overflow-wrap:anywhere}}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}code{font-size:12px;overflow-wrap:anywhere}
"""
TOLD = 200  # events in the table


def page(session: Session, facts: Facts, seen: Report, pictures: Sequence[tuple[int, int, bytes]], error: BaseException | None) -> str:
    """The whole file."""
    plan, told = session.plan, session.summary()
    marks = [(facts.seconds(e["at"]), str(e.get("reason", "reset"))) for e in facts.events if e["what"] == "epoch"]
    marks += [(facts.seconds(e["at"]), f"out of memory: {e.get('rung', '')}") for e in facts.events if e["what"] == "memory"]
    sections = [
        _head(session, told, error),
        _cards(told),
        _section("Where the time of a frame went", _times(facts, plan.budget_ms), "From the end of the source's work to the last sink, and "
                 "what the source took before; means over neighbouring frames. What is on other lanes overlaps with the next frame's."),
        _section("The same by stage", _stages(facts, plan.budget_ms)),
        _section("Time by stage", plots.bars(_medians(facts), "ms"), "Median of a call."),
        _section("Age at the sinks", plots.lines(_ages(facts, seen), "ms", label="age", marks=marks, limit=plan.budget_ms),
                 "From capture to sink."),
        _section("Frames that did not arrive, by cause", plots.bars(dict(told.frames["drops"]), "frames")),
        _section("What was measured", _series(facts, marks)),
        _section("Colours that should stay", _identity(facts, marks),
                 "CIEDE2000 of a region's median colour against the first frames: 1 is just visible, 10 is another colour."),
        _section("How far their histograms went", _histograms(facts, marks), "Hellinger distance in L*a*b* against the first frames: 0 is the "
                 "same, 1 has no colour in common."),
        _section("What colours they had", _bands(seen), "The most frequent colours of each region, as high as their shares, over the run."),
        _section("Pictures", _strip(pictures)),
        _section("Prompts", _prompts(facts, pictures)),
        _section("Memory", _memory(told, facts, seen), "" if told.memory is None else "Planned against measured below."),
        _section("Pauses of the garbage collector", _pauses(session, seen)),
        _section("Nodes", _nodes(told)),
        _section("What happened", _events(facts)),
    ]  # fmt: skip
    body = "".join(part for part in sections if part)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(plan.name)} · run report</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def _section(title: str, body: str, note: str = "") -> str:
    if not body:
        return ""
    inner = f"<figure>{body}</figure>" if body.startswith(("<svg", '<div class="bars"')) else body
    return f"<h2>{escape(title)}</h2>" + (f'<p class="muted">{escape(note)}</p>' if note else "") + inner


def _head(session: Session, told: Any, error: BaseException | None) -> str:
    import engine

    machine = f"{platform.system()}, {session.device}, Python {platform.python_version()}, engine {engine.__version__}"
    failed = f'<p class="bad">Ended by: {escape(scrub(str(error)))}</p>' if error is not None else ""
    what = f"plan <code>{told.plan[:16]}</code> · {escape(told.clock)} clock · {told.seconds:.1f} s · {escape(machine)}"
    return f'<h1>{escape(session.plan.name)}</h1><p class="muted">{what}</p>{failed}'


def _cards(told: Any) -> str:
    frames, lost = told.frames, sum(told.frames["drops"].values())
    rows = [
        (f"{told.fps:.2f}", "frames a second"), (str(frames["out"]), f"frames out of {frames['in']}"),
        (str(lost), "dropped, by cause below"), (f"{told.age_ms['p50']:.0f} ms", "age, median"),
        (f"{told.age_ms['p95']:.0f} ms", "age, p95"), (f"{told.age_ms['p99']:.0f} ms", "age, p99"),
    ]  # fmt: skip
    if short := told.events.get("memory", 0):
        rows.append((str(short), "times out of memory"))
    if told.memory is not None and told.memory["measured_mb"] is not None:
        rows.append((f"{told.memory['measured_mb'] / 1000:.2f} GB", "peak on the card"))
    rows += [(f"{value:g}" if isinstance(value, (int, float)) else str(value), name) for name, value in told.knobs.items()]
    return '<div class="cards">' + "".join(f"<div class='card'><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in rows) + "</div>"


def _times(facts: Facts, budget: float | None) -> str:
    seqs, parts = facts.kinds()
    return plots.stacked([facts.left[seq] for seq in seqs], parts, "ms", label="time of a frame by what it went on", limit=budget)


def _stages(facts: Facts, budget: float | None) -> str:
    seqs, parts = facts.stages()
    return plots.stacked([facts.left[seq] for seq in seqs], parts, "ms", label="time of a frame by stage", limit=budget)


def _medians(facts: Facts) -> dict[str, float]:
    return {name: percentile(list(times.values()), 50) for name, times in facts.times.items() if not name.startswith("report_")}


def _ages(facts: Facts, seen: Report) -> dict[str, list[tuple[float, float]]]:
    return {"p50": [(facts.seconds(t), a) for t, a, _ in seen.ages], "p95": [(facts.seconds(t), b) for t, _, b in seen.ages]}


def _series(facts: Facts, marks: Sequence[tuple[float, str]]) -> str:
    from remote.report.collect import METER, PALETTE

    drawn = []
    for name, points in facts.series.items():
        if not name.startswith((METER, PALETTE)) and len(points) > 1:
            drawn.append(f"<p><b>{escape(name)}</b></p><figure>{plots.lines({name: points}, '', label=name, marks=marks, steps=True)}</figure>")
    settings = [e for e in facts.events if e["what"] == "set"]
    for path in dict.fromkeys(key for e in settings for key in e.get("changes", {})):
        points = [(facts.seconds(e["at"]), e["changes"][path]) for e in settings if isinstance(e.get("changes", {}).get(path), (int, float))]
        if len(points) > 1:
            drawn.append(f"<p><b>{escape(path)}</b></p><figure>{plots.lines({path: points}, '', label=path, floor=None, steps=True)}</figure>")
    return "".join(drawn)


def _identity(facts: Facts, marks: Sequence[tuple[float, str]]) -> str:
    from remote.report.collect import METER

    mine = {name.rpartition(".")[2]: points for name, points in facts.series.items() if name.startswith(METER) and len(points) > 1}
    return plots.lines(mine, "ΔE00", label="colour difference by region", marks=marks)


def _histograms(facts: Facts, marks: Sequence[tuple[float, str]]) -> str:
    from remote.report.collect import PALETTE

    mine = {name.rpartition(".")[2]: points for name, points in facts.series.items() if name.startswith(PALETTE) and len(points) > 1}
    return plots.lines(mine, "", label="difference of colour histograms by region", marks=marks)


def _bands(seen: Report) -> str:
    from operators.metric.regions import REGIONS

    drawn = []
    for region in REGIONS:
        samples = [(pts / 1e9, colours[region]) for _, pts, colours in seen.palette if region in colours]
        drawn.append(plots.bands(samples, label=region))
    return "".join(drawn)


def _strip(pictures: Sequence[tuple[int, int, bytes]]) -> str:
    cells = (
        f'<figure><img alt="frame {seq}" src="{_jpeg(data)}">'
        f"<figcaption>frame {seq} · {pts / 1e9:.1f} s</figcaption></figure>"
        for seq, pts, data in pictures
    )
    return f'<div class="strip">{"".join(cells)}</div>' if pictures else ""


def _prompts(facts: Facts, pictures: Sequence[tuple[int, int, bytes]]) -> str:
    """Each prompt that arrived, with the first picture kept from then on."""
    rows = []
    for e in (e for e in facts.events if e["what"] == "prompt"):
        later = next((data for seq, _, data in pictures if seq >= int(e.get("seq", 0))), None)
        shown = f'<img class="thumb" alt="" src="{_jpeg(later)}">' if later else ""
        cells = (f"{facts.seconds(e['at']):.1f}", str(e.get("seq", "")), str(e.get("text", "")), str(e.get("reason", "")))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td>{shown}</td></tr>")
    head = "".join(f"<th>{cell}</th>" for cell in ("s", "frame", "prompt", "because", "painted"))
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>' if rows else ""


def _jpeg(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _memory(told: Any, facts: Facts, seen: Report) -> str:
    curves: dict[str, list[tuple[float, float]]] = {}
    for when, sample in seen.memory:
        for name, value in sample.items():
            curves.setdefault(name, []).append((facts.seconds(when), value))
    drawn = plots.lines(curves, "MB", label="memory")
    text = f"<figure>{drawn}</figure>" if drawn else ""
    if told.memory is None:
        return text
    plan = told.memory
    models = [(name, str(model["mb"]), str(model["card_mb"]), model["how"]) for name, model in plan["models"].items()]
    spared = ", ".join(f"{node}: {how}" for node, how in plan["spared"].items())
    models.append(("activations", "", str(plan["activations_mb"]), spared))
    models += [(name, "", str(size), "from frame to frame") for name, size in plan["kept"].items()]
    stays = sum(int(model["card_mb"]) for model in plan["models"].values()) + sum(plan["kept"].values())
    visits = plan["expected_mb"] - plan["activations_mb"] - stays
    models.append(("room for what is moved in, one at a time", "", str(max(0, visits)), ""))
    models.append(("weights and activations, planned", "", str(plan["expected_mb"]), ""))
    absent = "not measured: no card"
    ratio = "" if plan["ratio"] is None else f"planned is {plan['ratio']:.2f} of it"
    models.append(("tensors, measured", "", _mb(plan["tensors_mb"]), absent if plan["tensors_mb"] is None else ratio))
    if plan["pools_mb"]:
        models.append(("captured steps, at most", "", str(plan["pools_mb"]), "beside that"))
    models.append(("with what is kept back, planned", "", str(plan["planned_mb"]), f"of {plan['budget_mb']} MB" if plan["budget_mb"] else ""))
    models.append(("held by the allocator, measured", "", _mb(plan["measured_mb"]), absent if plan["measured_mb"] is None else ""))
    return text + _table(("model", "MB in all", "MB on the card", "how"), models)


def _mb(value: int | None) -> str:
    return "—" if value is None else str(value)


def _pauses(session: Session, seen: Report) -> str:
    if not seen.pauses:
        return ""
    start = session.started
    points = [((at - start) / 1e9, ms) for at, ms in seen.pauses if at >= start]
    if not points:
        return ""
    total = sum(ms for _, ms in points)
    note = f'<p class="muted">{len(points)} pauses, {total:.0f} ms in all, the longest {max(ms for _, ms in points):.1f} ms.</p>'
    spikes = [point for at, ms in points for point in ((at, 0.0), (at, ms), (at + ms / 1e3, 0.0))]
    return note + f"<figure>{plots.lines({'pause': spikes}, 'ms', label='pauses')}</figure>"


def _nodes(told: Any) -> str:
    rows = [
        (name, node["op"], node["lane"], str(node["count"]), f"{node['ms']['p50']:.2f}", f"{node['ms']['p95']:.2f}", str(node["errors"] or ""))
        for name, node in told.nodes.items()
    ]
    return _table(("node", "operator", "lane", "calls", "p50 ms", "p95 ms", "errors"), rows, numbers=(3, 4, 5, 6))


def _events(facts: Facts) -> str:
    quiet = ("prompt",)
    rows = []
    for e in facts.events:
        if e["what"] in quiet:
            continue
        told = ", ".join(f"{k} = {_value(v)}" for k, v in e.items() if k not in ("at", "what", "node", "seq") and v not in ("", None, [], {}))
        frame = str(e["seq"]) if e.get("seq", -1) >= 0 else ""
        rows.append((f"{round(facts.seconds(e['at']), 2) + 0.0:.2f}", str(e["what"]), str(e.get("node", "")), frame, scrub(told)[:400]))
    left = len(rows) - TOLD
    shown = rows if left <= 0 else [*rows[: TOLD // 2], ("…", f"{left} more", "", "", ""), *rows[-TOLD // 2 :]]
    return _table(("s", "what", "node", "frame", "facts"), shown)


def _value(value: Any) -> str:
    """A fact of an event as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    made = list(rows)
    if not made:
        return ""
    top = "".join(f"<th{_class(i, numbers)}>{escape(cell)}</th>" for i, cell in enumerate(head))
    body = "".join("<tr>" + "".join(f"<td{_class(i, numbers)}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>" for row in made)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _class(column: int, numbers: Sequence[int]) -> str:
    return ' class="n"' if column in numbers else ""
