"""What is said where nothing was solved: a line or two, and of the user's own code the frames that led there."""

import os
import re
import sysconfig
import traceback
from pathlib import Path

import jax

from jaxgd.cli.data import Opened
from jaxgd.cli.loss import Loaded, OwnError
from jaxgd.cli.report import at_shell

LIBRARIES = (str(Path(__file__).parent.parent) + os.sep, sysconfig.get_paths()["stdlib"], "<frozen")
FRAMES = 6  # of a traceback that are shown
PLAIN = (ValueError, TypeError, OSError, ImportError)  # whose messages say all, without their names


def blamed(error: Exception, loss: Loaded, data: Opened) -> Exception:
    """Return what a solve raised, or an error that says that it was the loss, and what it may be about."""
    tried = re.findall(r"\w+: (.*)", str(error).partition("Tried:\n")[2])
    if tried and len({line.partition(": ")[2] or line for line in tried}) == 1:
        # What a loss raises whatever the start is no matter of the start: it is raised again, with its frames.
        try:
            jax.eval_shape(loss.function, 0.0, *[] if data.data is None else [data.at_hand])
        except Exception as again:  # noqa: BLE001 - whatever a loss raises
            error = again
    if not _frames(error):
        return error
    found = OwnError(f"LOSS {loss.name} fails")
    found.__cause__ = error
    notes = [note for note in getattr(error, "__notes__", []) if "removed its internal frames" not in note]
    found.hint = "Without --init, one number is tried as params." if tried else " ".join(notes)
    return found


def error_text(error: Exception, *, with_traceback: bool) -> str:
    """Return what is printed of an error."""
    if with_traceback:
        return "".join(traceback.format_exception(error)).rstrip()
    failed = error.__cause__ if isinstance(error, OwnError) else None
    if not isinstance(error, OwnError) or failed is None:
        message = str(
            error.args[1] if isinstance(error, OSError) and len(error.args) > 1 and not error.filename else error
        )
        named = message if message and isinstance(error, PLAIN) else f"{type(error).__name__}: {message}"
        return f"jaxgd: error: {at_shell(named)}"
    frames = _frames(failed)
    lines = ["Traceback (most recent call last):\n", *frames] if frames else []
    *where, last = traceback.format_exception_only(type(failed), failed)[
        : None if isinstance(failed, SyntaxError) else 1
    ]
    hint = f"\n{at_shell(error.hint)}" if error.hint else ""
    return f"{''.join([*lines, *where])}jaxgd: error: {error}: {last.strip()}{hint}"


def _frames(error: BaseException) -> list[str]:
    """Return the lines of a traceback that are of the user's own files."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return traceback.format_list(own[-FRAMES:])


def _is_library(file: str) -> bool:
    return file.startswith(LIBRARIES) or "site-packages" in file or "dist-packages" in file
