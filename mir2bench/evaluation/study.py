"""A study: who is evaluated where and how, done from the plan to the report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.errors import ConfigError, StudyError, unknown_name
from mir2bench.evaluation.contenders import Contender, resolve_contenders
from mir2bench.evaluation.executor import Failure, default_workers, execute
from mir2bench.evaluation.files import plain, replace_file, write_json
from mir2bench.evaluation.jobs import KINDS, Job, attacker_config, plan
from mir2bench.evaluation.limits import ANY, Limits, stoppable
from mir2bench.evaluation.monitor import Monitor, default_console
from mir2bench.evaluation.outcomes import tabulate
from mir2bench.evaluation.protocol import BUDGETS, PUBLIC, Budget, Draw, Protocol, get_budget, get_protocol
from mir2bench.evaluation.report import write_report
from mir2bench.evaluation.scores import (
    collect_cells,
    collect_curves,
    collect_programs,
    collect_scores,
    compute_time,
    count_lost,
    environment,
    select,
)
from mir2bench.evaluation.statistics import summarize
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.tables import print_summary, shortfall
from mir2bench.learning.progress import GREEDY_RETURN, GREEDY_WINS
from mir2bench.policies import read_bundle
from mir2bench.registration import VariantSpec, spec

DEFAULT_VARIANT = "mir2bench/Rendezvous10-adv1-v0"
DEFAULT_ALGORITHM = "mir2"
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Study:
    """The resolved configuration of an evaluation.

    Attributes:
        variants: where.
        contenders: who.
        protocol: which attackers and partitions.
        budget: how much work.
        draw: where its random numbers begin.
    """

    variants: tuple[VariantSpec, ...]
    contenders: tuple[Contender, ...]
    protocol: Protocol
    budget: Budget
    draw: Draw = PUBLIC

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
        partitions: int | None = None,
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
            partitions: most partitions attacked per variant; by default the protocol's number.
            settings: "KEY=VALUE" or "ALGORITHM.KEY=VALUE".

        Raises:
            UnknownNameError, ConfigError, PolicyError: what was named does not exist, does not fit or is damaged.
            MissingDependencyError: a world needs a package or program that is not installed.
        """
        budget = get_budget(budget) if isinstance(budget, str) else budget
        if seeds is not None:
            budget = dataclasses.replace(budget, defender_seeds=seeds)
        if partitions is not None:
            budget = dataclasses.replace(budget, partitions=partitions)
        if not algorithms and not policies:
            algorithms = (DEFAULT_ALGORITHM,)
        if not variants:
            variants = sorted({read_bundle(p)["variant"] for p in policies}) or (DEFAULT_VARIANT,)
        specs = tuple(spec(v) for v in variants)
        repeated = [s.id for i, s in enumerate(specs) if s in specs[:i]]
        if repeated:
            raise ConfigError(f"{repeated[0]} is named twice. Name each variant once.")
        for variant in specs:
            Worlds(variant, 1, threads=1)  # says what is not installed
        contenders = resolve_contenders(algorithms, policies, settings, range(budget.defender_seeds), specs)
        return cls(
            variants=specs,
            contenders=tuple(contenders),
            protocol=get_protocol(protocol) if isinstance(protocol, str) else protocol,
            budget=budget,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all that determines the results, as plain data."""
        drawn = {} if self.draw == PUBLIC else {"draw": dataclasses.asdict(self.draw)}
        return {
            "mir2bench": mir2bench.__version__,
            "protocol": self.protocol.to_dict(),
            "budget": dataclasses.asdict(self.budget),
            **drawn,
            "variants": [variant.to_dict() for variant in self.variants],
            "contenders": [contender.to_dict() for contender in self.contenders],
            "attackers": {
                variant.id: {name: attacker_config(name, variant) for name in self.protocol.configurable}
                for variant in self.variants
                if variant.n_adversaries
            },
        }

    def jobs(self) -> list[Job]:
        """Return the plan."""
        return plan(self.protocol, self.budget, self.variants, self.contenders, self.draw)

    def why_not_board(self) -> str:
        """Return why the results may not enter the leaderboard, or ""."""
        if not self.budget.board:
            return f"the {self.budget.name} budget is for a first look"
        if self.budget.partitions is not None:
            return f"at most {self.budget.partitions} partitions were attacked"
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
        show: bool = True,
        limits: Limits = ANY,
        executor: str = "local",
        address: str | None = None,
    ) -> dict[str, Any]:
        """Do all jobs that are not done yet, and write scores, summary and report.

        Jobs that fail lose only themselves and those that need their results: everything else is done, and the summary
        lists under "failures" and "missing" what is not. `tables.shortfall` says it in one line.

        Args:
            out: the study folder.
            workers: processes; None takes one per core (of the cluster, if it is one), 1 works in this process.
            resume: continue a study that lies in `out`.
            console: where progress and results are shown; None for standard output.
            command: how to run the same again, for the report.
            show: whether results are shown at the end; progress always is.
            limits: what one job may use.
            executor: "local" for processes on this machine, "ray" for a Ray cluster.
            address: of the Ray cluster's head; None starts a cluster on this machine.

        Returns:
            The content of `summary.json`.

        Raises:
            StudyError: the folder cannot be used, or no cell was played because jobs failed.
        """
        if workers is not None and workers < 1:
            raise ConfigError(f"workers must be 1 or more, but it is {workers}.")
        if executor not in EXECUTORS:
            raise unknown_name("executor", executor, EXECUTORS)
        console = console or default_console()
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            cluster = None
            if executor == "ray":
                from mir2bench.evaluation.ray_executor import Cluster, execute_on_ray

                cluster = stack.enter_context(Cluster(address))
            store = stack.enter_context(Store(out))
            store.open(self.to_dict(), resume=resume, command=command)
            jobs = self.jobs()
            if resume:
                _tell_dropped(console, *store.drop_changed(jobs))
            todo = [job for job in jobs if not store.is_finished(job.key)]
            at_once = workers or (cluster.cores if cluster else default_workers())
            where = f"{at_once} {'process' if at_once == 1 else 'processes'}"
            where += f" at most, of {cluster.cores} cores of {cluster.name}" if cluster else ""
            console.print(self._announcement(jobs, todo, where, store.root), highlight=False, soft_wrap=True)
            try:
                with stoppable(), Monitor(console, todo, max(1, at_once)) as monitor:
                    if cluster:
                        failures = execute_on_ray(
                            jobs, store, cluster=cluster, listener=monitor, workers=workers, limits=limits
                        )
                    else:
                        failures = execute(jobs, store, workers=at_once, listener=monitor, limits=limits)
            except KeyboardInterrupt:
                console.print(f"Stopped. What is finished is kept in {store.root}; --resume continues.", soft_wrap=True)
                raise
            scores = collect_scores(jobs, store)
            if scores.empty:
                raise StudyError(f"{shortfall(_gaps(jobs, failures, store))} No cell was played.")
            summary = self._conclude(jobs, store, scores, failures, time.monotonic() - started, command)
        if show:
            print_summary(console, summary)
            console.print(
                f"\nScores: {store.root / 'scores.parquet'}\nReport: {store.root / 'report' / 'index.html'}",
                highlight=False,
                soft_wrap=True,
            )
        return summary

    def _announcement(self, jobs: Sequence[Job], todo: Sequence[Job], where: str, root: Path) -> str:
        counts = {kind: sum(job.kind == kind for job in todo) for kind in KINDS}
        done = f", {len(jobs) - len(todo)} finished before" if len(todo) < len(jobs) else ""
        return (
            f"{', '.join(c.name for c in self.contenders)} on {', '.join(v.id for v in self.variants)} "
            f"({self.protocol.name}, {self.budget.name}): {counts['train']} trainings, {counts['attack']} attacks, "
            f"{counts['rollout']} evaluations, {sum(job.steps for job in todo):,} environment steps{done}; "
            f"{where}; {root}"
        )

    def _conclude(
        self,
        jobs: list[Job],
        store: Store,
        scores: pd.DataFrame,
        failures: Mapping[str, Failure],
        seconds: float,
        command: str,
    ) -> dict[str, Any]:
        """Write scores.parquet, summary.json and the report."""
        cells = collect_cells(jobs, store)
        names = [contender.name for contender in self.contenders]
        scripted = [contender.name for contender in self.contenders if contender.kind == "scripted"]
        headline = self.protocol.headline
        outcomes = {
            v.id: tabulate(scores, v.id, names, headline=headline, cells=cells, scripted=scripted)
            for v in self.variants
        }
        trainings = collect_curves(jobs, store, "train", GREEDY_RETURN, GREEDY_WINS)
        attacks = collect_curves(jobs, store, "attack", "attacked_return")
        gaps = _gaps(jobs, failures, store)
        why_not = self.why_not_board()
        if gaps["failures"]:
            why_not = f"{len(gaps['missing'])} of the study's {len(cells)} evaluations are missing"
        summary = {
            "schema": 1,
            "study": self.to_dict(),
            "command": command,
            "board": not why_not,
            "board_reason": why_not,
            **gaps,
            "results": [summarize(outcomes[v.id], v, select(attacks, variant=v.id)) for v in self.variants],
            "lost_episodes": count_lost(jobs, store),
            "programs": collect_programs(jobs, store),
            "bundles": self._bundles(jobs, store),
            "time": {**compute_time(jobs, store), "last_session_wall_s": round(seconds, 3)},
            **environment(),
        }
        replace_file(store.root / "scores.parquet", lambda path: scores.to_parquet(path, index=False))
        replace_file(store.root / "attacks.parquet", lambda path: attacks.to_parquet(path, index=False))
        write_report(store.root, summary, self.variants, outcomes, trainings, attacks)
        write_json(store.root / "summary.json", summary)
        return plain(summary)

    def _bundles(self, jobs: Sequence[Job], store: Store) -> list[dict[str, Any]]:
        return [
            {
                "variant": job.variant.id,
                "algorithm": job.params["algorithm"],
                "seed": job.params["seed"],
                "path": f"jobs/{job.key}/policy",
            }
            for job in jobs
            if job.kind == "train" and store.is_finished(job.key)
        ]


def _tell_dropped(console: Console, changed: Sequence[Job], resting: Sequence[Job]) -> None:
    if changed:
        console.print(
            f"{len(changed)} finished jobs were changed or damaged since (the first: {changed[0].label}); they and "
            f"{len(resting)} that rest on them are done again.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _gaps(jobs: Sequence[Job], failures: Mapping[str, Failure], store: Store) -> dict[str, Any]:
    """Return what a study lacks: its number of jobs, those that failed, and the evaluations without a result."""
    unfinished = [job for job in jobs if not store.is_finished(job.key)]
    return {
        "jobs": {"planned": len(jobs), "unfinished": len(unfinished)},
        "failures": [
            {
                "label": job.label,
                "message": failures[job.key].message,
                "traceback": f"failures/{job.key}.txt" if failures[job.key].trace else None,
            }
            for job in unfinished
            if job.key in failures
        ],
        "missing": [
            {
                "variant": job.variant.id,
                "defender": job.defender,
                "defender_seed": job.defender_seed,
                "attacker": job.params["attacker"],
                "phi": job.params["phi"],
            }
            for job in unfinished
            if job.kind == "rollout"
        ],
    }
