"""Every exception this project raises on purpose, and the exit code each becomes on the command line.

```
CmtError                    1   stopped: diverged, disk full, cannot write
├── UsageError              2   an argument, an image or a data set is not what was asked for
│   └── ImageError          2   one image file cannot be used; `reason` is the word that goes into its row
├── ModelError              3   the model file is invalid or not to be trusted
│   └── StaleError          3   its threshold or Classmap was measured on another graph or precision
├── DeviceError             4   the device asked for does not really run
├── SomeInputsFailed        5   done, and some inputs failed
└── GateFailed              6   a gate failed: `verify`, `attack --fail-if`
```
"""

from __future__ import annotations


class CmtError(Exception):
    """Base of all errors raised on purpose; its message is one line: what was expected, what came, how to mend it."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    """Return the message of a foreign error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class UsageError(CmtError, ValueError):
    """An argument, an image array or a data set is not what was asked for."""

    exit_code = 2


class ImageError(UsageError):
    """One image file cannot be used.

    Attributes:
        reason: The machine-readable word for the verdict row, e.g. ``unreadable`` or ``too-large``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        """Keep `reason` beside the message for people."""
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `reason` when the error crosses a process boundary."""
        return (_image_error, (str(self), self.reason))


def _image_error(message: str, reason: str) -> ImageError:
    return ImageError(message, reason=reason)


class ModelError(CmtError):
    """The model file is invalid or not to be trusted."""

    exit_code = 3


class StaleError(ModelError):
    """The threshold or the Classmap of a file was measured on another graph or another precision."""


class DeviceError(CmtError):
    """The device asked for does not really run here."""

    exit_code = 4


class SomeInputsFailed(CmtError):  # noqa: N818
    """The work is done and some inputs failed; each has a row with its reason."""

    exit_code = 5


class GateFailed(CmtError):  # noqa: N818
    """A gate the caller asked for does not hold."""

    exit_code = 6
