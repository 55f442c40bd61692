"""A run as it lies on disk: plain arrays, and words that say what it is of."""

import contextlib
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

FORMAT = 7  # of the file; another one is refused
WHOLE = 64 << 20  # bytes of an array that are looked at: all of a smaller one, and as many of a larger one, in pieces
PIECES = 64
CLOSE = 1e-4  # relative difference of numbers that other devices may round apart
# What reading a file raises that is none, was cut short, or is spoilt anywhere.
SPOILT = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


class Saved(NamedTuple):
    """A run, or the runs that a solve has come to one after the other."""

    parts: list[dict[str, Any]]  # of each run: what it is of, in words and numbers that JSON holds
    arrays: dict[str, np.ndarray]  # by the number of the run and a name


def write(path: Path, saved: Saved, draft: Path) -> None:
    """Save so that the file is whole at every moment: a draft is written, brought to disk, and renamed."""
    about = json.dumps({"format": FORMAT, "names": sorted(saved.arrays), "parts": saved.parts}).encode()
    try:
        with draft.open("wb") as file:
            np.savez(file, about=np.frombuffer(about, np.uint8), **saved.arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    _folder_to_disk(path.parent)


def _folder_to_disk(folder: Path) -> None:
    """Bring a renaming to disk, where folders can be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: Path) -> Saved:
    """Return what was saved; nothing in the file is executed."""
    if not path.is_file():
        msg = (
            f"`resume`: there is no checkpoint {str(path)!r}. Leave `resume` out to begin,"
            " as `resume=path if os.path.exists(path) else None` does."
        )
        raise FileNotFoundError(msg)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        about = json.loads(arrays.pop("about").tobytes())
        version, parts = about["format"], about["parts"]
        # A zip file guards what is in its members, not what they are called.
        if version == FORMAT and about["names"] != sorted(arrays):
            msg = "the names in it are not those that were written"
            raise ValueError(msg)
        parts = [dict(part) for part in parts]
    except SPOILT as error:
        msg = f"`resume`: {str(path)!r} is no checkpoint, or it was cut short: {error}. Begin anew, without `resume`."
        raise ValueError(msg) from error
    if version != FORMAT:
        msg = (
            f"`resume`: {str(path)!r} has format {version}; this version of jaxgd reads format {FORMAT}."
            " Resume with the version that wrote it."
        )
        raise ValueError(msg)
    return Saved(parts, arrays)


def differences(was: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return in words in what two runs differ, by the words that describe them."""
    changed: dict[str, str] = {}
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if old != new and not (name == "data" and _close(old, new)):
            known = not (_is_print(old) or _is_print(new))
            changed[name] = f"{name} (was {old}, is {new})" if known else f"{name} (another one)"
    return changed


def _close(old: Any, new: Any) -> bool:
    """Whether numbers made of all rows are the same, but for rounding."""
    if not (isinstance(old, list) and isinstance(new, list)) or len(old) != len(new):
        return False
    return bool(np.allclose(old, new, rtol=CLOSE, atol=0, equal_nan=True))


def _is_print(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("#")


def fingerprint(tree: Any) -> str:
    """Return a short text that differs where arrays, or a text, differ; of large arrays pieces are looked at."""
    code = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, str):
            code = zlib.crc32(leaf.encode(), code)
            continue
        code = zlib.crc32(f"{np.shape(leaf)} {getattr(leaf, 'dtype', type(leaf))}".encode(), code)
        for piece in _pieces(leaf):
            code = zlib.crc32(np.ascontiguousarray(piece).view(np.uint8).data, code)
    return f"#{code:08x}"


def _pieces(leaf: Any) -> list[np.ndarray]:
    size = getattr(leaf, "nbytes", 0)
    if size <= WHOLE:
        return [np.atleast_1d(np.asarray(leaf))]
    rows = len(leaf)
    length = max(1, WHOLE // (size // rows) // PIECES)
    starts = np.unique(np.linspace(0, max(rows - length, 0), PIECES).astype(int))
    return [np.asarray(leaf[start : start + length]) for start in starts]
