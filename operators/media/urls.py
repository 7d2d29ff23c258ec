"""Addresses of pictures and sound: what a `url` parameter may say, and what FFmpeg is allowed to follow from there.

Invariant: an address is classified here before FFmpeg sees it, each kind opens with its own protocol and format whitelist, and nothing
that a *file* contains (a playlist, a concat script) can make the engine open a network address or another file. It opens nothing itself.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import MissingError, UsageError

FILE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi,flv,mpeg,mpegvideo,ogg,asf,gif,apng,yuv4mpegpipe,ivf,h264,hevc,nut,mxf,dv,m4v"
)
"""Demuxers a local file may use: containers of one file. Playlists (hls, dash, concat, sdp, image2) are left out on purpose."""

NETWORK = {
    "rtsp": "rtsp,rtp,rtcp,srtp,udp,tcp,tls", "rtsps": "rtsp,rtsps,rtp,rtcp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,tcp", "rtmps": "rtmps,tls,tcp",
    "http": "http,https,tcp,tls,crypto,httpproxy", "https": "https,http,tcp,tls,crypto,httpproxy",
    "udp": "udp", "rtp": "rtp,udp", "tcp": "tcp",
}  # fmt: skip
"""Schemes a source may read from the network, each with the protocols that FFmpeg may use for it."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv", ".mpg", ".mpeg", ".gif"})
_FRAGMENT = re.compile(r"#t=(?P<start>\d+(?:\.\d+)?)?(?:,(?P<end>\d+(?:\.\d+)?))?$")
_SCHEME = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):")
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata", "instance-data"})


@dataclass(frozen=True, slots=True)
class Address:
    """A classified address: `kind` is file, network, camera, screen or test; the rest is what `av.open` is to be told."""

    kind: str
    url: str  # as the user gave it, for messages
    target: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def endless(self) -> bool:
        """Whether the stream happens in real time and is to be held on to: a network stream, a camera, a screen."""
        return self.kind in ("network", "camera", "screen")


def classify(url: str, *, allow_private: bool = True) -> Address:
    """What `url` names. Raises UsageError for an address that no source may open, MissingError for a file that is not there."""
    if not url.strip():
        raise UsageError("the url is empty", fix='give a file, a camera number such as "0", rtsp://… or lavfi:…')
    check_characters(url)
    if url.isdecimal():
        return _camera(int(url), url)
    head, _, rest = url.partition(":")
    if head == "camera" and rest:
        return _camera(rest, url)
    if head == "screen":
        return _screen(rest, url)
    if head == "lavfi" and rest:
        return Address("test", url, rest, "lavfi")
    if url.startswith("file://"):
        from urllib.request import url2pathname

        return _file(url2pathname(urlsplit(url).path), url)
    match = _SCHEME.match(url)
    scheme = match["scheme"].lower() if match else ""
    if scheme in NETWORK and "://" in url:
        _check_host(url, allow_private)
        return Address("network", url, url, None, {"protocol_whitelist": NETWORK[scheme]})
    if url.startswith("/dev/video"):
        return Address("camera", url, url, "v4l2")
    if scheme and "://" in url:
        near = difflib.get_close_matches(scheme, [*NETWORK, "file"], n=2)
        hint = "did you mean " + " or ".join(f'"{n}://"' for n in near) + "?" if near else "there is " + ", ".join(f"{s}://" for s in NETWORK)
        raise UsageError(f"a source cannot read {scheme}:// addresses: {url}", fix=hint)
    if scheme in ("concat", "subfile", "data", "pipe", "fd", "crypto", "cache", "async"):
        raise UsageError(f"the protocol {scheme}: is not allowed in a source: {url}", fix="give the file itself")
    return _file(url, url)


def port_of(url: str) -> str | None:
    """What whoever listens at `url` has for himself alone, as `Operator.exclusive` says it: its port, on whatever address. None: a free one."""
    try:
        parts = urlsplit(url.replace("://*", "://0.0.0.0"))
        return f"port {parts.port}" if parts.port else f"file {url}" if parts.scheme == "ipc" else None
    except ValueError:
        return None  # `open` will say what is wrong with it


