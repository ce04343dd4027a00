"""``python -m cef_trio`` is ``cef-trio``."""

import sys

from cef_trio.cli import main

if __name__ == "__main__":
    sys.exit(main())
