"""Work on what strangers sent, in a process of its own with limits on time, memory and files, and without a network.

The limits are the kernel's (`setrlimit`), set before anything of the entry is read. The network is taken away by a new
network namespace, in which there is no interface; where the system does not allow one, Python's sockets refuse to
connect instead. That is the second wall: the first is that nothing in an entry is ever executed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mir2bench.errors import Mir2BenchError
from mir2bench.leaderboard.entry import EntryError

TASKS = {
    "inspect": "mir2bench.leaderboard.check:inspect_task",
    "attack": "mir2bench.leaderboard.verify:attack_task",
    "play": "mir2bench.leaderboard.play:play_task",
    "picture": "mir2bench.leaderboard.picture:picture_task",
}
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR")}
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class TimeoutFailure(EntryError):
    """The work was stopped by a limit of time or memory, or its process died.

    Attributes:
        blame: whether what was examined is at fault: it took too much processor time, or crashed the process. The clock
            says nothing, as other work slows it too, nor does SIGKILL, which comes from outside or for want of memory.
    """

    def __init__(self, message: str, *, blame: bool = False) -> None:
        super().__init__(message)
        self.blame = blame


_CRASHES = ("SIGXCPU", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


def crashed(code: int) -> bool:
    """Return whether a process with this exit code ended by its own doing."""
    return -code in {getattr(signal, name) for name in _CRASHES}


@dataclass(frozen=True)
class Limits:
    """What one task may use.

    Attributes:
        cpu_s: processor seconds.
        wall_s: seconds on the clock.
        memory: bytes of address space. Libraries reserve several times of what they use.
        file: bytes of any one file that is written.
    """

    cpu_s: int = 120
    wall_s: int = 600
    memory: int = 12 * 2**30
    file: int = 256 * 2**20


def run_limited(
    task: str, arguments: Mapping[str, Any], limits: Limits, meanwhile: Callable[[], None] | None = None
) -> Any:
    """Do one of `TASKS` in a process with limits.

    Args:
        task: its name.
        arguments: plain data that the task is called with.
        limits: what it may use.
        meanwhile: called about once a second while waiting.

    Returns:
        What the task returned, plain data.

    Raises:
        EntryError: the task refused the entry; its own line.
        TimeoutFailure: a limit was reached, or the process died otherwise; its `blame` says whose fault that is.
    """
    order = json.dumps({"task": task, "arguments": dict(arguments), "limits": vars(limits)})
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="mir2bench-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-m", "mir2bench.leaderboard.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=scratch,
            env={**kept, **_ONE_THREAD, "PYTHONPATH": path, "MPLCONFIGDIR": scratch},
            start_new_session=True,
            text=True,
        )
        try:
            said, complaint = _wait(process, order, limits.wall_s, meanwhile)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    answer = said.rpartition("\n")[2]
    if process.returncode == -signal.SIGXCPU:
        raise TimeoutFailure(f"it took more than {limits.cpu_s} s of processor time and was stopped.", blame=True)
    if process.returncode != 0 or not answer:
        last = (complaint.strip().splitlines() or ["nothing was said"])[-1][:300]
        code = process.returncode
        raise TimeoutFailure(f"its process died with exit code {code}: {last}", blame=crashed(code))
    result = json.loads(answer)
    if "error" in result:
        raise EntryError(result["error"])
    return result["value"]


def _wait(
    process: subprocess.Popen[str], order: str, wall_s: int, meanwhile: Callable[[], None] | None
) -> tuple[str, str]:
    end = time.monotonic() + wall_s
    text: str | None = order
    while True:
        try:
            return process.communicate(text, timeout=1.0)
        except subprocess.TimeoutExpired as error:
            text = None  # it was sent with the first call
            if time.monotonic() > end:
                raise TimeoutFailure(f"it took more than {wall_s} s on the clock and was stopped.") from error
        if meanwhile is not None:
            meanwhile()


def limit_this_process(limits: Limits) -> str:
    """Set the limits and take the network away, and return how: "namespace" or "sockets"."""
    for kind, value in (
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # Two seconds of processor time between the signal that names the reason and the one that does not.
        last = value + 2 if kind == resource.RLIMIT_CPU and hard in (resource.RLIM_INFINITY, value + 2) else value
        resource.setrlimit(kind, (value, last))
    if _leave_network():
        return "namespace"
    # The hook itself, and the folder from which each Python that is started later reads it.
    importlib.import_module("mir2bench.leaderboard.no_network.sitecustomize")
    guard = os.path.join(os.path.dirname(os.path.abspath(__file__)), "no_network")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (guard, os.environ.get("PYTHONPATH", ""))))
    return "sockets"


def _leave_network() -> bool:
    import ctypes

    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    if unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):  # without the maps the process is nobody, which is fine too
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    return True


def main() -> None:
    """Read an order from standard input, do it under its limits, and write the answer as the last line of output."""
    order = json.loads(sys.stdin.read())
    limit_this_process(Limits(**order["limits"]))
    module, _, name = TASKS[order["task"]].partition(":")
    try:
        result = {"value": getattr(importlib.import_module(module), name)(**order["arguments"])}
    except Mir2BenchError as error:
        result = {"error": " ".join(str(error).split())}
    except MemoryError:
        result = {"error": "it needs more memory than it may have."}
    print(f"\n{json.dumps(result)}", end="", flush=True)


if __name__ == "__main__":
    main()
