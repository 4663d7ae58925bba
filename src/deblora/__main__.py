"""``python -m deblora``."""

import sys

from deblora.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
