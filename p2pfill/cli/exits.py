"""How a command ends: its exit code, and the one line that says why.

Whatever p2pfill raises on purpose, and whatever the system refuses, becomes `p2pfill: error: …` on stderr. A
traceback is for bugs only: an `InternalError` and anything unexpected passes through as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any

from p2pfill.errors import ConfigError, InternalError, ManifestError, P2PFillError


class ExitCode(IntEnum):
    """What scripts go by."""

    OK = 0
    FAILED = 1
    """The work was tried and did not succeed: a fill failed, a tree is not as published, a disk is full."""
    USAGE = 2
    """Arguments, configuration or an input file cannot be used, or name nothing that there is; nothing was done."""
    UNREACHABLE = 3
    """The tracker does not answer."""
    TIMEOUT = 4
    """What was waited for did not come in the time given."""
    FOUND = 5
    """What was looked at is not as it should be: `p2pfill fleet lint` has findings."""
    INTERRUPTED = 130
    """Ctrl-C."""


USAGE_STATUSES = (400, 404)
"""Of the tracker: what was sent cannot be read, or names something that is not there. Nothing was done then."""

EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 failed; 2 wrong usage, configuration or input; 3 tracker unreachable; "
    "4 not done in time; 5 something was found; 130 interrupted."
)


class CommandFailed(P2PFillError):
    """A command's work is done and its outcome is bad; `code` says how."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def run_app(app: Callable[..., Any], arguments: Sequence[str] | None) -> int:
    """Run a typer app and return its exit code, errors shown as one line. Bugs of ours pass through."""
    try:
        code = app(args=arguments, prog_name="p2pfill", standalone_mode=False)
        sys.stdout.flush()
    except _usage_error() as error:
        return _fail(_usage_line(error), ExitCode.USAGE)
    except BrokenPipeError:
        return _end_of_pipe()
    except (P2PFillError, OSError, BaseExceptionGroup) as error:
        return _end_of_error(error)
    except KeyboardInterrupt:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    if code == ExitCode.INTERRUPTED:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    return code if isinstance(code, int) else ExitCode.OK


class _NoParser(P2PFillError):
    """Stands for the parser's own error where typer was not needed; nobody raises it."""


def _usage_error() -> type[Exception]:
    """Return the parser's own error, of which typer does not export the name."""
    typer = sys.modules.get("typer")
    return _NoParser if typer is None else typer.BadParameter.__bases__[0]


def _end_of_error(error: BaseException) -> int:
    leaves = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    # Several tasks that fail together mostly fail of one cause: the first line says enough, and bugs go before all.
    for leaf in leaves:
        if isinstance(leaf, InternalError) or not isinstance(leaf, (P2PFillError, OSError)):
            raise error
    if isinstance(leaves[0], BrokenPipeError):
        return _end_of_pipe()
    return _fail(_line_of(leaves[0]), exit_code_of(leaves[0]))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code that an error of p2pfill or of the system stands for."""
    if isinstance(error, CommandFailed):
        return error.code
    if isinstance(error, (ConfigError, ManifestError)):
        return ExitCode.USAGE
    # By name: importing the client would cost every command the import of trio.
    if type(error).__name__ == "TrackerUnreachable":
        return ExitCode.UNREACHABLE
    if type(error).__name__ == "TrackerRefused" and getattr(error, "status", 0) in USAGE_STATUSES:
        return ExitCode.USAGE
    return ExitCode.FAILED


def _line_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = error.filename if isinstance(error.filename, str) else ""
        return f"{name + ': ' if name else ''}{error.strerror}"
    return str(error) or type(error).__name__


def _usage_line(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "p2pfill"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    # What has shown its help already, as a group of commands without one, has no message of its own.
    return f"{str(message).rstrip('.') or 'a command is lacking'}; see {path} --help"


def _fail(line: str, code: ExitCode) -> int:
    # One line: a remote's message with line ends in it must not look like output of ours.
    shown = "".join(char if char.isprintable() else " " for char in line)
    try:
        print(f"p2pfill: error: {shown}" if code != ExitCode.INTERRUPTED else f"p2pfill: {shown}", file=sys.stderr)
    except BrokenPipeError:
        return _end_of_pipe()
    return code


def _end_of_pipe() -> int:
    """Whoever read our output has seen enough (`p2pfill status | head`): end quietly."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)
    return ExitCode.FAILED
