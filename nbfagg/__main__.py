"""``python -m nbfagg`` is the command ``nbfagg``."""

import sys

from nbfagg.cli import main

if __name__ == "__main__":
    sys.exit(main())
