"""Doing one job: train a defender, train an attacker, or play a cell."""

from __future__ import annotations

import inspect
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mir2bench.attackers import make_attacker
from mir2bench.defenders import get_defender
from mir2bench.errors import CheckpointError, NotApplicableError
from mir2bench.evaluation.checkpoints import Checkpoint, identify
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.evaluation.files import storing, write_json
from mir2bench.evaluation.jobs import Job, phi_of
from mir2bench.evaluation.store import NOT_APPLICABLE, RESULT, Store
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.plugins import make_config
from mir2bench.policies import Policy, load_policy, save_policy
from mir2bench.registration import VariantSpec, register

_REPORT_EVERY = 0.2  # s between reports that carry no metrics


def run_job(store: Store, job: Job, report: Callback | None = None) -> None:
    """Do a job and put its result into the store.

    Args:
        store: where results lie; those of `job.needs` are there already.
        job: what to do.
        report: called from time to time while something trains.

    Raises:
        StorageError: the result cannot be written. The job counts as not done then, as after every other error.
    """
    register(job.variant)  # in a fresh process only the built-in variants are known
    wall, cpu = time.perf_counter(), time.process_time()
    folder = store.begin(job.key)
    try:
        _WORK[job.kind](store, job, folder, report)
        store.commit(job, folder, wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class Recorder:
    """Keeps every row of metrics that a training reports, writes them to TensorBoard, and passes reports on.

    Use as a context manager around the training; at its end the rows lie in `curve.json`.

    Args:
        path: the JSON file to write.
        logs: folder for TensorBoard; emptied first.
        report: who else wants to know.
    """

    def __init__(self, path: Path, logs: Path, report: Callback | None = None) -> None:
        self._path = path
        self._logs = logs
        self._report = report
        self._started = time.perf_counter()
        self._reported = 0.0
        self.rows: list[dict[str, float]] = []

    def __enter__(self) -> Recorder:
        from torch.utils.tensorboard import SummaryWriter

        with storing(self._logs):
            shutil.rmtree(self._logs, ignore_errors=True)
            self._writer = SummaryWriter(str(self._logs))
        return self

    @property
    def seconds(self) -> float:
        """How long the training took so far, without what lay between a kill and its continuation."""
        return time.perf_counter() - self._started

    def say(self, note: str) -> None:
        """Tell whoever follows the training one thing."""
        self(Progress(0, 0, note=note))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far and how long they took."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, as if no time had passed since."""
        self._started = time.perf_counter() - state["seconds"]
        self.rows = list(state["rows"])
        for row in self.rows:
            self._log(row["steps"], {name: row[name] for name in row if name not in ("steps", "seconds")})

    def _log(self, steps: float, metrics: Mapping[str, float]) -> None:
        with storing(self._logs):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, int(steps))

    def __call__(self, progress: Progress) -> None:
        """Take one report."""
        now = time.perf_counter()
        if progress.metrics:
            metrics = {name: float(value) for name, value in progress.metrics.items()}
            self.rows.append({"steps": progress.steps, "seconds": round(self.seconds, 3), **metrics})
            self._log(progress.steps, metrics)
            progress = replace(progress, metrics=metrics)
        elif not progress.note and now - self._reported < _REPORT_EVERY:
            return
        self._reported = now
        if self._report is not None:
            self._report(progress)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        with storing(self._logs):
            self._writer.close()
        if error is None:
            write_json(self._path, self.rows, indent=None)


def train(
    algorithm: str,
    config: dict[str, Any],
    variant: VariantSpec,
    *,
    seed: int,
    steps: int,
    recorder: Recorder,
    checkpoint: Path,
    anew: bool = True,
) -> Policy:
    """Train a defender with a resolved configuration, from its checkpoint if there is one.

    Args:
        algorithm, config, variant, seed, steps: what to train.
        recorder: gets all reports.
        checkpoint: the file; defenders whose `train` takes no `checkpoint` leave none.
        anew: whether to begin from the first step if the checkpoint cannot be used.

    Raises:
        CheckpointError: it cannot be used, and `anew` is off.
    """
    defender = get_defender(algorithm)
    made = defender(make_config(defender.Config, config))
    task = {"seed": seed, "budget": steps, "callback": recorder}
    if "checkpoint" not in inspect.signature(made.train).parameters:
        return made.train(variant, **task)
    identity = identify(algorithm, defender, config, variant, seed=seed, steps=steps)
    kept = Checkpoint(checkpoint, identity, recorder, recorder.say)
    try:
        return made.train(variant, **task, checkpoint=kept)
    except CheckpointError as error:
        if not anew:
            advice = "Go on with the same options and code, or delete it to begin anew."
            raise CheckpointError(f"{error} {advice}") from error
        recorder.say(f"begun anew: {error}")
    kept.drop()
    recorder.load_state_dict({"rows": [], "seconds": 0.0})
    return made.train(variant, **task, checkpoint=kept)


