"""A study: who is evaluated where and how, done from the plan to the report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import mir2bench
from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation.contenders import Contender, resolve_contenders
from mir2bench.evaluation.executor import Failure, default_workers, execute
from mir2bench.evaluation.files import plain, replace_file, write_json
from mir2bench.evaluation.jobs import KINDS, Job, attacker_config, plan
from mir2bench.evaluation.monitor import Monitor, default_console
from mir2bench.evaluation.protocol import BUDGETS, Budget, Protocol, get_budget, get_protocol
from mir2bench.evaluation.report import print_summary, write_report
from mir2bench.evaluation.scores import collect_curves, collect_scores, compute_time, environment
from mir2bench.evaluation.statistics import summarize, tabulate
from mir2bench.evaluation.store import Store
from mir2bench.policies import read_bundle
from mir2bench.registration import VariantSpec, spec

DEFAULT_VARIANT = "mir2bench/Rendezvous10-adv1-v0"
DEFAULT_ALGORITHM = "mir2"


@dataclass(frozen=True)
class Study:
    """The resolved configuration of an evaluation.

    Attributes:
        variants: where.
        contenders: who.
        protocol: which attackers and partitions.
        budget: how much work.
    """

    variants: tuple[VariantSpec, ...]
    contenders: tuple[Contender, ...]
    protocol: Protocol
    budget: Budget

    @classmethod
    def resolve(
        cls,
        algorithms: Sequence[str] = (),
        *,
        variants: Sequence[str] = (),
        policies: Sequence[str | Path] = (),
        budget: str | Budget = "quick",
        protocol: str | Protocol = "paper-v1",
        seeds: int | None = None,
        settings: Sequence[str] = (),
    ) -> Study:
        """Look up and check everything before any work is done.

        Args:
            algorithms: defenders to train; by default `mir2`, unless policies are given.
            variants: ids; by default those of the policies, or `Rendezvous10-adv1-v0`.
            policies: bundles to evaluate as they are.
            budget: a name or a `Budget`.
            protocol: a name or a `Protocol`.
            seeds: training seeds per defender; by default the budget's number.
            settings: "KEY=VALUE" or "ALGORITHM.KEY=VALUE".

        Raises:
            UnknownNameError, ConfigError, PolicyError: what was named does not exist, does not fit or is damaged.
        """
        budget = get_budget(budget) if isinstance(budget, str) else budget
        if seeds is not None:
            budget = dataclasses.replace(budget, defender_seeds=seeds)
        if not algorithms and not policies:
            algorithms = (DEFAULT_ALGORITHM,)
        if not variants:
            variants = sorted({read_bundle(p)["variant"] for p in policies}) or (DEFAULT_VARIANT,)
        specs = tuple(spec(v) for v in variants)
        repeated = [s.id for i, s in enumerate(specs) if s in specs[:i]]
        if repeated:
            raise ConfigError(f"{repeated[0]} is named twice. Name each variant once.")
        contenders = resolve_contenders(algorithms, policies, settings, range(budget.defender_seeds), specs)
        return cls(
            variants=specs,
            contenders=tuple(contenders),
            protocol=get_protocol(protocol) if isinstance(protocol, str) else protocol,
            budget=budget,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all that determines the results, as plain data."""
        return {
            "mir2bench": mir2bench.__version__,
            "protocol": self.protocol.to_dict(),
            "budget": dataclasses.asdict(self.budget),
            "variants": [variant.to_dict() for variant in self.variants],
            "contenders": [contender.to_dict() for contender in self.contenders],
            "attackers": {
                variant.id: {name: attacker_config(name, variant) for name in self.protocol.trained}
                for variant in self.variants
                if variant.n_adversaries
            },
        }

    def jobs(self) -> list[Job]:
        """Return the plan."""
        return plan(self.protocol, self.budget, self.variants, self.contenders)

    def why_not_board(self) -> str:
        """Return why the results may not enter the leaderboard, or ""."""
        if not self.budget.board:
            return f"the {self.budget.name} budget is for a first look"
        needed = BUDGETS[self.budget.name].defender_seeds if self.budget.name in BUDGETS else 1
        for contender in self.contenders:
            if contender.kind != "scripted" and len(contender.seeds) < needed:
                return f"{contender.name} has {len(contender.seeds)} training seeds of {needed}"
        return ""

    def run(
        self,
        out: Path,
        *,
        workers: int | None = None,
        resume: bool = False,
        console: Console | None = None,
        command: str = "",
    ) -> dict[str, Any]:
        """Do all jobs that are not done yet, and write scores, summary and report.

        Args:
            out: the study folder.
            workers: processes; None takes one per core, 1 works in this process.
            resume: continue a study that lies in `out`.
            console: where progress and results are shown; None for standard output.
            command: how to run the same again, for the report.

        Returns:
            The content of `summary.json`.

        Raises:
            StudyError: the folder cannot be used, or jobs failed.
        """
        if workers is not None and workers < 1:
            raise ConfigError(f"workers must be 1 or more, but it is {workers}.")
        console = console or default_console()
        started = time.monotonic()
        workers = workers or default_workers()
        with Store(out) as store:
            store.open(self.to_dict(), resume=resume, command=command)
            jobs = self.jobs()
            todo = [job for job in jobs if not store.is_finished(job.key)]
            console.print(self._announcement(jobs, todo, workers, store.root), highlight=False)
            try:
                with Monitor(console, todo, workers) as monitor:
                    failures = execute(jobs, store, workers=workers, listener=monitor)
            except KeyboardInterrupt:
                console.print(f"Stopped. What is finished is kept in {store.root}; --resume continues.", soft_wrap=True)
                raise
            if failures:
                raise _failed(jobs, failures, store)
            summary = self._conclude(jobs, store, time.monotonic() - started, command)
        print_summary(console, summary)
        console.print(
            f"\nScores: {store.root / 'scores.parquet'}\nReport: {store.root / 'report' / 'index.html'}",
            highlight=False,
            soft_wrap=True,
        )
        return summary

    def _announcement(self, jobs: Sequence[Job], todo: Sequence[Job], workers: int, root: Path) -> str:
        counts = {kind: sum(job.kind == kind for job in todo) for kind in KINDS}
        done = f", {len(jobs) - len(todo)} finished before" if len(todo) < len(jobs) else ""
        return (
            f"{', '.join(c.name for c in self.contenders)} on {', '.join(v.id for v in self.variants)} "
            f"({self.protocol.name}, {self.budget.name}): {counts['train']} trainings, {counts['attack']} attacks, "
            f"{counts['rollout']} evaluations, {sum(job.steps for job in todo):,} environment steps{done}; "
            f"{workers} {'process' if workers == 1 else 'processes'}; {root}"
        )

    def _conclude(self, jobs: list[Job], store: Store, seconds: float, command: str) -> dict[str, Any]:
        """Write scores.parquet, summary.json and the report."""
        scores = collect_scores(jobs, store)
        names = [contender.name for contender in self.contenders]
        outcomes = {variant.id: tabulate(scores, variant.id, names) for variant in self.variants}
        summary = {
            "schema": 1,
            "study": self.to_dict(),
            "command": command,
            "board": not self.why_not_board(),
            "board_reason": self.why_not_board(),
            "results": [summarize(outcomes[variant.id], variant) for variant in self.variants],
            "bundles": self._bundles(jobs),
            "time": {**compute_time(jobs, store), "last_session_wall_s": round(seconds, 3)},
            **environment(),
        }
        trainings = collect_curves(jobs, store, "train", "greedy_return")
        attacks = collect_curves(jobs, store, "attack", "attacked_return")
        replace_file(store.root / "scores.parquet", lambda path: scores.to_parquet(path, index=False))
        write_report(store.root, summary, self.variants, outcomes, trainings, attacks)
        write_json(store.root / "summary.json", summary)
        return plain(summary)

    def _bundles(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        return [
            {
                "variant": job.variant.id,
                "algorithm": job.params["algorithm"],
                "seed": job.params["seed"],
                "path": f"jobs/{job.key}/policy",
            }
            for job in jobs
            if job.kind == "train"
        ]


def _failed(jobs: Sequence[Job], failures: dict[str, Failure], store: Store) -> StudyError:
    labels = {job.key: job.label for job in jobs}
    unfinished = sum(not store.is_finished(job.key) for job in jobs)
    key, failure = next(iter(failures.items()))
    waiting = unfinished - len(failures)
    others = f" ({waiting} more need their results)" if waiting else ""
    return StudyError(
        f"{len(failures)} of {len(jobs)} jobs failed{others}; the first: {labels[key]}: {failure.message} "
        f"Tracebacks lie in {store.root / 'failures'}; everything else is kept, and --resume tries again."
    )
