"""Mutated entries, bundles, tables and TOMLs: each must be refused in one clear line, or mean the same as before.

`python tests/fuzz_leaderboard.py --count 12000` runs many; a few hundred are part of the tests. What is accepted must
differ from the original at most in what its author claims and nobody can check (`CLAIMS`): everything else is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mir2bench.errors import Mir2BenchError  # noqa: E402
from mir2bench.leaderboard import check  # noqa: E402
from mir2bench.registration import load_family  # noqa: E402

SOURCE = ROOT / "leaderboards" / "Rendezvous10-adv1-v0" / "mir2"
CLAIMS = (
    *("method.name", "method.description", "method.authors", "method.links", "entry", "history"),
    *("training.steps", "training.adversaries_seen", "training.code", "training.hardware"),
    *("reported.attackers_sha256", "reported.budget", "reported.mir2bench", "reported.commit", "reported.date"),
    *("reported.provisional", "reported.curves", "reported.not_applicable", "reported.command", "reported.protocol"),
)
CARD_CLAIMS = ("noise", "mir2bench", "steps", "critic_sha256", "architecture.critic", "variant", "new-key")
HOSTILE: tuple[Any, ...] = (
    *(
        "../../canary",
        "/etc/passwd",
        "policies/seed0/../../../canary",
        "a\0b",
        "\u202ex",
        "\n",
        "",
        "x" * 5000,
        "~/x",
        "C:\\x",
    ),
    *(
        "javascript:alert(1)",
        "http://example.org",
        "https://",
        "https://u@example.org/",
        "<script>alert(1)</script>",
        "NaN",
    ),
    *(
        None,
        True,
        -1,
        0,
        2**63,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        [],
        {},
        [[[]]],
        {"a": {}},
        "os:system",
        [0] * 300,
    ),
)
Mutation = Callable[[np.random.Generator, Path], str]


class Finding(Exception):
    """A mutation that was not handled as it must be."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every node below the root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutate_tree(rng: np.random.Generator, content: Any) -> str:
    """Change one to three nodes of plain data in place, and say how."""
    said = []
    for _ in range(int(rng.integers(1, 4))):
        everywhere = list(places(content))
        *way, last = everywhere[int(rng.integers(len(everywhere)))]
        parent = content
        for key in way:
            parent = parent[key]
        kind = rng.choice(["drop", "hostile", "double", "rename", "swap", "scale"])
        said.append(f"{kind} {'.'.join(map(str, [*way, last]))}")
        value = parent[last]
        if kind == "drop":
            del parent[last]
        elif kind == "hostile":
            parent[last] = HOSTILE[int(rng.integers(len(HOSTILE)))]
        elif kind == "double" and isinstance(parent, list):
            parent.append(value)
        elif kind == "rename" and isinstance(parent, dict):
            parent[f"{last}_"] = parent.pop(last)
        elif kind == "swap":
            *other_way, other = everywhere[int(rng.integers(len(everywhere)))]
            theirs = content
            try:
                for key in other_way:
                    theirs = theirs[key]
                parent[last] = json.loads(json.dumps(theirs[other]))
            except (KeyError, IndexError, TypeError, ValueError):
                parent[last] = None
        elif isinstance(value, int | float):
            parent[last] = value * float(rng.choice([-1, 0, 0.5, 1.001, 1e9, 1e300])) + 1
        else:
            parent[last] = [value]
        if not isinstance(content, dict) or not content:
            break
    return "; ".join(said)


