"""Kill a small study at random moments, resume it, and compare its results with those of one that was left alone.

Run `PYTHONPATH=. python tests/kill_study.py [KILLS] [SEED]`; it prints counts and exits with 1 if anything differs. The
study trains a stub and a real team, attacks both and plays them, in two processes. Killed with -9 is in turn its
coordinator, one of its workers, and whoever is just writing a checkpoint; what was killed is resumed, and now and then
killed again. Only kills that met a process at work count. Compared are the scores and all weights, and nothing
half-written may be left.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

CODE = """
import sys
from pathlib import Path
import mir2bench
from evaluation_stubs import BUDGET, DEFENDER, EAGER, PROTOCOL, tally
from mir2bench.evaluation import study
if __name__ == "__main__":
    import dataclasses
    mir2bench.register(tally())
    study.write_report = lambda *_: None
    budget = dataclasses.replace(BUDGET, train_steps=2_000)
    plan = study.Study.resolve((DEFENDER, EAGER), variants=[tally().id], budget=budget, protocol=PROTOCOL, seeds=1)
    out = Path(sys.argv[1])
    done = plan.run(out, workers=2, resume=(out / "study.json").exists(), show=False)
    sys.exit(1 if done["failures"] else 0)
"""
VICTIMS = ("coordinator", "worker", "checkpoint")
JOBS = 24
CONTINUED = "continued from its checkpoint"


class Harness:
    """Starts studies in `root`, and kills."""

    def __init__(self, root: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._root = root
        self.counts: collections.Counter[str] = collections.Counter()
        (root / "small.py").write_text(CODE)

    def run(self, out: Path, victim: str | None) -> tuple[bool, bool]:
        """Start or resume a study, kill its `victim`, and return whether it was met and whether the study is done."""
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
        command = [sys.executable, str(self._root / "small.py"), str(out)]
        with self.log(out).open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        met = False
        if victim is not None:
            # As random on a busy machine as on an idle one: soon after some job began, or after a first checkpoint.
            jobs = self._rng.randrange(1, JOBS)
            place, enough = ("checkpoints/*.safetensors", 1) if victim == "checkpoint" else ("jobs/*", jobs)
            while process.poll() is None and len(list(out.glob(place))) < enough:
                time.sleep(0.005)
            time.sleep(self._rng.uniform(0.0, 0.5))
            met = self._kill(process, out, victim)
        return met, process.wait() == 0

    def log(self, out: Path) -> Path:
        """Return where a study's output is kept."""
        return out.with_suffix(".log")

    def _kill(self, process: subprocess.Popen[bytes], out: Path, victim: str) -> bool:
        while process.poll() is None:
            found = [process.pid]
            if victim == "worker":
                found = _workers(process.pid)
            elif victim == "checkpoint":
                found = [int(p.name.split(".")[-2]) for p in (out / "checkpoints").glob(".*.tmp")]
            if found:
                try:
                    os.kill(self._rng.choice(found), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                return True
        return False


def _workers(parent: int) -> list[int]:
    """Return the worker processes of a coordinator, without multiprocessing's own helper."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    except OSError:
        return []


def _results(out: Path) -> dict[str, bytes]:
    """Return scores and weights, and the names of what should not be there."""
    kept = [out / "scores.parquet", *sorted(out.glob("jobs/*/policy/*.safetensors"))]
    rubbish = [*out.glob("jobs/.*"), *out.glob("checkpoints/*"), *out.glob("checkpoints/.*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept} | {path.name: b"" for path in rubbish}


def main(kills: int = 30, seed: int = 0) -> int:
    """Return 0 if all results agree."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        harness = Harness(root, seed)
        counts, rng = harness.counts, random.Random(seed + 1)
        if not harness.run(root / "whole", None)[1]:
            raise SystemExit(f"the study fails even when nobody kills it:\n{harness.log(root / 'whole').read_text()}")
        whole = _results(root / "whole")
        while (effective := sum(counts[f"killed {victim}"] for victim in VICTIMS)) < kills:
            out = root / str(counts["studies"])
            counts["studies"] += 1
            victim: str | None = VICTIMS[effective % len(VICTIMS)]
            for _ in range(10):
                met, done = harness.run(out, victim)
                if victim is not None:
                    counts[f"killed {victim}" if met else "too late"] += 1
                if done:
                    break
                counts["resumed"] += 1
                left = kills - sum(counts[f"killed {victim}"] for victim in VICTIMS)
                victim = rng.choice(VICTIMS) if left > 0 and rng.random() < 0.3 else None
            counts["trainings continued"] += harness.log(out).read_text().count(CONTINUED)
            same = _results(out) == whole
            counts["differ"] += not same
            print(f"study {out.name}: {_line(counts)}", flush=True)
            if not same:
                print(harness.log(out).read_text())
    print(f"{effective} kills: {_line(counts)}")
    return int(counts["differ"] > 0)


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
