"""What the tests of the preview share: a film whose pictures say which frame they are, a run with a preview, and small clients."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Annotated, Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from engine import Live, Operator, Stamped, operator
from engine.graph import Graph, GraphBuilder
from engine.payload import Image
from engine.planning.compile import compile
from engine.session import Session
from remote.preview import Preview

BITS, BLOCK = 16, 16


def stamped(number: int, size: tuple[int, int] = (96, 256)) -> Any:
    """A grey picture with `number` in its top row: 16 blocks of 16 pixels, white for 1."""
    picture = np.full((*size, 3), 90, np.uint8)
    for bit in range(BITS):
        picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 if number >> bit & 1 else 0
    picture[BLOCK:, :, 0] = number % 200
    return picture


def number_in(picture: Any) -> int:
    """What `stamped` wrote, also after a lossy codec."""
    means = [picture[4 : BLOCK - 4, bit * BLOCK + 4 : (bit + 1) * BLOCK - 4].mean() for bit in range(BITS)]
    return sum((mean > 128) << bit for bit, mean in enumerate(means))


def on_canvas(believed: str) -> str:
    """JavaScript for a page with a canvas #picture: what `stamped` wrote on it, `believed`, its width and its height."""
    return f"""(() => {{
  const canvas = document.querySelector('#picture');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, {BLOCK}).data;
  let number = 0;
  for (let bit = 0; bit < {BITS}; bit++) {{
    const at = 4 * (canvas.width * {BLOCK // 2} + bit * {BLOCK} + {BLOCK // 2});
    if (pixels[at + 1] > 128) number |= 1 << bit;
  }}
  return [number, {believed}, canvas.width, canvas.height];
}})()"""


@operator("shown.film")
class Film(Operator):
    """Pictures that say which frame they are, `fps` a second."""

    def __init__(self, *, fps: float = 50.0, count: int = 60_000, width: int = 256, height: int = 96) -> None:
        self.fps, self.count, self.size = fps, count, (height, width)

    def __call__(self) -> Iterator[Image]:
        start = self.site.clock.now()
        for i in range(self.count):
            if not self.site.sleep_until(start + round(i * 1e9 / self.fps)):
                return
            yield Stamped(Image(stamped(i, self.size)), pts=round(i * 1e9 / self.fps))  # type: ignore[misc]


@operator("shown.keep")
def keep(image: Image, *, level: Annotated[int, Live(0, 9)] = 3) -> Image:
    """The picture as it is, with a parameter to turn."""
    return image


@operator("shown.paint", inplace="image")
def paint(image: Image) -> Image:
    """Writes to its input, or might."""
    return image


def film(*, clock: str = "live", **params: Any) -> Graph:
    graph = GraphBuilder("film", clock=clock)
    graph.node("film", "shown.film", **params)
    graph.node("keep", "shown.keep", image="film")
    graph.node("out", "sink.null", image="keep")
    return graph.build()


class Told(Session):
    """A session that tells its preview what happens, as the command line's does."""

    preview: Preview

    def event(self, what: str, node: str, seq: int, **facts: Any) -> None:
        super().event(what, node, seq, **facts)
        if hasattr(self, "preview"):
            self.preview.event({"at": self.clock.now(), "what": what, "node": node, "seq": seq, **facts})


@dataclass
class Shown:
    """A session that runs on a thread, with its preview."""

    session: Session
    preview: Preview
    errors: list[BaseException] = field(default_factory=list)

    @property
    def port(self) -> int:
        assert self.preview.server is not None
        return self.preview.server.port

    @property
    def token(self) -> str:
        return self.preview.token

    def get(self, path: str, *, host: str | None = None, token: bool = True, method: str = "GET", **headers: str) -> HTTPResponse:
        """An answer whose body has not been read. Header names have _ for -."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        named = {"Host": f"127.0.0.1:{self.port}" if host is None else host}
        named |= {"Authorization": f"Bearer {self.token}"} if token else {}
        for name, value in {**named, **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        answer.connection = connection  # type: ignore[attr-defined]
        return answer

    def read(self, path: str, **how: Any) -> tuple[int, bytes, Any]:
        """Status, body and headers of an answer."""
        answer = self.get(path, **how)
        try:
            return answer.status, answer.read(), answer.headers
        finally:
            answer.connection.close()  # type: ignore[attr-defined]

    def socket(self, *, token: str | None = None, **more: Any) -> ClientConnection:
        query = f"?token={self.token if token is None else token}" if token != "" else ""
        return connect(f"ws://127.0.0.1:{self.port}/ws{query}", max_size=None, compression=None, **{"proxy": None, "close_timeout": 1, **more})


@contextmanager
def shown(graph: Graph | None = None, **options: Any) -> Iterator[Shown]:
    """Run `graph` with a preview; afterwards nothing of it is left, and no packet was lost."""
    before = set(threading.enumerate())
    preview = Preview("127.0.0.1:0", **options)
    session = Told(compile(preview.graph(graph or film())))
    session.preview = preview
    run = Shown(session, preview)
    preview.attached(session)

    def going() -> None:
        try:
            session.run()
        except BaseException as error:
            run.errors.append(error)

    thread = threading.Thread(target=going, name="run")
    thread.start()
    try:
        yield run
    finally:
        session.stop()
        thread.join(20)
        preview.ended(session, None)
    assert not run.errors, run.errors
    session.check()
    for left in set(threading.enumerate()) - before:
        left.join(5)
    assert not [t.name for t in set(threading.enumerate()) - before], "threads are left"


class Socket:
    """The JSON side of a WebSocket of the preview, with the frames that come in between."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.messages: list[dict[str, Any]] = []
        self.next = 1

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        number, self.next = self.next, self.next + 1
        self.socket.send(json.dumps({"v": 1, "id": number, "op": op, **fields}))
        return self.until(lambda message: message.get("id") == number)

    def until(self, found: Any) -> dict[str, Any]:
        while True:
            message = self._take()
            if message is not None and found(message):
                return message

    def frame(self) -> tuple[dict[str, Any], bytes]:
        while not self.frames:
            self._take()
        return self.frames.pop(0)

    def _take(self) -> dict[str, Any] | None:
        data = self.socket.recv(timeout=20)
        if isinstance(data, bytes):
            (size,) = struct.unpack_from("<I", data)
            self.frames.append((json.loads(data[4 : 4 + size]), data[4 + size :]))
            return None
        message: dict[str, Any] = json.loads(data)
        self.messages.append(message)
        return message
