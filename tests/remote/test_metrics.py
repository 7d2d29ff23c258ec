"""Prometheus' numbers: its own parser reads them, they agree with the session and never fall, and nothing secret is among them."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from remote_runs import Ear, engine, graph, read_until, running, until

from engine.errors import DeviceError, UsageError
from remote.metrics import BUCKETS, Metrics, meter, render, split
from remote.verbs import Verbs


def read(data: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Sample name to labels to value, as Prometheus' own parser reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(data.decode()):
        assert family.documentation
        for sample in family.samples:
            where = found.setdefault(sample.name, {})
            key = tuple(sorted(sample.labels.items()))
            assert key not in where, f"{sample.name} {key} twice"
            where[key] = sample.value
    return found


def one(found: dict[str, Any], name: str) -> float:
    (value,) = found[f"afterimage_{name}"].values()
    return value


@pytest.fixture
def live(tmp_path):
    with running(graph(tmp_path)) as run:
        yield run


def test_the_numbers_are_those_of_the_session(tmp_path):
    with running(graph(tmp_path, count=300, period=1.0)) as run:
        render(run.session)  # a scrape on the way must not change what is counted
        run.wait()
    found, session = read(render(run.session)), run.session
    gate = session.gates["source"]
    assert one(found, "frames_in_total") == gate.entered == 300
    assert one(found, "frames_out_total") == gate.out
    assert sum(found.get("afterimage_frames_dropped_total", {}).values()) == sum(gate.drops.values())
    assert one(found, "age_seconds_count") == gate.out
    assert one(found, "age_seconds_sum") == pytest.approx(sum(session.ages) / 1e9, rel=1e-6)
    buckets = {dict(k)["le"]: v for k, v in found["afterimage_age_seconds_bucket"].items()}
    assert len(buckets) == len(BUCKETS) + 1
    assert buckets["+Inf"] == gate.out
    assert buckets["0.05"] == sum(age <= 50e6 for age in session.ages)
    calls = {dict(k)["node"]: v for k, v in found["afterimage_node_calls_total"].items()}
    assert calls == {name: node.count for name, node in session.nodes.items()}
    assert {dict(k)["state"]: v for k, v in found["afterimage_state"].items() if v} != {}
    assert sum(found["afterimage_state"].values()) == 1


def test_counters_never_fall_and_events_are_counted_once(live):
    session = live.session
    before = read(render(session))
    for n in range(50):
        session.event("reconnected", "source", n)
    ear = Ear()
    verbs = Verbs(session)
    verbs.handle({"v": 1, "id": 1, "op": "set", "changes": {"add.amount": 1.0}}, ear)
    ear.one(1, "applied")
    verbs.close()
    first, second = read(render(session)), read(render(session))
    for earlier, later in ((before, first), (first, second)):
        for name in later:
            if name.endswith(("_total", "_count", "_sum", "_bucket")):
                assert all(later[name][key] >= value for key, value in earlier.get(name, {}).items()), name
    assert one(first, "reconnects_total") == one(second, "reconnects_total") == 50
    assert one(second, "parameter_changes_total") == 1


def test_ages_and_events_are_counted_once_by_many_scrapers(live):
    threads = [threading.Thread(target=lambda: [render(live.session) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live.session.stop()
    live.wait()
    found = read(render(live.session))
    assert one(found, "age_seconds_count") == live.session.frames_out
    counted = Counter(e["what"] for e in live.session.events)
    assert {dict(k)["what"]: v for k, v in found.get("afterimage_events_total", {}).items()} == counted


def test_names_with_any_sign_are_escaped_and_no_secret_is_told(live):
    session = live.session
    session.event('a "quoted"\nline \\ of {text}', "source", 1, url="rtsp://me:hunter2@host/x?token=hunter2")
    session.signals['pose."x"\n'] = 0.5
    session.nodes["source"].params["url"] = "rtsp://me:hunter2@host/live"
    data = render(session)
    assert b"hunter2" not in data
    found = read(data)
    assert (("what", 'a "quoted"\nline \\ of {text}'),) in found["afterimage_events_total"]
    assert found["afterimage_signal"] == {(("name", 'pose."x"\n'),): 0.5}


def test_kinds_of_events_are_bounded(live):
    for n in range(500):
        live.session.event(f"kind {n}", "", 0)
    found = read(render(live.session))["afterimage_events_total"]
    assert len(found) <= 201
    assert sum(found.values()) >= 500
    assert meter(live.session) is meter(live.session)


def test_the_command_serves_them_and_only_them(tmp_path):
    with engine(tmp_path, "run", str(graph(tmp_path)), "--metrics", "127.0.0.1:0") as process:
        url = read_until(process.stderr, "metrics: ").split()[1]

        def out() -> float:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                return one(read(answer.read()), "frames_out_total")

        first = until(out)
        assert until(lambda: out() > first)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("metrics", "other"), timeout=10)


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "192.168.1.3:9464", "host.example:1"])
def test_what_others_can_reach_has_to_be_asked_for(address):
    with pytest.raises(UsageError, match="other machines"):
        Metrics(address)
    Metrics(address, insecure=True)


@pytest.mark.parametrize("address", ["", "x", "127.0.0.1", "127.0.0.1:70000", "http://127.0.0.1:80", ":x"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="no address"):
        split(address)


def test_a_port_that_is_taken_is_said(live):
    first = Metrics("127.0.0.1:0")
    first.attached(live.session)
    with pytest.raises(DeviceError, match="cannot listen"):
        Metrics(f"127.0.0.1:{first.port}").attached(live.session)
    first.ended(live.session, None)
