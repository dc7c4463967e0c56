"""What an entry of a leaderboard is: the models of `entry.json`, and the schema that is made from them.

leaderboards/<variant>/<entry>/      <variant> is the id without "mir2bench/", <entry> a short name
    entry.json                       an `Entry`
    policies/seed<k>/                a policy bundle for each training seed
    reported/episodes.parquet        raw episodes behind `reported`, if its author gives them
    verified/episodes.parquet        raw episodes behind `verified`
    verified/episode.png             one attacked episode, drawn
    challenges/<name>/<cell>/        bundles of the adversaries that lowered the row

Models are strict: unknown keys, numbers that are not finite, texts without end and paths that leave the folder are
refused. Whatever is not in the models is not on the board.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mir2bench.errors import Mir2BenchError
from mir2bench.leaderboard.fields import (
    Commit,
    Count,
    Interval,
    Line,
    Link,
    Name,
    Number,
    Phi,
    Positive,
    RelativePath,
    Scalar,
    Seed,
    Sha256,
    Share,
    VariantId,
    Word,
    printable,
)

FORMAT = 1
"""Version of `entry.json`."""
ENTRY_FILE, POLICIES, REPORTED, VERIFIED, CHALLENGES = "entry.json", "policies", "reported", "verified", "challenges"
EPISODES = "episodes.parquet"
PICTURE = "episode.png"
MAX_POLICY = 2**20  # bytes of one training seed's bundle, all files together
MAX_ENTRY = 2**20  # bytes of entry.json
MAX_EPISODES = 8 * 2**20  # bytes of a file of raw episodes
MAX_SEEDS = 50


class EntryError(Mir2BenchError, ValueError):
    """An entry breaks a rule of the board; the message is one line that says which."""


class Strict(BaseModel):
    """Base of all models: no unknown key, no value of another type, nothing that changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class File(Strict):
    """A file of the entry, by its path inside the entry's folder."""

    path: RelativePath
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1, le=MAX_EPISODES)]


class Links(Strict):
    """Where to read on."""

    paper: Link | None = None
    code: Link | None = None
    page: Link | None = None


class Method(Strict):
    """What is entered, and by whom."""

    name: Word
    description: Line
    authors: Annotated[list[Word], Field(min_length=1, max_length=50)]
    links: Links = Links()
    kind: Literal["trained", "scripted"]
    """A scripted team is one of the package's sanity rows: it needs no training and has no policy bundle."""
    algorithm: Word
    """Name of the defender in this package, or the author's own name for it; of the team for scripted ones."""


class Hardware(Strict):
    """What it was trained on."""

    processor: Word
    cores: Annotated[int, Field(ge=1, le=10**6)] | None = None
    memory_gib: Annotated[float, Field(ge=0, le=10**6)] | None = None
    accelerator: Word | None = None


class Code(Strict):
    """Which code trained it."""

    mir2bench: Word
    """Version of this package that trained or at least played it."""
    commit: Commit | None = None
    repository: Link | None = None


class Training(Strict):
    """How the policies came to be."""

    config: Annotated[dict[Word, Scalar | Annotated[list[Scalar], Field(max_length=100)]], Field(max_length=200)]
    """The resolved configuration."""
    seeds: Annotated[list[Seed], Field(max_length=MAX_SEEDS)]
    """All training seeds; each has its policy. Empty for scripted teams."""
    steps: Count
    """Environment steps per seed."""
    adversaries_seen: Annotated[list[Word], Field(max_length=50)]
    """Attackers that took part in training or tuning, by name; empty if none did."""
    checkpoint: Literal["last"] = "last"
    code: Code
    hardware: Hardware


