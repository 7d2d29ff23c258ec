"""`python -m operators.train.embedded`."""

import sys

from operators.train.embedded import main

if __name__ == "__main__":
    sys.exit(main())
