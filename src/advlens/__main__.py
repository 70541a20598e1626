"""Run the command line as `python -m advlens`, which is the program `advlens` too."""

import sys

from advlens.signals import end_at_signals

end_at_signals()  # before the slow imports

from advlens.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
