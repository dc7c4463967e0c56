"""Tables that the site's pages take from the package: `<!-- generated: NAME ARGUMENTS -->` calls `NAME(*ARGUMENTS)`.

Every function returns Markdown. Worlds whose packages are not installed are shown without sizes.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import mir2bench
from mir2bench.errors import MissingDependencyError
from mir2bench.evaluation import protocol
from mir2bench.list import describe
from mir2bench.partition import count_partitions
from mir2bench.registration import VariantSpec

ROOT = Path(__file__).resolve().parent.parent
_FIELDS = re.compile(r"    (?P<names>\S+(?:, \S+)*) \[(?P<unit>[^\]]*)\]: (?P<text>.*)")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    """Return a number with thousands separated; a hyphen for None."""
    return "-" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:,.10g}"


# --- worlds ---


def worlds(family: str) -> list[VariantSpec]:
    """Return one variant of each world of a family, that with the fewest adversaries."""
    found: dict[str, VariantSpec] = {}
    for name in mir2bench.list_variants(family=family):
        variant = mir2bench.spec(name)
        found.setdefault(_world(variant), variant)
    return list(found.values())


def _world(variant: VariantSpec) -> str:
    return re.sub(r"-adv\d+(?=-v)", "", variant.id)


def families() -> str:
    """Return the table of families."""
    names = dict.fromkeys(mir2bench.spec(v).family for v in mir2bench.list_variants())
    rows = []
    for name in names:
        ids = mir2bench.list_variants(family=name)
        first = mir2bench.spec(ids[0])
        extra = f'`pip install "mir2bench[{first.requires}]"`' if first.requires else "nothing more"
        rows.append((name, len(worlds(name)), len(ids), extra, first.description))
    return table(("family", "worlds", "ids", "needs", "what it is"), rows)


def variants(family: str) -> str:
    """Return the table of a family's worlds with their numbers of adversaries and sizes."""
    rows = []
    for world in worlds(family):
        row = describe(world)
        kind = {True: " choices", False: " in [-1, 1]", None: ""}[row["discrete"]]
        family_of = map(mir2bench.spec, mir2bench.list_variants(family=family))
        counts = [v.n_adversaries for v in family_of if _world(v) == _world(world)]
        sizes = [number(row[key]) for key in ("horizon", "obs", "state", "actions")]
        rows.append(
            (
                f"`{row['id'].replace('mir2bench/', '').replace(f'-adv{world.n_adversaries}-', '-adv<K>-')}`",
                world.n_agents,
                ", ".join(map(str, counts)),
                ", ".join(number(count_partitions(world.n_agents, k)) for k in counts),
                *sizes[:-1],
                f"{sizes[-1]}{kind}",
            )
        )
    return table(("id, after `mir2bench/`", "N", "K", "partitions", "steps", "obs", "state", "actions"), rows)


def anchors(family: str) -> str:
    """Return floors and ceilings of the normalized scores, with their origins, of a family's worlds."""
    rows = [
        (f"`{_world(v)}`", number(v.floor.score), v.floor.origin, number(v.ceiling.score), v.ceiling.origin)
        for v in worlds(family)
    ]
    same = {row[1:] for row in rows}
    if len(same) == 1:
        rows = [("all", *rows[0][1:])]
    return table(("world", "floor (0)", "its origin", "ceiling (1)", "its origin"), rows)


def history(family: str) -> str:
    """Return the version history of a family's worlds."""
    lines = {_world(v): " ".join(v.history) for v in worlds(family)}
    if len(set(lines.values())) == 1:
        return f"All worlds: {next(iter(lines.values()))}"
    return "\n".join(f"- `{world}`: {line}" for world, line in lines.items())


def attack_reward(family: str) -> str:
    """Return which reward attackers minimize, the engine, and its arguments in each world of a family."""
    found = worlds(family)
    ((engine, reward),) = {(v.engine, v.attack_reward) for v in found}
    text = f"Attackers minimize the reward `{reward}`. Engine: `{engine}`"
    rows = [(f"`{_world(v)}`", ", ".join(f"`{k} = {x}`" for k, x in v.engine_args.items())) for v in found]
    return f"{text}.\n\n{table(('world', 'arguments of the engine'), rows)}" if any(r[1] for r in rows) else f"{text}."


