"""Progress of a study in the terminal: one bar for all of it and one line per job at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from mir2bench.evaluation.executor import Failure
from mir2bench.evaluation.jobs import Job
from mir2bench.learning.progress import Progress


class Clock:
    """Steps done, their rate, and the time left.

    Training, attacking and playing run at different speeds, so each kind's seconds per step are measured apart; a kind
    that has not started yet is taken to be as fast as the others.

    Args:
        jobs: all that is to be done.
        workers: how many run at once.
        now: clock in seconds.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._workers = workers
        self._begun = now()
        self._running: dict[str, tuple[Job, float, int]] = {}  # key -> (job, start, steps so far)
        self._spent: dict[str, float] = {}  # kind -> worker-seconds in finished jobs
        self._done: dict[str, int] = {}  # kind -> steps in finished jobs
        self._left: dict[str, int] = {}  # kind -> steps in all other jobs
        for job in jobs:
            self._left[job.kind] = self._left.get(job.kind, 0) + job.steps
        self.total = sum(self._left.values())

    def started(self, job: Job) -> None:
        """A job began."""
        self._running[job.key] = (job, self._now(), 0)

    def progress(self, job: Job, steps: int) -> None:
        """A job has done so many of its steps."""
        _, start, _ = self._running[job.key]
        self._running[job.key] = (job, start, min(steps, job.steps))

    def ended(self, job: Job) -> None:
        """A job is finished, or failed."""
        _, start, _ = self._running.pop(job.key)
        self._left[job.kind] -= job.steps
        self._spent[job.kind] = self._spent.get(job.kind, 0.0) + self._now() - start
        self._done[job.kind] = self._done.get(job.kind, 0) + job.steps

    @property
    def completed(self) -> int:
        """Steps done."""
        return sum(self._done.values()) + sum(steps for *_, steps in self._running.values())

    @property
    def rate(self) -> float:
        """Steps per second since the start, all workers together."""
        return self.completed / max(self._now() - self._begun, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None while nothing is measured."""
        spent, done, left = dict(self._spent), dict(self._done), dict(self._left)
        for job, start, steps in self._running.values():
            spent[job.kind] = spent.get(job.kind, 0.0) + self._now() - start
            done[job.kind] = done.get(job.kind, 0) + steps
            left[job.kind] -= steps
        if not sum(done.values()):
            return None
        overall = sum(spent.values()) / sum(done.values())
        # Defenders are trained first, and their steps are by far the dearest: an attacker's cost about a tenth.
        pace = {kind: spent[kind] / done[kind] if done.get(kind) else overall / 10 for kind in left}
        longest = max(((job.steps - steps) * pace[job.kind] for job, _, steps in self._running.values()), default=0.0)
        return max(longest, sum(left[kind] * pace[kind] for kind in left) / self._workers)


class Monitor:
    """Shows a study's progress; a context manager, and the executor's listener.

    In a terminal it draws bars; elsewhere it prints a line for each job that trains or fails.

    Args:
        console: where to.
        jobs: what is to be done.
        workers: how many run at once.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], workers: int) -> None:
        self._console = console
        self._clock = Clock(jobs, workers)
        self._count = len(jobs)
        self._ended = 0
        self._lines: dict[str, TaskID] = {}
        self._bars = make_bars(console)
        self._all = self._bars.add_task("[bold]study", total=max(1, self._clock.total), note="")

    def __enter__(self) -> Monitor:
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def started(self, job: Job) -> None:
        """See `executor.Listener`."""
        self._clock.started(job)
        if job.kind != "rollout":  # over in a blink
            self._lines[job.key] = self._bars.add_task(f"  {job.label}", total=max(1, job.steps), note="")
        self._refresh()

    def progress(self, job: Job, progress: Progress) -> None:
        """See `executor.Listener`."""
        if progress.note:
            self._console.print(f"{job.label}: {progress.note}", highlight=False, markup=False, soft_wrap=True)
            return
        self._clock.progress(job, progress.steps)
        note = "  ".join(shown_metrics(progress))
        self._bars.update(self._lines[job.key], completed=progress.steps)
        if note:
            self._bars.update(self._lines[job.key], note=note)
        self._refresh()

    def finished(self, job: Job) -> None:
        """See `executor.Listener`."""
        self._end(job)
        if not self._console.is_terminal and job.kind != "rollout":
            self._console.print(f"{job.label}: {self._note()}", highlight=False, soft_wrap=True)

    def failed(self, job: Job, failure: Failure) -> None:
        """See `executor.Listener`."""
        self._end(job)
        self._console.print(
            f"[red]failed:[/red] {escape(f'{job.label}: {failure.message}')}", highlight=False, soft_wrap=True
        )

    def _end(self, job: Job) -> None:
        self._clock.ended(job)
        self._ended += 1
        if job.key in self._lines:
            self._bars.remove_task(self._lines.pop(job.key))
        self._refresh()

    def _refresh(self) -> None:
        self._bars.update(self._all, completed=self._clock.completed, note=self._note())

    def _note(self) -> str:
        left = self._clock.seconds_left
        remaining = "" if left is None else f", {duration(left)} left"
        return f"{self._ended}/{self._count} jobs, {self._clock.rate:,.0f} steps/s{remaining}"


def make_bars(console: Console) -> Bars:
    """Return empty progress bars, which show nothing where the console is no terminal."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def default_console() -> Console:
    """Return standard output as a console; wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(110, console.width))


def shown_metrics(progress: Progress) -> list[str]:
    """Return the metrics worth a place beside a bar."""
    names = ("greedy_return", "attacked_return")
    return [f"{name} {progress.metrics[name]:.2f}" for name in names if name in progress.metrics]


def duration(seconds: float) -> str:
    """Return seconds as "42 s", "3 min 05 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
