"""The program `advlens`, which is `python -m advlens` too."""

import sys

from advlens.signals import end_at_signals

end_at_signals()  # ahead of the imports that take time

from advlens.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
