"""The live picture in a window; Esc closes it. `python opencv_window.py [URL [STREAM]]`; needs opencv-python."""

from __future__ import annotations

import sys

import cv2
from afterimage_client import Subscriber


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555"
    stream = sys.argv[2] if len(sys.argv) > 2 else "live"
    with Subscriber(url, stream, follow=True) as frames:
        cv2.namedWindow(url, cv2.WINDOW_NORMAL)
        while cv2.waitKey(1) != 27 and cv2.getWindowProperty(url, cv2.WND_PROP_VISIBLE) > 0:
            try:
                frame = frames.read(timeout=0.05)
            except TimeoutError:
                continue  # the window stays alive while nothing comes
            if frame is None:
                break
            picture = frame.bgr.copy()
            text = f"frame {frame.seq}   {frame.age_ms:.0f} ms   lost {frames.counts.lost}"
            cv2.putText(picture, text, (10, picture.shape[0] - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
            cv2.imshow(url, picture)
    cv2.destroyAllWindows()


if __name__ == "__main__":
    main()