class PolicyFiles(Strict):
    """The bundle of one training seed."""

    seed: Seed
    format: Literal["safetensors", "onnx"]
    files: Annotated[list[File], Field(min_length=2, max_length=12)]

    @model_validator(mode="after")
    def _fits(self) -> PolicyFiles:
        root = f"{POLICIES}/seed{self.seed}"
        outside = [f.path for f in self.files if not f.path.startswith(f"{root}/")]
        if outside:
            raise ValueError(f"the files of seed {self.seed} must lie in {root}/, but {outside[0]} does not")
        if len({f.path for f in self.files}) < len(self.files):
            raise ValueError(f"a file of seed {self.seed} is named twice")
        weights = "policy.onnx" if self.format == "onnx" else "weights.safetensors"
        missing = {f"{root}/policy.json", f"{root}/{weights}"} - {f.path for f in self.files}
        if missing:
            raise ValueError(f"{min(missing)} is missing")
        size = sum(f.bytes for f in self.files)
        if size > MAX_POLICY:
            raise ValueError(f"the files of seed {self.seed} have {size} bytes, more than {MAX_POLICY}")
        return self

    @property
    def networks(self) -> tuple[str, str]:
        """Where its network lies, in either format."""
        root = f"{POLICIES}/seed{self.seed}"
        return f"{root}/weights.safetensors", f"{root}/policy.onnx"


class Score(Strict):
    """A mean over cells (training seed, partition) with its 95% interval, raw and on the variant's scale."""

    mean: Number
    """Team return, undiscounted."""
    ci: Interval | None = None
    ci_over: Literal["seeds", "partitions", "episodes", "nothing"] = "nothing"
    """What was resampled; "nothing" if there is but one."""
    normalized: Number
    """0 at the variant's floor, 1 at its ceiling."""
    normalized_ci: Interval | None = None
    win_rate: Share | None = None
    """None in families that know no victory."""
    win_rate_ci: Interval | None = None
    cells: Positive


class Aggregate(Strict):
    """rliable's aggregate of normalized scores; the interval resamples whole seeds."""

    value: Number
    ci: Interval | None = None


class Cell(Strict):
    """One training seed on one partition: mean returns over its episodes."""

    seed: Seed
    phi: Phi
    """Who is adversarial; all zeros in variants without adversaries."""
    clean: Number
    """The same for all partitions of a seed."""
    worst: Number
    """Under the strongest attacker; the clean value in variants without adversaries."""
    attacker: Word
    """Which one that was; "none" in variants without adversaries."""


class CurvePoint(Strict):
    """A point of an attack-budget curve: the team's return after so many steps of an attack."""

    steps: Count
    mean: Number
    ci: Interval | None = None


class Curve(Strict):
    """How far a trained attacker got with how much work, averaged over its cells."""

    attacker: Word
    points: Annotated[list[CurvePoint], Field(min_length=1, max_length=200)]
    falling: bool
    """Whether it still gained at its end: then the score is an upper bound."""


class BudgetFacts(Strict):
    """How much work the evaluation did; see `mir2bench.evaluation.protocol.Budget`."""

    name: Word
    attack_steps: Positive
    attack_restarts: Positive
    episodes: Positive
    """Per cell and attacker."""


class Scores(Strict):
    """What an evaluation found."""

    protocol: Word
    """Name and version of the protocol, such as suite-v1."""
    attackers_sha256: Sha256
    """Of protocol and resolved attacker configurations: two rows with different ones were attacked differently."""
    budget: BudgetFacts
    mir2bench: Word
    commit: Commit | None = None
    date: datetime.date
    provisional: Line | Literal[""] = ""
    """Why these numbers do not count as final; "" if they do."""
    failures: Count = 0
    """Evaluations that the policy failed, by an answer that cannot be played or takes too long: the row is unranked."""
    floor: Number
    ceiling: Number
    clean: Score
    worst: Score | None = None
    """Under the strongest attacker of each cell; None in variants without adversaries."""
    difference: Score | None = None
    """`worst` minus `clean`, paired by seed; on the variant's scale its floor is 0."""
    iqm: Aggregate
    """Of the worst case, or of the clean arm in variants without adversaries."""
    median: Aggregate
    optimality_gap: Aggregate
    attackers: Annotated[dict[Word, Score], Field(max_length=100)]
    """Each attacker alone; "transfer" is the strongest of those trained against other teams."""
    not_applicable: Annotated[dict[Word, Line], Field(max_length=100)] = {}
    """Attackers that cannot play against this team, and why."""
    partitions: Annotated[dict[Phi, Score], Field(max_length=1000)]
    """The worst case of each partition, over training seeds."""
    cells: Annotated[list[Cell], Field(min_length=1, max_length=10_000)]
    curves: Annotated[list[Curve], Field(max_length=50)] = []

    @model_validator(mode="after")
    def _consistent(self) -> Scores:
        keys = [(cell.seed, cell.phi) for cell in self.cells]
        if len(set(keys)) < len(keys):
            raise ValueError("a cell is listed twice")
        if not self.ceiling > self.floor:
            raise ValueError("the ceiling must be above the floor")
        if self.worst is None:
            if self.attackers:
                raise ValueError("there are attackers but no worst case")
            return self
        mean = sum(cell.worst for cell in self.cells) / len(self.cells)
        if self.worst.cells != len(self.cells) or abs(mean - self.worst.mean) > 1e-6 * max(1.0, abs(mean)):
            raise ValueError(f"the mean of the cells' worst returns is {mean:.6g}, but `worst` says {self.worst.mean}")
        return self


