"""The live picture in TouchDesigner: the callbacks of a Script TOP.

Install the client into a folder that TouchDesigner's Python sees (Preferences, "Python 64-bit Module Path"), with the Python of the same
version: `pip install --target FOLDER ./bindings/python`. Make a Script TOP, put this text into its callbacks DAT, and set the address on its
page "Afterimage". The operator cooks with every frame of the project's clock and takes the newest picture there is; nothing here waits.
"""

from __future__ import annotations

import numpy as np
from afterimage_client import Subscriber

subscribers = {}


def onSetupParameters(scriptOp):
    page = scriptOp.appendCustomPage("Afterimage")
    page.appendStr("Url", label="Address")[0].default = "tcp://127.0.0.1:5555"
    page.appendStr("Stream", label="Stream")[0].default = "live"


def onPulse(par):
    pass


def onCook(scriptOp):
    url, stream = scriptOp.par.Url.eval(), scriptOp.par.Stream.eval()
    known = subscribers.get(scriptOp.path)
    if known is None or (known.url, known.stream) != (url, stream):
        if known is not None:
            known.close()
        known = subscribers[scriptOp.path] = Subscriber(url, stream, follow=True)
    frame = known.latest()
    if frame is None or frame.type not in ("Image", "Mask"):
        return
    # TouchDesigner's first row is the lowest one.
    scriptOp.copyNumpyArray(np.ascontiguousarray(frame.rgb[::-1]))
    scriptOp.store("age_ms", frame.age_now_ms())
    scriptOp.store("lost", known.counts.lost)