@functools.cache
def module_docstring(module: str) -> str:
    """Return a module's text without importing it, so that its packages need not be there."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    return ast.get_docstring(ast.parse(Path(found.origin).read_text())) or ""


def _engine_module(family: str) -> str:
    return worlds(family)[0].engine.partition(":")[0]


def world_text(family: str) -> str:
    """Return the text of a family's engine without the lists of fields: physics, reward, termination, differences."""
    text = module_docstring(_engine_module(family))
    text = re.sub(r"(?:Observation|State) fields.*?(?:\n\n|\Z)", "", text, flags=re.DOTALL)
    text = re.sub(r"`(?=rendezvous`)", "`mir2bench.engines.", text)
    text = re.sub(
        r"^(Reward[^:\n]*|Observation of agent i|State):|\b(Termination):", r"**\1\2**:", text, flags=re.MULTILINE
    )
    text = re.sub(r"^(Differences from .*):$", r"**\1**", text, flags=re.MULTILINE)
    return re.sub(r"(\*\*Differences.*\*\*)\n(?=1\.)", r"\1\n\n", text)


def field_lines(module: str, kind: str) -> list[tuple[list[str], str, str]]:
    """Return what a module's text says on its fields: (names, unit, text) of each line.

    Args:
        module: of the engine.
        kind: "Observation" or "State".
    """
    text = module_docstring(module)
    other = re.search(r"fields: those of `([\w.]+)`", text)
    if other:
        return field_lines(other[1], kind)
    section = re.search(rf"^{kind} fields[^\n]*:\n((?:    .*\n?)+)", text, re.MULTILINE)
    lines = section[1].splitlines() if section else []
    found = [match for line in lines if (match := _FIELDS.fullmatch(line))]
    return [(m["names"].split(", "), m["unit"], m["text"]) for m in found]


def general(field: str) -> str:
    """Return a field's name with its numbers replaced: `enemy_3_dx` -> `enemy_k_dx`, `angle_0_1` -> `angle_k_l`."""
    letters = iter("kl")
    return re.sub(r"(?<=_)\d+(?=_|$)", lambda _: next(letters), field)


def fields(variant: str) -> str:
    """Return the tables of what an agent observes and what the state holds in one variant."""
    chosen = mir2bench.spec(variant)
    try:
        layout = chosen.layout
    except MissingDependencyError as error:
        return f"Not shown: {error}"
    low, high = layout.obs_low, layout.obs_high
    bounds = list(zip(low, high, strict=True)) or [None] * layout.obs_dim
    parts = []
    for kind, names, ranges in (
        ("Observation", layout.observation_fields, bounds),
        ("State", layout.state_fields, [None] * layout.state_dim),
    ):
        rows = []
        for patterns, unit, text in field_lines(chosen.engine.partition(":")[0], kind):
            places = [i for i, name in enumerate(names) if any(fnmatchcase(general(name), p) for p in patterns)]
            if not places:
                continue
            shown = ", ".join(f"`{p}`" for p in patterns)
            row = [shown, len(places), unit, text]
            if kind == "Observation":
                row.insert(2, _range([ranges[i] for i in places]))
            rows.append(row)
        header = ["field", "numbers", "unit", "what it is"]
        if kind == "Observation":
            header.insert(2, "range")
        parts.append(f"**{kind}** of `{chosen.id}`, {len(names)} numbers:\n\n{table(header, rows)}")
    if layout.discrete:
        what = f"one integer: {', '.join(f'{i} `{name}`' for i, name in enumerate(layout.action_fields))}"
    else:
        what = f"{layout.action_dim} numbers in [-1, 1]: {', '.join(f'`{name}`' for name in layout.action_fields)}"
    return "\n\n".join([*parts, f"**Action** of one agent, {what}."])


def _range(bounds: Sequence[tuple[float, float] | None]) -> str:
    known = {b for b in bounds if b is not None and abs(b[0]) < 1e9}
    if not known:
        return "any"
    return " or ".join(f"[{low:.4g}, {high:.4g}]" for low, high in sorted(known))


