"""WebRTC by HTTP: WHEP (who posts an offer watches) and WHIP (who posts an offer sends), over aiortc, an optional package.

What is shared by `sink.webrtc` and `source.webrtc`; neither an operator nor a graph is known here.
"""
