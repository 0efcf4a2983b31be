"""`python -m wavefold`."""

import sys

from wavefold.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
