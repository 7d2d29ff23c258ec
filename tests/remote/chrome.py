"""A headless Chromium for tests and benches, driven by its DevTools protocol over a plain WebSocket. Needs a `chromium` on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-sync", "--metrics-recording-only", "--mute-audio", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--remote-debugging-port=0", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


def program() -> str | None:
    """The Chromium of this machine, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chrome:
    """One browser with one page. `evaluate` runs JavaScript in it and returns what it gives; promises are awaited."""

    def __init__(self, width: int = 1440, height: int = 900, scale: float = 1.0) -> None:
        self._size = (width, height, scale)
        self._next = 0
        self._around = ExitStack()
        self.said: list[str] = []  # what the page wrote to its console, and its uncaught errors

    def __enter__(self) -> Self:
        from websockets.sync.client import connect

        found = program()
        assert found is not None
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = [*FLAGS, f"--user-data-dir={self._folder.name}", f"--window-size={self._size[0]},{self._size[1]}", "about:blank"]
        self._process = subprocess.Popen([found, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port, path = self._address()
            self._socket = self._around.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None))
            target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self.resize(*self._size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._around.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _address(self) -> tuple[str, str]:
        file = Path(self._folder.name, "DevToolsActivePort")
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            lines = file.read_text().split("\n") if file.exists() else []
            if len(lines) > 1 and lines[1]:
                return lines[0], lines[1]
            time.sleep(0.05)
        raise RuntimeError("the browser does not start")

    def _call(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._next += 1
        number = self._next
        self._socket.send(json.dumps({"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]  # type: ignore[no-any-return]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.said.append("uncaught: " + details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled":
                words = " ".join(str(a.get("value", a.get("description", ""))) for a in params["args"])
                self.said.append(f"{params['type']}: {words}")
            case "Log.entryAdded":
                self.said.append(f"{params['entry']['level']}: {params['entry']['text']}")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command to the page."""
        return self._call(method, session=self._session, **params)

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Show the page as a screen of this size would; below 600 as a phone does."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression; promises are awaited. Raises RuntimeError with what it threw."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def until(self, script: str, timeout: float = 30.0) -> Any:
        """Wait until an expression is true; its value. Raises AssertionError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if value := self.evaluate(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not true within {timeout:g} s: {script}; the page said {self.said[-5:]}")

    def picture(self, *, whole: bool = False, format: str = "png", **more: Any) -> bytes:
        """A screenshot of what is seen, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format=format, captureBeyondViewport=whole, **more)
        return base64.b64decode(shot["data"])
