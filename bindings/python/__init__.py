"""Programs that plug into a running Afterimage graph: read its frames, change its parameters. Needs numpy, pyzmq and msgpack only.

    from afterimage_client import Subscriber      # inside this repository: from bindings.python import Subscriber

    with Subscriber("tcp://127.0.0.1:5555", stream="live") as frames:
        for frame in frames:
            print(frame.seq, frame.age_ms, frame.array.shape)
"""