class Reported(Scores):
    """What the authors found themselves."""

    command: Annotated[str, Field(min_length=1, max_length=8000), AfterValidator(printable)] | None = None
    """How to do it again."""
    episodes: File


class Verified(Scores):
    """What an attack from scratch found, on seeds that nobody knew."""

    salt_sha256: Sha256
    """Hash of the secret that evaluation seeds, attack seeds and the sample of partitions derive from."""
    cells_total: Positive
    """Cells of the whole protocol; `cells` lists those that were attacked."""
    episodes: File
    picture: File | None = None
    """One episode under the strongest attacker that needs no training."""

    @model_validator(mode="after")
    def _counted(self) -> Verified:
        if len(self.cells) > self.cells_total:
            raise ValueError(f"{len(self.cells)} cells were verified of {self.cells_total}")
        return self


class Superseded(Strict):
    """A value that no longer counts, and why."""

    date: datetime.date
    """When it was superseded."""
    kind: Literal["verify", "challenge", "correction"]
    table: Literal["reported", "verified"]
    reason: Line
    clean: Score
    worst: Score | None = None
    iqm: Aggregate
    salt_sha256: Sha256 | None = None


class AdversaryFiles(Strict):
    """A bundle of adversaries that a challenge brings."""

    phi: Phi
    seed: Seed | None = None
    """The policy it plays against; None for all."""
    files: Annotated[list[File], Field(min_length=2, max_length=12)]


