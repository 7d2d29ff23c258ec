"""Who is let in and who is not: Host, Origin, token, method; each refusal beside the request that differs only in that and is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from shown import Shown, Socket, film, shown
from websockets.exceptions import InvalidStatus

from engine.errors import UsageError
from remote.guard import Guard
from remote.preview import Preview


@pytest.fixture(scope="module")
def run() -> Iterator[Shown]:
    with shown(film(fps=5)) as going:
        yield going


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LocalHost:{port}"])
def test_this_server_is_known_by_its_names(run: Shown, host: str) -> None:
    assert run.read("/graph.json", host=host.format(port=run.port))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", "",
             "192.168.0.7:{port}", "127.0.0.1:{port}:{port}", "localhost:{port}, evil.example"],
)  # fmt: skip
def test_other_names_are_refused_whatever_token_comes_with_them(run: Shown, host: str) -> None:
    for path in ("/graph.json", "/healthz", "/", "/stream.mjpeg", f"/?token={run.token}"):
        assert run.read(path, host=host.format(port=run.port))[0] == 403


@pytest.mark.parametrize(("origin", "status"), [
    ("http://127.0.0.1:{port}", 200), ("https://127.0.0.1:{port}", 200), ("http://localhost:{port}", 403), ("http://127.0.0.1:{other}", 403),
    ("http://evil.example", 403), ("null", 403), ("http://evil.example:{port}", 403), ("", 403), ("file://", 403),
])  # fmt: skip
def test_pages_of_other_origins_are_refused(run: Shown, origin: str, status: int) -> None:
    given = origin.format(port=run.port, other=run.port + 1)
    assert run.read("/graph.json", Origin=given)[0] == status
    if status == 200:
        with run.socket(origin=given) as socket:
            assert Socket(socket).ask("clock")["kind"] == "answer"
    else:
        assert denied(run, origin=given) == 403


def denied(run: Shown, **how: Any) -> int:
    with pytest.raises(InvalidStatus) as refused, run.socket(**how):
        pass
    return refused.value.response.status_code


def test_a_websocket_needs_the_token_and_one_with_a_cookie_our_own_origin(run: Shown) -> None:
    assert denied(run, token="") == 401
    assert denied(run, token="wrong") == 401
    cookie = {"Cookie": f"other=1; afterimage-{run.port}={run.token}"}
    own = f"http://127.0.0.1:{run.port}"
    with run.socket(token="", additional_headers=cookie, origin=own) as socket:
        assert Socket(socket).ask("clock")["kind"] == "answer"
    assert denied(run, token="", additional_headers=cookie) == 401  # a browser always says where it comes from
    assert denied(run, token="", additional_headers=cookie, origin="http://127.0.0.1:1") == 403
    assert denied(run, token="", additional_headers={"Cookie": f"afterimage-1={run.token}"}, origin=own) == 401
    with run.socket(token="", additional_headers={"Authorization": f"Bearer {run.token}"}) as socket:
        assert Socket(socket).ask("clock")["kind"] == "answer"


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/graph.json", "/metrics", "/snapshot.png", "/snapshot.jpg", "/stream.mjpeg", "/nothing", "/ws"]
)
def test_every_route_needs_the_token_in_one_of_its_places(run: Shown, path: str) -> None:
    for wrong in (None, "", "x", run.token[:-1], run.token + "x", "é"):
        query = "" if wrong is None else f"?token={wrong.encode().hex() if wrong == 'é' else wrong}"
        assert run.read(path + query, token=False)[0] == 401
    assert run.read(path, token=False, Cookie=f"afterimage-{run.port}=")[0] == 401
    right = [
        run.get(f"{path}?token={run.token}", token=False), run.get(path, token=False, Authorization=f"Bearer {run.token}"),
        run.get(path, token=False, Cookie=f"a=b; afterimage-{run.port}={run.token}"),
    ]  # fmt: skip
    expected = {200, 303} if path not in ("/nothing", "/ws") else {404}
    for answer in right:
        assert answer.status in expected
        answer.connection.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_is_changed_by_http(run: Shown, method: str) -> None:
    assert run.read("/graph.json", method=method)[0] == 403
    assert run.read("/graph.json", method="HEAD")[0] == 200


def test_what_other_sites_embed_is_refused_and_a_link_to_the_page_is_not(run: Shown) -> None:
    cookie = f"afterimage-{run.port}={run.token}"
    for site in ("cross-site", "same-site"):
        assert run.read("/snapshot.png", token=False, Cookie=cookie, Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")[0] == 403
        assert run.read("/", token=False, Cookie=cookie, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200
    assert run.read("/snapshot.png", token=False, Cookie=cookie, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors")[0] == 200


def test_the_first_visit_takes_the_token_out_of_the_address(run: Shown) -> None:
    status, _, headers = run.read(f"/?token={run.token}", token=False)
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    status, body, headers = run.read("/", token=False, Cookie=cookie.partition(";")[0])
    assert status == 200
    assert b"<canvas" in body
    assert run.token.encode() not in body


@pytest.mark.parametrize("path", ["/", "/main.js", "/nothing", "/snapshot.png"])
def test_every_answer_tells_the_browser_to_keep_to_itself(run: Shown, path: str) -> None:
    for token in (True, False):
        headers = run.read(path, token=token)[2]
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert (headers["x-content-type-options"], headers["referrer-policy"], headers["x-frame-options"]) == ("nosniff", "no-referrer", "DENY")
        assert headers["cache-control"] == "no-store"


def test_the_page_names_no_other_host(run: Shown) -> None:
    import re

    from remote.web import _files

    for name, (data, _) in _files().items():
        hosts = set(re.findall(rb"(?:https?|wss?)://([^/\s\"'`$]+)", data)) - {b"www.w3.org"}  # the name of a namespace, never fetched
        assert not hosts, f"{name} names {hosts}"
        assert run.read("/" if name == "index.html" else f"/{name}")[1] == data


FRIEND = "http://127.0.0.1:9000"


@pytest.fixture(scope="module")
def open_to() -> Iterator[Shown]:
    """A preview that named one other origin, and one more that nobody uses."""
    with shown(film(fps=5), origins=["HTTPS://Studio.Example:443/", FRIEND]) as going:
        yield going


@pytest.mark.parametrize(("origin", "status"), [
    (FRIEND, 200), ("https://studio.example", 200), ("http://127.0.0.1:9001", 403), ("https://127.0.0.1:9000", 403), ("*", 403), ("", 403),
    ("http://studio.example", 403), ("https://evil.studio.example", 403), ("https://studio.example.evil", 403), ("null", 403),
    (FRIEND + "/", 403), ("HTTP://127.0.0.1:9000", 403),
])  # fmt: skip
def test_pages_of_named_origins_are_answered_and_of_no_others(open_to: Shown, run: Shown, origin: str, status: int) -> None:
    answer = open_to.read("/graph.json", Origin=origin, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")
    assert answer[0] == status
    assert answer[2]["access-control-allow-origin"] == (origin if status == 200 else None)
    assert run.read("/graph.json", Origin=origin)[0] == 403  # where nobody was named
    if status == 200:
        with open_to.socket(origin=origin) as socket:
            assert Socket(socket).ask("clock")["kind"] == "answer"
    else:
        assert denied(open_to, origin=origin) == 403


def test_a_named_origin_needs_the_token_too_and_may_not_use_the_cookie(open_to: Shown) -> None:
    cookie = {"Cookie": f"afterimage-{open_to.port}={open_to.token}"}
    assert open_to.read("/graph.json", token=False, Origin=FRIEND)[0] == 401
    assert open_to.read("/graph.json", token=False, Origin=FRIEND, **cookie)[0] == 401
    assert denied(open_to, token="", origin=FRIEND, additional_headers=cookie) == 401
    assert open_to.read(f"/graph.json?token={open_to.token}", token=False, Origin=FRIEND)[0] == 200
    own = f"http://127.0.0.1:{open_to.port}"
    with open_to.socket(token="", additional_headers=cookie, origin=own) as socket:
        assert Socket(socket).ask("clock")["kind"] == "answer"


def test_a_picture_that_a_named_page_embeds_is_known_by_its_referer(open_to: Shown) -> None:
    embedded = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    others = ("http://127.0.0.1:9001/", FRIEND + "1/", "", "null")
    for referer, status in ((FRIEND + "/a/page.html?x=1", 200), (FRIEND, 200), *((other, 403) for other in others)):
        answer = open_to.read(f"/healthz?token={open_to.token}", token=False, Referer=referer, **embedded)
        assert answer[0] == status, referer
        assert (answer[2]["cross-origin-resource-policy"] == "cross-origin") == (status == 200)
    assert open_to.read("/healthz", token=False, Referer=FRIEND, host="evil.example:80", **embedded)[0] == 403


def test_a_named_page_may_ask_beforehand_and_may_frame(open_to: Shown, run: Shown) -> None:
    asked = {"Origin": FRIEND, "Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "authorization"}
    status, _, headers = open_to.read("/graph.json", token=False, method="OPTIONS", **asked)
    assert (status, headers["access-control-allow-origin"], headers["access-control-allow-headers"]) == (204, FRIEND, "authorization")
    assert open_to.read("/graph.json", token=False, method="OPTIONS", **{**asked, "Access_Control_Request_Method": "POST"})[0] == 403
    assert open_to.read("/graph.json", token=False, method="OPTIONS", host="evil.example:80", **asked)[0] == 403
    assert run.read("/graph.json", token=False, method="OPTIONS", **asked)[0] == 403
    headers = open_to.read("/")[2]
    assert "frame-ancestors http://127.0.0.1:9000 https://studio.example" in headers["content-security-policy"]
    assert headers["x-frame-options"] is None
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("origin", ["*", "null", "studio.example", "file:///page.html", "https://*.example", "https://a.example/path", "https://u@a.example",
                                    "https://", "https://a.example:99999", "ftp://a.example"])  # fmt: skip
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match=r"is no origin|out of range"):
        Preview("127.0.0.1:0", origins=[origin])


@pytest.mark.parametrize(("bound", "host", "me"), [
    ("0.0.0.0", "192.168.0.7:80", True), ("0.0.0.0", "evil.example:80", False), ("0.0.0.0", "localhost:80", True),
    ("192.168.0.7", "192.168.0.7:80", True), ("192.168.0.7", "192.168.0.8:80", False), ("192.168.0.7", "localhost:80", False),
    ("0.0.0.0", "192.168.0.7", True), ("0.0.0.0", "192.168.0.7:81", False), ("::", "[fe80::1]:80", True),
])  # fmt: skip
def test_beyond_loopback_addresses_are_known_and_names_of_others_are_not(bound: str, host: str, me: bool) -> None:
    async def app(*args: Any) -> None: ...

    assert Guard(app, token="t" * 16, host=bound, port=80).is_me(host) is me