# --- protocols ---


def budgets() -> str:
    """Return the table of budgets."""
    rows = [
        (
            f"`{b.name}`",
            b.defender_seeds,
            number(b.train_steps),
            number(b.attack_steps),
            b.attack_restarts,
            b.episodes,
            "the protocol's" if b.partitions is None else f"the first {b.partitions}",
            "yes" if b.board else "no",
        )
        for b in protocol.BUDGETS.values()
    ]
    header = ("budget", "seeds S", "training steps", "steps of an attack", "attacks a cell", "episodes", "partitions")
    return table((*header, "leaderboard"), rows)


def protocols() -> str:
    """Return the table of protocols."""
    rows = [
        (
            f"`{p.name}`",
            ", ".join(f"`{x}`" for x in p.trained),
            ", ".join(f"`{x}`" for x in p.white_box) or "-",
            "yes" if p.transfer else "no",
            p.sampled_partitions,
            {protocol.ROBUST: "the strongest trained attacker", protocol.WORST: "the strongest of all"}[p.headline],
        )
        for p in protocol.PROTOCOLS.values()
    ]
    header = ("protocol", "trained attackers", "white box", "transferred", "partitions for K > 1", "headline of a cell")
    return table(header, rows)


def seeds() -> str:
    """Return the table of seeds."""
    episodes = protocol.get_budget("standard").episodes
    last = protocol.get_budget("standard").defender_seeds - 1
    played, checked = protocol.evaluation_seeds(episodes), protocol.validation_seeds(episodes)
    rows = [
        ("defenders", f"0 to S - 1, so 0 to {last} with budget `standard`"),
        (
            "attackers",
            f"{number(protocol.attack_seed(0, 0))} + the defender's seed; "
            f"{number(protocol.attack_seed(0, 1))} + it for a second start",
        ),
        ("evaluation episodes", f"{number(played[0])} to {number(played[-1])}, the same in every cell"),
        ("validation episodes (tuning, anchors)", f"{number(checked[0])} to {number(checked[-1])} for {episodes}"),
    ]
    return table(("what is drawn", "its seeds"), rows)


def sampled_partitions() -> str:
    """Return, for each world with several adversaries, the partitions that studies attack."""
    standard, rows = protocol.get_budget("standard"), []
    chosen = protocol.get_protocol("suite-v1")
    for name in mir2bench.list_variants():
        variant = mir2bench.spec(name)
        n, k = variant.n_agents, variant.n_adversaries
        if k < 2:
            continue
        attacked = chosen.partitions(variant, standard)
        members = (" + ".join(str(i) for i, bit in enumerate(p.phi) if bit) for p in attacked)
        rows.append(((n, k, number(count_partitions(n, k)), "; ".join(members)), name))
    merged: dict[tuple[object, ...], list[str]] = {}
    for row, name in rows:
        merged.setdefault(row, []).append(f"`{name.removeprefix('mir2bench/')}`")
    header = ("agents", "adversaries", "partitions there are", "attacked (agents)", "variants")
    return table(header, [(*row, ", ".join(names)) for row, names in merged.items()])


# --- results ---


def results() -> str:
    """Return a section for each folder of results: what made it, its data and its figures."""
    base = ROOT / "docs" / "results"
    parts = []
    for folder in sorted(p for p in base.iterdir() if p.is_dir()):
        summary = folder / "summary.json"
        lines = [f"### {folder.name} {{#{folder.name}}}"]
        if summary.exists():
            data = json.loads(summary.read_text())
            lines += [f"```text\n{data['command']}\n```", f"Commit `{data['git_commit'][:12]}`."]
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        kept = [p for p in files if p.suffix not in (".png", ".svg")]
        lines.append("Files: " + ", ".join(f"[{p.name}]({p.relative_to(base).as_posix()})" for p in kept) + ".")
        lines += [
            f"![{p.stem} of {folder.name}]({p.relative_to(base).as_posix()})" for p in files if p.suffix == ".png"
        ]
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)
