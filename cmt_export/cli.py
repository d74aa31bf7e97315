"""The `cmt` command: every subcommand is imported only when it runs, and every error on purpose is one line.

`cmt score` works where torch is not installed, and ``cmt --help`` imports neither torch nor onnxruntime.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import NoReturn

import click

from cmt_export.standard_output import checked_output
from runtime.causes import MORE_PROCESSES, NO_THREAD, has_run_out, remedy
from runtime.errors import CmtError

COMMANDS = {
    "train": ("cmt_export.train_command:train", "Train a network on labelled images."),
    "export": ("cmt_export.commands:export", "Write a checkpoint as one ONNX file with its reject rule inside."),
    "verify": ("cmt_export.commands:verify", "Check that a file decides like its checkpoint."),
    "calibrate": ("calibration.calibrate_command:calibrate", "Set the acceptance threshold on held-out benign images."),
    "quantize": ("calibration.quantize_command:quantize", "Write a file in INT8 that decides the same."),
    "attack": ("calibration.cli:attack", "Attack an exported file and count what it lets through."),
    "report": ("calibration.cli:report", "Turn results into one self-contained HTML page."),
    "compare": ("calibration.compare_command:compare", "Set every defence beside every other."),
    "score": ("runtime.cli:score", "Classify or reject every image of a folder."),
    "info": ("runtime.cli:info", "Show what a file says about itself."),
    "doctor": ("runtime.cli:doctor", "Say what works on this machine, and what is missing."),
    "bench": ("runtime.cli:bench", "Measure the cost of the guard on this machine."),
    "reproduce": (
        "cmt_export.reproduce_command:reproduce_paper",
        "Make the paper's tables and figures from a data set.",
    ),
    "demo": ("cmt_export.commands:demo", "Go the whole way on bundled data, in two minutes."),
}
"""Command name to where it lives and its line in ``cmt --help``, in the order of the work."""

_EXTRAS = {"torch": "train", "onnxscript": "train", "sklearn": "train", "onnx": "attack", "scipy": "attack"} | {
    "matplotlib": "attack",
    "jinja2": "attack",
    "onnxruntime": "cpu",
}
_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A click group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # the table above is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cmt", prog_name="cmt")
def cmt() -> None:
    """Train, ship, run and attack an image classifier that knows when to say no.

    Example: cmt demo
    """


def main() -> NoReturn:
    """Run `cmt`: errors on purpose become one line on standard error and the documented exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    with checked_output():
        code = _run()
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    try:
        # Without the standalone mode, click returns a command's exit code and raises everything else.
        code: object = cmt.main(prog_name="cmt", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CmtError as error:
        code = _complain(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted", _INTERRUPTED)
    except ModuleNotFoundError as error:
        code = _missing_module(error)
    except ImportError as error:
        if not _interrupted(error):
            raise
        code = _complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except OSError as error:
        if not has_run_out(error):
            raise
        code = _complain(f"expected a machine with room, got: {error.strerror}; {remedy(error, '')}", 1)
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        code = _complain(f"expected a machine with room, got: {error}; {MORE_PROCESSES}", 1)
    except MemoryError:
        code = _complain("expected enough memory, got none left; use smaller batches", 1)
    return code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interruption is behind an error: a compiled module that is being loaded reports it as its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _missing_module(error: ModuleNotFoundError) -> int:
    name = (error.name or "").partition(".")[0]
    if name not in _EXTRAS:
        raise error
    extra = _EXTRAS[name]
    return _complain(f"this command: expected the package {name}, got none; pip install 'cmt[{extra}]'", 2)


def _complain(message: str, code: int) -> int:
    click.secho(f"cmt: {message}", fg="red", err=True)
    return code
