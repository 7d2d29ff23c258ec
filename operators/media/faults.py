"""Codec faults in clear words: one place that turns what PyAV raises into the engine's errors.

It keeps the invariant that no PyAV exception leaves the operators, and that an address in a message carries no credentials (EngineError
scrubs). It knows nothing of streams in progress: whether a fault ends a stream is its caller's decision.
"""

from __future__ import annotations

import errno

from engine.errors import DeviceError, EngineError, MediaError, MissingError

_CONNECT = "is the server running, and are host, port and path right?"


def explain(error: BaseException, where: str, *, doing: str = "open", device: bool = False) -> EngineError:
    """The typed error for what PyAV (or the operating system) raised while `doing` something with `where`."""
    import av

    if isinstance(error, EngineError):
        return error
    number = getattr(error, "errno", None)
    what = getattr(error, "strerror", None) or str(error) or type(error).__name__
    head = f"cannot {doing} {where}: "
    if device:
        return DeviceError(f"{head}{what}", fix="`engine devices` lists what is connected; another program may hold the device")
    if number == errno.ENOSPC:
        return MediaError(f"{head}the disk is full", fix="free some space or write elsewhere; what was written so far is kept")
    if number == errno.EFBIG:
        return MediaError(f"{head}the file reached its size limit", fix="write to another disk; what was written so far is kept")
    if number == errno.EROFS:
        return MediaError(f"{head}the file system is read-only", fix="write to another folder")
    if isinstance(error, PermissionError):
        return MediaError(f"{head}permission denied", fix="check the rights of the file and its folder")
    if isinstance(error, FileNotFoundError) and doing not in ("open", "read"):
        return MediaError(f"{head}its folder is not there", fix="was it moved or removed during the run?")
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{head}no such file", fix="check the path")
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return MediaError(f"{head}the server wants a user name and a password", fix="put them into the URL through ${ENVIRONMENT} variables")
    if isinstance(error, av.error.HTTPError):
        return MediaError(f"{head}the server answered {what!r}", fix="check the path of the URL")
    if isinstance(error, (av.error.ExitError, TimeoutError)):
        return MediaError(f"{head}no answer within the time limit", fix=f"{_CONNECT} `open_timeout` sets the limit")
    if isinstance(error, ConnectionError):
        return MediaError(f"{head}{what.lower()}", fix=_CONNECT)
    if isinstance(error, av.error.ProtocolNotFoundError):
        return MediaError(f"{head}this kind of address is not supported or not allowed here")
    if isinstance(error, av.error.DecoderNotFoundError):
        return MediaError(f"{head}no decoder for its codec", fix="convert it to H.264 first")
    if isinstance(error, av.error.EOFError):
        return MediaError(f"{head}it holds no frame: it ends after its header", fix="was it copied to its end?")
    if isinstance(error, av.error.InvalidDataError) or (doing == "open" and isinstance(error, av.error.ArgumentError)):
        return MediaError(f"{head}not a video this engine can read, or damaged from its start", fix="does it play in a video player?")
    if isinstance(error, OSError) and number:
        return MediaError(f"{head}{what}")
    if isinstance(error, av.error.FFmpegError):
        return MediaError(f"{head}{what.lower()}")
    return MediaError(f"{head}{type(error).__name__}: {what}")
