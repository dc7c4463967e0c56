"""What a job may use before its process is ended, and how a study is asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mir2bench.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use; a job that needs more fails, and the others go on.

    Attributes:
        minutes: wall time; None for any.
        memory_gb: memory that its process holds, in units of 1e9 bytes; None for any.

    Raises:
        ConfigError: a limit is not positive, or memory is to be limited where /proc does not tell it.
    """

    minutes: float | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        for name in ("minutes", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"a job's limit {name} must be above 0, but it is {value}.")
        if self.memory_gb is not None and resident_gb(os.getpid()) is None:
            raise ConfigError("a job's memory can be limited under Linux only. Leave the limit off.")

    def __bool__(self) -> bool:
        return self.minutes is not None or self.memory_gb is not None

    def breach(self, process: int | None, seconds: float) -> str:
        """Return what a process uses too much of, or "".

        Args:
            process: its id.
            seconds: for how long it has worked on its job; below 0 if it has not begun.
        """
        if self.minutes is not None and seconds > 60 * self.minutes:
            return (
                f"it took longer than {self.minutes:g} minutes and was ended. Does it hang? --job-minutes allows more"
            )
        if self.memory_gb is not None and process is not None and (resident_gb(process) or 0.0) > self.memory_gb:
            return f"it held more than {self.memory_gb:g} GB of memory and was ended. --job-memory allows more"
        return ""


ANY = Limits()
"""No limits."""


def resident_gb(process: int) -> float | None:
    """Return the memory that a process holds, in units of 1e9 bytes; None if that cannot be told."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill, stop a study like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