class Challenge(Strict):
    """A stronger attack that was accepted: it lowered the row, and stays part of it."""

    name: Name
    """Its column is called "challenge:<name>"."""
    description: Line
    authors: Annotated[list[Word], Field(min_length=1, max_length=50)]
    links: Links = Links()
    date: datetime.date
    lowered: Positive
    """Cells in which it was the strongest attack so far."""
    adversaries: Annotated[list[AdversaryFiles], Field(min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _fits(self) -> Challenge:
        root = f"{CHALLENGES}/{self.name}/"
        outside = [f.path for a in self.adversaries for f in a.files if not f.path.startswith(root)]
        if outside:
            raise ValueError(f"the files of the challenge must lie in {root}, but {outside[0]} does not")
        return self


class Entry(Strict):
    """A row of a leaderboard, whole."""

    format: Literal[1]
    variant: VariantId
    entry: Name
    method: Method
    training: Training
    policies: Annotated[list[PolicyFiles], Field(max_length=MAX_SEEDS)]
    reported: Reported | None = None
    verified: Verified | None = None
    challenges: Annotated[list[Challenge], Field(max_length=100)] = []
    history: Annotated[list[Superseded], Field(max_length=1000)] = []

    @model_validator(mode="after")
    def _whole(self) -> Entry:
        seeds, have = self.training.seeds, [policy.seed for policy in self.policies]
        if len(set(seeds)) < len(seeds):
            raise ValueError("a training seed is declared twice")
        if self.method.kind == "scripted":
            if seeds or have:
                raise ValueError("a scripted team has neither training seeds nor policies")
        elif not seeds or sorted(have) != sorted(seeds):
            raise ValueError(f"each declared training seed needs its policy: declared {seeds}, given {have}")
        weights = [f.sha256 for p in self.policies for f in p.files if f.path in p.networks]
        if len(set(weights)) < len(weights):
            raise ValueError("two training seeds have the same policy: a seed counts once")
        declared = set(seeds) or {0}
        for table in (REPORTED, VERIFIED):
            scores: Scores | None = getattr(self, table)
            if scores is None:
                continue
            strange = {cell.seed for cell in scores.cells} - declared
            if strange:
                raise ValueError(f"`{table}` has cells of seed {min(strange)}, which is not declared")
            if table == REPORTED and {cell.seed for cell in scores.cells} != declared:
                raise ValueError(f"`{table}` leaves out seed {min(declared - {c.seed for c in scores.cells})}")
            file = getattr(scores, "episodes", None)
            if file is not None and file.path != f"{table}/{EPISODES}":
                raise ValueError(f"the episodes of `{table}` must be {table}/{EPISODES}, not {file.path}")
            picture = getattr(scores, "picture", None)
            if picture is not None and picture.path != f"{VERIFIED}/{PICTURE}":
                raise ValueError(f"the picture of `{table}` must be {VERIFIED}/{PICTURE}, not {picture.path}")
        return self

    @property
    def folder(self) -> PurePosixPath:
        """Where it lies inside `leaderboards/`: <variant>/<entry>."""
        return PurePosixPath(self.variant.removeprefix("mir2bench/")) / self.entry

    def files(self) -> list[File]:
        """Return all files that it names."""
        named = [file for policy in self.policies for file in policy.files]
        named += [file for c in self.challenges for adversary in c.adversaries for file in adversary.files]
        if self.verified is not None and self.verified.picture is not None:
            named.append(self.verified.picture)
        return named + [s.episodes for s in (self.reported, self.verified) if s is not None and s.episodes is not None]


def parse_entry(text: str | bytes, where: str = ENTRY_FILE) -> Entry:
    """Read the content of an `entry.json`.

    Raises:
        EntryError: too large, no JSON, a key that occurs twice, or a breach of the models; one line that names the
            first few.
    """
    if len(text) > MAX_ENTRY:
        raise EntryError(f"{where} has {len(text)} bytes, more than {MAX_ENTRY}.")
    try:
        json.loads(text, object_pairs_hook=_unique)
        return Entry.model_validate_json(text)
    except ValidationError as error:
        raise EntryError(f"{where}: {explain(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise EntryError(f"{where} is not valid JSON: {' '.join(str(error).split())[:200]}.") from error


def read_entry(folder: str | Path) -> Entry:
    """Read the `entry.json` of a folder; see `parse_entry`.

    Raises:
        EntryError: as `parse_entry`, or the file cannot be read or is no ordinary file.
    """
    path = Path(folder) / ENTRY_FILE
    try:
        if path.is_symlink() or not path.is_file():
            raise EntryError(f"{folder} is no entry: it holds no ordinary file {ENTRY_FILE}.")
        if path.stat().st_size > MAX_ENTRY:
            raise EntryError(f"{path} has {path.stat().st_size} bytes, more than {MAX_ENTRY}.")
        return parse_entry(path.read_bytes(), str(path))
    except OSError as error:
        raise EntryError(f"cannot read {path}: {error.strerror}.") from error


def dump_entry(entry: Entry) -> str:
    """Return the content of `entry.json`; the same entry gives the same text."""
    return entry.model_dump_json(indent=1) + "\n"


def explain(error: ValidationError) -> str:
    """Return the first breaches in one line: where, what, and how many more there are."""
    lines = []
    found = error.errors(include_url=False, include_context=False, include_input=True)
    for breach in found[:3]:
        where = ".".join(str(part) for part in breach["loc"]) or "the entry"
        given = repr(breach.get("input"))
        shown = "" if len(given) > 60 or breach["type"] in ("missing", "value_error") else f", but it is {given}"
        lines.append(f"{where[:120]}: {breach['msg'].removeprefix('Value error, ')}{shown}")
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return " ".join(f"{'; '.join(lines)}{more}".split())


def schema_text() -> str:
    """Return the JSON schema of `entry.json`, as it lies in `leaderboards/entry.schema.json`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Entry.model_json_schema(),
    }
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)[:80]!r} occurs twice")
    return found
