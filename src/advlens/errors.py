"""Every error that advlens raises on purpose.

AdvlensError
├── SettingsError    wrong use: an option, an argument, a configuration file   (exit 2)
├── DataError        an image, data set or table that cannot be used           (exit 1)
├── ModelError       a model that cannot be built or audited                   (exit 1)
│   └── CheckpointError  a weights or checkpoint file that cannot be used      (exit 1)
├── NumericError     a value that is not finite, or a matrix without a norm    (exit 1)
└── RunError         a run folder that is taken, full or from another run      (exit 1)
    └── LostError    another of the processes that work together has ended     (exit 1)

Each message is one sentence for the user: what is wrong, where, and how to fix it.
"""


class AdvlensError(Exception):
    """Base of the family; the command line prints its message and exits with `exit_code`."""

    exit_code = 1


class SettingsError(AdvlensError):
    """Wrong usage: an option, an argument or a configuration file."""

    exit_code = 2


class DataError(AdvlensError):
    """An image, data set or table that cannot be used; the message names the file."""


class ModelError(AdvlensError):
    """A model that cannot be built or audited."""


class CheckpointError(ModelError):
    """A weights or checkpoint file that cannot be used; the message names file and tensor."""


class NumericError(AdvlensError):
    """A value that is not finite, or a matrix that defines no norm."""


class RunError(AdvlensError):
    """A run folder that is taken by another process, full, or made by another run."""


class LostError(RunError):
    """Another of the cooperating processes has ended."""
