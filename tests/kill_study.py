"""Kill a small study at random moments, resume it, and compare its scores with those of one that was left alone.

Run `PYTHONPATH=. python tests/kill_study.py [KILLS] [SEED]`; it prints counts and exits with 1 if a score differs.
Each round starts a study in a folder of its own and kills -9 its coordinator or one of its workers (in turn) at a
random moment; a coordinator that died is resumed. A round may thus see its kill come too late; that is counted.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = """
import io
import sys
from pathlib import Path
from rich.console import Console
import mir2bench
from evaluation_stubs import BUDGET, DEFENDER, PROTOCOL, tally
from mir2bench.evaluation import study
if __name__ == "__main__":
    mir2bench.register(tally())
    study.write_report = lambda *_: None
    plan = study.Study.resolve((DEFENDER,), variants=[tally().id], budget=BUDGET, protocol=PROTOCOL, seeds=1)
    out = Path(sys.argv[1])
    done = plan.run(out, workers=2, resume=(out / "study.json").exists(), console=Console(file=io.StringIO()))
    sys.exit(1 if done["failures"] else 0)
"""


def _start(script: Path, out: Path) -> subprocess.Popen[bytes]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    return subprocess.Popen([sys.executable, str(script), str(out)], env=environment)


def _workers(parent: int) -> list[int]:
    """Return the worker processes of a coordinator, without multiprocessing's own helper."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def main(kills: int = 30, seed: int = 0) -> int:
    """Return 0 if all scores agree."""
    rng = random.Random(seed)
    counts = {"coordinator": 0, "worker": 0, "too late": 0, "resumed": 0, "differ": 0}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        script = root / "small.py"
        script.write_text(CODE)
        started = time.monotonic()
        if _start(script, root / "whole").wait():
            raise SystemExit("the study fails even when nobody kills it")
        length = time.monotonic() - started
        whole = (root / "whole" / "scores.parquet").read_bytes()
        for number in range(kills):
            out = root / str(number)
            process = _start(script, out)
            time.sleep(rng.uniform(0.3, 1.0) * length)
            victim = process.pid
            if number % 2:
                workers = _workers(process.pid) if process.poll() is None else []
                victim = rng.choice(workers) if workers else 0
            if process.poll() is not None or not victim:
                counts["too late"] += 1
            else:
                counts["worker" if number % 2 else "coordinator"] += 1
                os.kill(victim, signal.SIGKILL)
            for _ in range(3):
                if process.wait() == 0:
                    break
                counts["resumed"] += 1
                process = _start(script, out)
            process.wait()
            counts["differ"] += (out / "scores.parquet").read_bytes() != whole
    print(f"{kills} rounds:", ", ".join(f"{name} {count}" for name, count in counts.items()))
    return int(counts["differ"] > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