def split_span(url: str) -> tuple[str, float, float | None]:
    """`path#t=START,END` (W3C Media Fragments, seconds) taken apart: path, start, end; a url without a span has start 0 and no end."""
    match = _FRAGMENT.search(url)
    if not match:
        return url, 0.0, None
    return url[: match.start()], float(match["start"] or 0), float(match["end"]) if match["end"] else None


def with_span(url: str, start: float, end: float | None) -> str:
    """`url` with the span of it that a source delivers; unchanged for the whole."""
    if not start and end is None:
        return url
    return f"{url}#t={start:g}" + ("" if end is None else f",{end:g}")


def check_characters(text: str) -> None:
    """Raise UsageError where a path has line ends or tabs in it, as "out\\new.mp4" in double quotes has."""
    if any(ord(letter) < 32 for letter in text):
        what = "tab" if "\t" in text else "line end" if "\n" in text or "\r" in text else "control character"
        raise UsageError(f"{text!r} has a {what} in it", fix=r"put Windows paths in single quotes: 'out\new.mp4'")


def local_path(text: str) -> Path:
    """`text` as a path of this machine, `~` resolved. Raises UsageError for what no file can be called."""
    check_characters(text)
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{text[:80]!r} is no path: {error}") from error
    return path


def same_file(a: str, b: str) -> bool:
    """Whether two paths name the same file, through links and spelling; False where one does not exist."""
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):
        return False


def nearest_name(path: Path) -> str:
    """`did you mean "…"?` for a file that is not there, or what else is wrong with the way to it."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(f'"{folder / name}"' for name in near) + "?"
    return f"the folder {folder} exists, but holds no such file"


def _file(path: str, url: str) -> Address:
    where = local_path(path)
    if not where.exists():
        pictures = re.search(r"%0?\d*d|[*?]", where.name)
        hint = "for numbered pictures or a pattern use source.images" if pictures else nearest_name(where)
        raise MissingError(f"the video {path} does not exist", fix=hint)
    if where.is_dir():
        raise UsageError(f"{path} is a folder, not a video", fix="for a folder of pictures use source.images")
    if where.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"{path} is a picture, not a video", fix="for pictures use source.images")
    # The "file:" prefix keeps FFmpeg from reading a scheme into a name such as "a:b.mp4".
    return Address("file", url, f"file:{where}", None, {"protocol_whitelist": "file", "format_whitelist": FILE_FORMATS})


def _camera(which: int | str, url: str) -> Address:
    if sys.platform.startswith("linux"):
        return Address("camera", url, f"/dev/video{which}" if isinstance(which, int) else which, "v4l2")
    if sys.platform == "darwin":
        return Address("camera", url, f"{which}:none", "avfoundation")
    if isinstance(which, int):
        import av

        cameras = [d.name for d in av.enumerate_input_devices("dshow") if "video" in d.media_types]
        if which >= len(cameras):
            from engine.errors import DeviceError

            raise DeviceError(f"there is no camera {which}", fix=f"found {cameras or 'none'}; `engine devices` lists them")
        which = cameras[which]
    return Address("camera", url, f"video={which}", "dshow")


def _screen(rest: str, url: str) -> Address:
    if sys.platform.startswith("linux"):
        return Address("screen", url, rest or os.environ.get("DISPLAY", ":0"), "x11grab")
    if sys.platform == "darwin":
        return Address("screen", url, f"{rest or 'Capture screen 0'}:none", "avfoundation")
    return Address("screen", url, rest or "desktop", "gdigrab")


def _check_host(url: str, allow_private: bool) -> None:
    """Refuse cloud metadata and link-local hosts always, other private ones where the graph is not trusted."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"the address {url} is not well formed: {error}") from error
    if not host and parts.scheme not in ("udp", "rtp", "tcp"):
        raise UsageError(f"the address {url} names no host")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    if host.rstrip(".").lower() in _METADATA_HOSTS or (ip is not None and ip.is_link_local):
        raise UsageError(f"{host} is a link-local or metadata address, which a source never reads")
    if not allow_private and (host == "localhost" or (ip is not None and (ip.is_private or ip.is_loopback))):
        raise UsageError(f"{host} is a private address, which this source may not read", fix="set allow_private = true to trust it")
