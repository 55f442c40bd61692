"""Compiled programs kept on disk, for the processes to come."""

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

WORTH = 0.05  # seconds: what took less to compile is not kept
MOST = 1 << 29  # bytes of all that is kept; the programs that were not used for longest leave first
HEAD = hashlib.sha256().digest_size


@dataclass
class Config:
    """What holds for all solves of a process: `jaxgd.config`.

    `cache`: the folder where compiled programs are kept for the next process, 0.5 GB at most; True for the user's own
    folder for caches, False for none. None, the default, is what the environment says in `JAXGD_CACHE`, a folder or 0;
    True where it says nothing. Programs are kept nowhere where JAX's own cache is on (`jax_compilation_cache_dir`),
    which keeps them too, nor on a machine with several devices.
    """

    cache: bool | str | Path | None = None


config = Config()
"""The settings of this process, a `Config`."""


def folder() -> Path | None:
    """Return where programs are kept, or None."""
    settings: Any = jax.config
    # What is read from disk runs on the first device.
    if jax.device_count() > 1 or settings.jax_default_device not in (None, *jax.devices()):
        return None
    chosen = os.environ.get("JAXGD_CACHE", "") if config.cache is None else config.cache
    if settings.jax_compilation_cache_dir or chosen in (False, "0"):
        return None
    return _usual() if chosen in (True, "") else Path(str(chosen))


def key_of(lowered: Any, options: dict[str, Any]) -> str:
    """Return the name of a program: a digest of its code, and of what it is compiled with and for."""
    device = jax.devices()[0]
    about = (
        *(jax.__version__, version("jaxlib"), device.client.platform_version, device.device_kind),
        *(platform.machine(), _processor(), os.cpu_count(), os.environ.get("XLA_FLAGS"), sorted(options.items())),
    )
    return hashlib.sha256(f"{about}\n{lowered.as_text()}".encode()).hexdigest()


def read(path: Path, lowered: Any) -> Any:
    """Return the executable in a file, or None where there is none that is intact and the user's own."""
    # Whatever is wrong with it, it can be compiled anew.
    with contextlib.suppress(Exception):
        content = path.read_bytes()
        own = not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()
        if own and hashlib.sha256(content[HEAD:]).digest() == content[:HEAD]:
            from jax.experimental import serialize_executable  # noqa: PLC0415 - not where nothing is kept

            found = serialize_executable.deserialize_and_load(content[HEAD:], lowered.in_tree, lowered.out_tree)
            os.utime(path)
            return found
    return None


def keep(path: Path, executable: Any) -> None:
    """Keep an executable in a file, whole or not at all."""
    # Where the disk is full, the folder another's, or the program calls the host, it is compiled each time.
    with contextlib.suppress(Exception):
        from jax.experimental import serialize_executable  # noqa: PLC0415

        content = serialize_executable.serialize(executable)[0]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(content).digest() + content)
        Path(file.name).replace(path)
        _trim(path.parent)


def _trim(kept: Path) -> None:
    """Delete the programs that were not used for longest, until all take no more than `MOST` bytes."""
    files = sorted(((file.stat(), file) for file in kept.iterdir()), key=lambda pair: -pair[0].st_mtime)
    total = 0
    for about, file in files:
        total += about.st_size
        if total > MOST:
            file.unlink(missing_ok=True)


@cache
def _processor() -> str:
    """Return what kernels compiled on this machine may need of it."""
    told = ("model name", "flags", "Features", "CPU part")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    return "".join(line for line in first.splitlines() if line.startswith(told))


def _usual() -> Path:
    """Return the folder of this library among the user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "jaxgd" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxgd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgd"