def _train(store: Store, job: Job, folder: Path, report: Callback | None) -> None:
    p = job.params
    with Recorder(folder / "curve.json", store.logs(job), report) as recorder:
        policy = train(
            p["algorithm"],
            p["config"],
            job.variant,
            seed=p["seed"],
            steps=p["steps"],
            recorder=recorder,
            checkpoint=store.checkpoint(job.key),
        )
    save(policy, folder / "policy", job.variant, p["algorithm"], p["config"], p["seed"], {})


def _attack(store: Store, job: Job, folder: Path, report: Callback | None) -> None:
    p = job.params
    attacker = make_attacker(p["attacker"], job.variant, p["config"])
    with Recorder(folder / "curve.json", store.logs(job), report) as recorder:
        policy = attacker.attack(
            job.variant,
            _victim(store, job),
            phi_of(p["phi"]),
            seed=p["seed"],
            budget=p["steps"],
            callback=recorder,
        )
    extra = {"phi": p["phi"], "victim": dict(job.needs) or dict(p["victim"])}
    save(policy, folder / "policy", job.variant, p["attacker"], p["config"], p["seed"], extra)


def _rollout(store: Store, job: Job, folder: Path, report: Callback | None) -> None:
    p = job.params
    victim, phi = _victim(store, job), phi_of(p["phi"])
    seeds = [p["first_seed"] + episode for episode in range(p["episodes"])]
    try:
        adversary = _adversary(store, job, victim, phi)
    except NotApplicableError as error:
        write_json(folder / RESULT, {NOT_APPLICABLE: str(error)}, sync=False)
        return
    episodes = rollout(
        job.variant,
        victim,
        phi,
        adversary,
        seeds,
        team_name=f"the team `{job.defender}` (seed {job.defender_seed})",
        adversary_name=f"the attacker `{p['attacker']}` on phi {phi.label}",
    )
    result = {
        "return": episodes.returns.tolist(),
        "length": episodes.lengths.tolist(),
        "won": None if episodes.won is None else episodes.won.tolist(),
        **({"lost": episodes.lost} if episodes.lost else {}),
        **({"program": episodes.program} if episodes.program else {}),
    }
    write_json(folder / RESULT, result, indent=None, sync=False)


_WORK: dict[str, Callable[[Store, Job, Path, Callback | None], None]] = {
    "train": _train,
    "attack": _attack,
    "rollout": _rollout,
}


def _victim(store: Store, job: Job) -> Policy:
    victim = job.params["victim"]
    if victim["kind"] == "scripted":
        return make_scripted(job.variant, victim["team"])
    if victim["kind"] == "bundle":
        return load_policy(Path(job.paths["victim"]), job.variant)
    return load_policy(store.folder(job.needs["victim"]) / "policy", job.variant)


def _adversary(store: Store, job: Job, victim: Policy, phi: Partition) -> Policy | None:
    kind = job.params["adversary"]
    if kind == "none":
        return None
    if kind == "job":
        return load_policy(store.folder(job.needs["adversary"]) / "policy", job.variant)
    attacker = make_attacker(job.params["attacker"], job.variant, job.params.get("config"))
    return attacker.attack(job.variant, victim, phi, seed=0, budget=1)


def save(
    policy: Policy,
    folder: Path,
    variant: VariantSpec,
    algorithm: str,
    config: Mapping[str, Any],
    seed: int,
    extra: Mapping[str, Any],
) -> None:
    """Write a policy bundle; see `policies.save_policy`.

    Raises:
        StorageError: the disk is full, read-only or broken.
    """
    with storing(folder):
        save_policy(policy, folder, variant=variant, algorithm=algorithm, config=config, seed=seed, extra=extra)
