"""CURVE keys of ZeroMQ sockets: who may listen where, and who may talk to whom (RFC 26/27; CurveCP by D. J. Bernstein).

A server holds a key pair and the public keys that it allows; a client holds a pair of its own and the server's public key. Keys are 40
characters of Z85, or files as `zmq.auth.create_certificates` writes them. Invariant: no secret key is ever part of a message or a repr. It
knows sockets, not what travels on them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_LINE = re.compile(r"^\s*(public|secret)-key\s*=\s*\"(.{40})\"", re.MULTILINE)


class KeyProblem(ValueError):
    """A key that cannot be used, or an endpoint that may not be opened. The message says what to do."""


@dataclass(frozen=True)
class Keys:
    """A key pair, or a public key alone."""

    public: bytes
    secret: bytes | None = field(default=None, repr=False)


def generate() -> Keys:
    """A new pair."""
    import zmq

    return Keys(*zmq.curve_keypair())


def write(keys: Keys, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Write NAME.key, to be given to the other side, and NAME.key_secret, readable by its owner only. Never replaces a file."""
    if keys.secret is None:
        raise KeyProblem("a public key alone is not a pair")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    public, secret = place / f"{name}.key", place / f"{name}.key_secret"
    head = "#   Afterimage: CURVE key of ZeroMQ sockets.{note}\nmetadata\ncurve\n"
    line = f'    public-key = "{keys.public.decode()}"\n'
    _new(public, 0o644, head.format(note=" Public: give it to the other side.") + line)
    _new(secret, 0o600, head.format(note=" SECRET: keep it where it is.") + line + f'    secret-key = "{keys.secret.decode()}"\n')
    return public, secret


def _new(path: Path, mode: int, text: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise KeyProblem(f"{path} is there already: a key is not replaced by accident") from None


def read(key: str | os.PathLike[str], *, secret: bool = False) -> Keys:
    """The key in a file, or 40 characters of Z85 (a public key). `secret`: it must be a pair. Raises KeyProblem."""
    text = os.fspath(key)
    if _Z85.fullmatch(text) and not Path(text).exists():
        if secret:
            raise KeyProblem("a secret key is read from a file, so that it stands in no command line")
        return Keys(text.encode())
    try:
        with open(text, encoding="utf-8") as file:
            found = dict(_LINE.findall(file.read(65_536)))
    except (OSError, UnicodeDecodeError) as error:
        raise KeyProblem(f"no key can be read from {text}: {getattr(error, 'strerror', None) or error}") from None
    if "public" not in found or (secret and "secret" not in found):
        raise KeyProblem(f"{text} holds no {'secret' if secret else 'public'} key; write one with: engine keys NAME")
    if any(_Z85.fullmatch(value) is None for value in found.values()):
        raise KeyProblem(f"{text}: a key is not 40 characters of Z85")
    return Keys(found["public"].encode(), found["secret"].encode() if "secret" in found else None)


def allowed(places: Iterable[str | os.PathLike[str]]) -> frozenset[bytes]:
    """The public keys named by `places`: keys, files, and folders of `*.key` files. Raises KeyProblem where there is none."""
    found: set[bytes] = set()
    for place in places:
        files = sorted(Path(place).glob("*.key")) if Path(place).is_dir() else [place]
        found.update(read(file).public for file in files)
    if not found:
        raise KeyProblem("the list of allowed clients is empty: nobody could connect; name their public keys")
    return frozenset(found)


# ---------------------------------------------------------------- sockets


@dataclass(frozen=True)
class Guard:
    """The server's side: its pair, and the public keys (Z85) of the clients it lets in."""

    keys: Keys
    allow: frozenset[bytes]

    @classmethod
    def load(cls, key: str | os.PathLike[str], allow: Iterable[str | os.PathLike[str]]) -> Guard:
        """From a `.key_secret` file and what `allowed` takes. Raises KeyProblem."""
        return cls(read(key, secret=True), allowed(allow))

    def secure(self, context: Any, socket: Any) -> Callable[[], None]:
        """Make `socket`, not bound yet, accept allowed clients only; the result, called after it was closed, ends the handler's thread.

        One handler per context: give each such socket a context of its own.
        """
        from zmq.auth.thread import ThreadAuthenticator

        guard = ThreadAuthenticator(context)
        guard.start()
        # pyzmq hands the key over as Z85 already; encoding it once more would lock everybody out.
        guard.configure_curve_callback(domain="*", credentials_provider=_Allow(self.allow))
        socket.curve_secretkey, socket.curve_publickey = self.keys.secret, self.keys.public
        socket.curve_server = True
        return lambda: guard.stop()


class _Allow:
    def __init__(self, allow: frozenset[bytes]) -> None:
        self._allow = allow

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self._allow


@dataclass(frozen=True)
class Pass:
    """The client's side: its own pair and the server's public key."""

    keys: Keys
    server: bytes

    @classmethod
    def of(cls, server: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None = None) -> Pass | None:
        """As `load`; None where no keys are given. Raises KeyProblem."""
        if server is None and key is not None:
            raise KeyProblem("key is of use together with server_key only: name the other side's public key")
        return None if server is None else cls.load(server, key)

    @classmethod
    def load(cls, server: str | os.PathLike[str], key: str | os.PathLike[str] | None = None) -> Pass:
        """From the server's public key and a `.key_secret` file of one's own. Raises KeyProblem."""
        return cls(generate() if key is None else read(key, secret=True), read(server).public)

    def secure(self, socket: Any) -> None:
        """Make `socket`, not connected yet, talk to that server only."""
        socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = self.keys.secret, self.keys.public, self.server


def connect(socket: Any, url: str) -> None:
    """Connect, as soon as somebody listens there. Raises KeyProblem where `url` is no address."""
    import zmq

    port = url.rpartition(":")[2]
    try:
        if url.startswith("tcp:") and not (port.isdecimal() and 0 < int(port) < 65_536):
            raise KeyProblem(f"{url} has no port from 1 to 65535; write tcp://HOST:5555")
        socket.connect(url)
    except zmq.ZMQError as error:
        raise KeyProblem(f"{url} is no address to connect to: {error.strerror}; write tcp://HOST:5555, or ipc://FILE") from None


def local(endpoint: str) -> bool:
    """Whether `endpoint` can be reached from this machine only: loopback, `ipc://`, `inproc://`."""
    scheme, _, rest = endpoint.partition("://")
    if scheme in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0].strip("[]").lower()
    return scheme == "tcp" and (host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None)


def check_bind(endpoint: str, *, secured: bool, insecure: bool, what: str) -> None:
    """Refuse to open an endpoint to other machines without keys, unless that is asked for in so many words. Raises KeyProblem."""
    if not (local(endpoint) or secured or insecure):
        raise KeyProblem(
            f"{what}: {endpoint} can be reached from other machines, and everybody there could use it; name a key and the clients it lets in, "
            "bind 127.0.0.1, or say insecure"
        )