def mutate_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    kind, at = int(rng.integers(5)), int(rng.integers(len(content)))
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at:]
    if kind == 3:
        return content[:at] + content[at + int(rng.integers(1, 40)) :]
    return content[:at] + content[max(0, at - 30) :]


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield the places where two pieces of plain data differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from differences(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where


class Fuzz:
    """The originals, and what came of their mutations."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.folder = scratch / "entry"
        self.canary = scratch / "canary"
        self.canary.write_text("nobody may read or change this")
        self.small = scratch / "small"  # one seed, no scores: what fuzzing bundles needs
        self.whole = scratch / "whole"
        content = json.loads((SOURCE / "entry.json").read_text())
        for key in ("verified", "history", "challenges"):
            content.pop(key)
        for target, seeds in ((self.whole, (0, 1, 2)), (self.small, (0,))):
            kept = {**content, "policies": content["policies"][: len(seeds)]}
            kept["training"] = {**content["training"], "seeds": list(seeds)}
            if target == self.small:
                kept["reported"] = None
            names = [f["path"] for p in kept["policies"] for f in p["files"]]
            names += ["reported/episodes.parquet"] if kept["reported"] else []
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(SOURCE / name, target / name)
            (target / "entry.json").write_text(json.dumps(kept))
        self.counts: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.forbidden: list[str] = []
        self._watching = False
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, mode, flags = os.path.abspath(os.fsdecode(arguments[0])), arguments[1], arguments[2]
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else "r" not in str(mode)
            if path in (str(self.canary), "/etc/passwd") or (writes and not path.startswith("/dev/")):
                self.forbidden.append(f"{'wrote' if writes else 'read'} {path}")
        elif (
            event.split(".")[0] in ("subprocess", "socket", "pickle", "shutil")
            or event
            in (
                *(
                    "os.remove",
                    "os.rename",
                    "os.mkdir",
                    "os.rmdir",
                    "os.symlink",
                    "os.system",
                    "os.exec",
                    "exec",
                    "os.chmod",
                ),
            )
        ) and (event != "exec" or "mir2bench" in str(arguments)):
            self.forbidden.append(f"{event} {str(arguments)[:100]}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notice whatever is written, or read from where it must not be."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
        if self.forbidden:
            raise Finding(f"touched what it must not: {self.forbidden[:3]}")

    def fresh(self, original: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(original, self.folder)

    def content(self) -> dict[str, Any]:
        return json.loads((self.folder / "entry.json").read_text())

    def settle(self) -> None:
        """Let entry.json tell the truth about the files as they are now."""
        content = self.content()
        for policy in content["policies"]:
            for file in policy["files"]:
                data = (self.folder / file["path"]).read_bytes()
                file["sha256"], file["bytes"] = hashlib.sha256(data).hexdigest(), max(1, len(data))
        (self.folder / "entry.json").write_text(json.dumps(content))

    def judge(self, kind: str, how: str, call: Callable[[], Any], same: Callable[[Any], bool]) -> None:
        """Run one mutation's check: refused in one line, or accepted and the `same`."""
        try:
            with self.watching():
                result = call()
        except Mir2BenchError as error:
            text = str(error)
            if len(text) > 1000 or not text.strip():
                raise Finding(f"{kind}: {how}: no clear line: {text[:300]!r}") from error
            self.counts[f"{kind}: refused"] += 1
            self.lines[text[:60]] += 1
            return
        except Finding:
            raise
        except BaseException as error:
            raise Finding(f"{kind}: {how}: crashed with {type(error).__name__}: {str(error)[:300]}") from error
        if not same(result):
            raise Finding(f"{kind}: {how}: accepted")
        self.counts[f"{kind}: means the same, or differs in a mere claim"] += 1

    def inspect(self) -> Any:
        return check.inspect_entry(self.folder)

    def only_claims(self, original: Path, claims: tuple[str, ...] = CLAIMS) -> Callable[[Any], bool]:
        before = check.read_entry(original).model_dump(mode="json")

        def same(entry: Any) -> bool:
            found = list(differences(before, entry.model_dump(mode="json")))
            return all(place.startswith(claims) for place in found)

        return same

    def entry_tree(self, rng: np.random.Generator) -> None:
        original = self.whole if rng.random() < 0.5 else self.small
        self.fresh(original)
        content = self.content()
        how = mutate_tree(rng, content)
        (self.folder / "entry.json").write_text(json.dumps(content))
        self.judge("entry.json, structure", how, self.inspect, self.only_claims(original))

    def entry_bytes(self, rng: np.random.Generator) -> None:
        self.fresh(self.small)
        path = self.folder / "entry.json"
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        self.judge(
            "entry.json, bytes", "bytes", self.inspect, self.only_claims(self.small, (*CLAIMS, "training.config"))
        )

    def files(self, rng: np.random.Generator) -> None:
        self.fresh(self.small)
        there = [p for p in self.folder.rglob("*") if p.is_file() and p.name != "entry.json"]
        path = there[int(rng.integers(len(there)))]
        kind = rng.choice(["bytes", "missing", "extra", "link", "folder-link", "fifo", "folder", "archive", "renamed"])
        if kind == "bytes":
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        elif kind == "missing":
            path.unlink()
        elif kind == "extra":
            (path.parent / str(rng.choice(["x.py", ".hidden", "policy.pkl", "a.zip", "weights.pt"]))).write_bytes(b"x")
        elif kind == "link":
            path.unlink()
            path.symlink_to(rng.choice([str(self.canary), "/etc/passwd", "../../../canary", path.name]))
        elif kind == "folder-link":
            shutil.rmtree(self.folder / "policies")
            (self.folder / "policies").symlink_to(self.small / "policies")
        elif kind == "fifo":
            path.unlink()
            os.mkfifo(path)
        elif kind == "folder":
            path.unlink()
            path.mkdir()
        elif kind == "archive":
            shutil.make_archive(str(self.folder / "policies" / "more"), str(rng.choice(["zip", "tar"])), self.small)
        else:
            path.rename(path.with_name(path.name + "x"))
        before = {p.relative_to(self.small): p.read_bytes() for p in self.small.rglob("*") if p.is_file()}
        self.judge("files", kind, self.inspect, lambda _: before == _contents(self.folder))

    def card(self, rng: np.random.Generator) -> None:
        self.fresh(self.small)
        path = self.folder / "policies/seed0/policy.json"
        before = json.loads(path.read_text())
        if rng.random() < 0.7:
            after = json.loads(path.read_text())
            how = mutate_tree(rng, after)
            path.write_text(json.dumps(after))
        else:
            how = "bytes"
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        self.settle()

        def same(_: Any) -> bool:
            found = list(differences(before, {"script": "", **json.loads(path.read_text())}))
            return all(place.startswith(CARD_CLAIMS) or is_new(*place.split(".")) for place in found)

        def is_new(first: str, second: str = "actor", *_: str) -> bool:  # keys that nobody reads
            return first not in before or (first == "architecture" and second not in before[first])

        self.judge("policy.json", how, self.inspect, same)

    def weights(self, rng: np.random.Generator) -> None:
        """Damage a header, cut the data, or plant numbers that are not finite; hashes are made to fit."""
        from safetensors.torch import load

        self.fresh(self.small)
        root = self.folder / "policies/seed0"
        name = str(rng.choice(["weights", "critic"]))
        path = root / f"{name}.safetensors"
        content = path.read_bytes()
        before = load(content)
        size = int.from_bytes(content[:8], "little")
        kind = rng.choice(["header", "length", "cut", "nan", "pickle", "json"])
        if kind == "header":
            header = mutate_bytes(rng, content[8 : 8 + size])
            content = len(header).to_bytes(8, "little") + header + content[8 + size :]
        elif kind == "length":
            content = int(rng.integers(2**62)).to_bytes(8, "little") + content[8:]
        elif kind == "cut":
            content = content[: int(rng.integers(1, len(content)))]
        elif kind == "nan":
            at = 8 + size + 4 * int(rng.integers((len(content) - 8 - size) // 4))
            content = content[:at] + np.float32(rng.choice([np.nan, np.inf, -np.inf])).tobytes() + content[at + 4 :]
        elif kind == "pickle":
            content = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x05touch\x85R."
        else:
            header = json.loads(content[8 : 8 + size])
            mutate_tree(rng, header)
            text = json.dumps(header).encode()
            content = len(text).to_bytes(8, "little") + text + content[8 + size :]
        path.write_bytes(content)
        card = json.loads((root / "policy.json").read_text())
        card[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
        (root / "policy.json").write_text(json.dumps(card))
        self.settle()

        def same(_: Any) -> bool:
            after = load(path.read_bytes())
            return set(after) == set(before) and all(after[k].shape == before[k].shape for k in before)

        self.judge("weights", kind, self.inspect, same)

    def table(self, rng: np.random.Generator) -> None:
        path = self.scratch / "episodes.parquet"
        original = (self.whole / "reported/episodes.parquet").read_bytes()
        content = mutate_bytes(rng, original)
        path.write_bytes(content)
        scores = check.read_entry(self.whole).reported
        variant = check.spec("mir2bench/Rendezvous10-adv1-v0")
        call = lambda: check.check_episodes(path, scores, variant)  # noqa: E731
        self.judge("episodes.parquet", "bytes", call, lambda _: True)  # equal scores: a byte that says nothing

    def toml(self, rng: np.random.Generator) -> None:
        names = sorted((ROOT / "registry").glob("*.toml"))
        source = names[int(rng.integers(len(names)))]
        path = self.scratch / "family.toml"
        if rng.random() < 0.5:
            path.write_bytes(mutate_bytes(rng, source.read_bytes()))
        else:
            tree = tomllib.loads(source.read_text())
            mutate_tree(rng, tree)
            path.write_text(_toml(tree), encoding="utf-8", errors="surrogatepass")
        # What is read is a description: every one that keeps the rules is a variant of its own.
        self.judge("registry TOML", "", lambda: load_family(path), lambda specs: all(s.n_agents > 0 for s in specs))


def _contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _toml(value: Any, top: bool = True) -> str:
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(k))} = {_toml(v, False)}" for k, v in value.items()]
        return "\n".join(pairs) if top else "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v, False) for v in value) + "]"
    if isinstance(value, float) and not np.isfinite(value):
        return "nan" if np.isnan(value) else "inf"
    return '""' if value is None else json.dumps(value)


KINDS = {"entry_tree": 8, "entry_bytes": 4, "files": 3, "card": 4, "weights": 3, "table": 1, "toml": 3}
"""Mutations and how often each is tried, relative to the others."""


def run(count: int, seed: int, scratch: Path, *, first: int = 0, act: bool = False) -> Fuzz:
    """Try `count` mutations; raise `Finding` at the first that is not handled as it must be.

    Policies that are accepted so far are let act only if `act`: it takes most of the time.
    """
    fuzz = Fuzz(scratch)
    try_policy = check.try_policy
    if not act:
        check.try_policy = lambda policy, variant, **_: None
    try:
        for original in (fuzz.whole, fuzz.small):
            check.inspect_entry(original)  # the originals are fine, or nothing below would mean anything
        plan = [kind for kind, share in KINDS.items() for _ in range(share)]
        for number in range(first, first + count):
            rng = np.random.default_rng([seed, number])
            kind = plan[number % len(plan)]
            try:
                getattr(fuzz, kind)(rng)
            except Finding as finding:
                raise Finding(f"mutation {number} of seed {seed}: {finding}") from finding.__cause__
        if fuzz.canary.read_text() != "nobody may read or change this":
            raise Finding("the canary was changed")
    finally:
        check.try_policy = try_policy
    return fuzz


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = run(chosen.count, chosen.seed, Path(folder), first=chosen.first)
    for name, number in sorted(done.counts.items()):
        print(f"{number:6}  {name}")
    print(f"{sum(done.counts.values()):6}  mutations, {len(done.lines)} different lines of refusal, 0 findings")
