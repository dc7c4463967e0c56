"""The documents: every code block is run, every command is understood, every link and every figure leads somewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest
from documents import EXCUSE, NOT_CODE, PAGES, ROOT, SHELL, Session, blocks
from PIL import Image

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.errors import MissingDependencyError
from mir2bench.leaderboard import new
from mir2bench.leaderboard.entry import read_entry

# Not documents but data with a few words, except for their index.
RESULTS = re.compile(r"docs/results/.+/")
RUN = [page for page in PAGES if blocks(page) and not RESULTS.match(page)]


def attacked_cell(session: Session) -> str:
    found = read_entry(session.folder / "leaderboards/Rendezvous5-adv1-v0/my-method").verified
    assert found is not None
    return found.cells[0].phi


def readme(session: Session, printed: str) -> None:
    assert session.scope["actions"].shape == (1, 10, 2)
    assert session.scope["obs"].shape == (10, 60)
    assert isinstance(session.scope["reward"], float)


def attacks(session: Session, printed: str) -> None:
    assert session.scope["env"].worlds.elapsed[0] > 0


def leaderboard(session: Session, printed: str) -> None:
    board = session.folder / "leaderboards/Rendezvous5-adv1-v0"
    mine, quick = (read_entry(board / name) for name in ("my-method", "my-maddpg"))
    assert mine.method.authors == ["Ada Example"]
    code = mine.training.code.model_copy(update={"repository": None})
    assert quick.training == mine.training.model_copy(update={"code": code})
    (challenge,) = (status for line, status in session.ran if "leaderboard challenge" in line)
    assert challenge == (0 if mine.challenges else 2)
    assert ("cells lowered" in printed) == bool(mine.challenges)
    onnx = read_entry(board / "mine")
    assert {policy.format for policy in onnx.policies} == {"onnx"}
    assert onnx.training.seeds == [0, 1]
    pairs = re.findall(r"^(-2\d\.\d{4}) (-2\d\.\d{4})$", printed, re.MULTILINE)
    assert len(pairs) == 1
    assert pairs[0][0] == pairs[0][1]


def mamujoco(session: Session, printed: str) -> None:
    ids = session.scope["ids"]
    assert ids == ["mir2bench/Swimmer2x1-adv0-v0", "mir2bench/Swimmer2x1-adv1-v0"]
    assert mir2bench.spec(ids[1]).layout.actuators == (("rot2",), ("rot3",))


def reading(session: Session, printed: str) -> None:
    (result,) = json.loads(Path(session.scope["folder"], "summary.json").read_text())["results"]
    assert printed.startswith(f"{result['defenders']['mir2']['arms']['worst']['mean']:.2f} {{0: ")


def robots(session: Session, printed: str) -> None:
    returns = session.scope["returns"]
    assert len(returns) == 100
    assert np.mean(returns[-10:]) > 3 * np.mean(returns[:10]) / 4  # they came together
    # What the loop makes of poses is what the world observes, at walls as well.
    variant = mir2bench.spec("RendezvousArena10-adv0-v0")
    worlds = Worlds(variant, 1)
    engine: Any = worlds.engine
    engine.conditions = engine.conditions.of({**variant.engine_args, "noise": 0.0})
    poses = np.random.default_rng(0).uniform((10, 10, 0), (190, 190, 6), (10, 3))
    poses[0, :2], poses[1, :2], poses[2, :2] = (3.5, 100.0), (150.0, 196.2), (196.5, 40.0)
    worlds.reset(seeds=[0], initial_state={"poses": poses})
    settled = worlds.engine.snapshot(0)["poses"]
    np.testing.assert_allclose(session.scope["observe"](settled), worlds.engine.obs[0], rtol=0, atol=1e-6)


AFTERWARDS: dict[str, Callable[[Session, str], None]] = {
    "README.md": readme,
    "docs/attacks.md": attacks,
    "docs/leaderboard.md": leaderboard,
    "docs/mamujoco.md": mamujoco,
    "docs/reading-a-result.md": reading,
    "docs/robots.md": robots,
}
NAMES_FILES = ("docs/analyses.md", "docs/claims.md", "docs/quickstart.md")
VARIABLES: dict[str, dict[str, Callable[[Session], str]]] = {"docs/leaderboard.md": {"PHI": attacked_cell}}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The finished jobs of all pages; the smoke budget is in force."""
    folder = tmp_path_factory.mktemp("jobs")
    patch = documents.at_smoke_budget(folder)
    yield folder
    patch.undo()


@pytest.mark.parametrize("page", RUN)
def test_blocks_run(
    page: str, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None
) -> None:
    session = Session(page, tmp_path, VARIABLES.get(page, {}))
    monkeypatch.chdir(tmp_path / Path(page).parent if page.startswith("docs/examples/") else tmp_path)
    monkeypatch.setattr(new, "content_dir", lambda _: tmp_path / "leaderboards")
    code = [block for block in blocks(page) if not block.excuse and block.language not in NOT_CODE]

    def work() -> None:
        for block in code:
            session.run(block)

    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        if "torch.onnx" in "".join(block.text for block in code):  # torch announces that this exporter will go
            warnings.simplefilter("ignore", DeprecationWarning)
        try:
            documents.undisturbed(work)
        except MissingDependencyError as error:
            pytest.skip(str(error))
    if page in AFTERWARDS:
        AFTERWARDS[page](session, printed.getvalue())
    if page in NAMES_FILES:
        assert sorted(named_files(page) - {path.name for path in tmp_path.rglob("*")}) == []


def named_files(page: str) -> set[str]:
    """Return the files that a page names as what its commands write."""
    code = {token.content for token in documents.inlines(page) if token.type == "code_inline"}
    return {name for name in code if re.fullmatch(r"[\w-]+\.(csv|parquet|json|png|svg|gif)", name)}


# --- what the pages hold ---


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    found = blocks(page)
    runnable = {"python", "toml", *SHELL}
    assert [f"line {b.line}: {b.language}" for b in found if b.language not in {*runnable, *NOT_CODE}] == []
    assert [f"line {b.line}: an excuse for no code" for b in found if b.excuse and b.language in NOT_CODE] == []
    said = [t.content for t in documents.tokens(page) if t.type == "inline" and "*Not run by" in t.content]
    assert [text for text in said if not EXCUSE.fullmatch(text)] == []
    assert len(said) == len([block for block in found if block.excuse])


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_are_understood(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands inside sentences, and those of blocks that are not run, are read as if they were to be run."""
    lines = [token.content for token in documents.inlines(page) if token.type == "code_inline"]
    unrun = [b for b in blocks(page) if b.language in SHELL and (b.excuse or RESULTS.match(page))]
    lines += [line for block in unrun for line in documents.commands(block.text)]
    for line in lines:
        for found in re.findall(r"(?:python -m )(mir2bench\.\w+)((?: +[^|;&]+)?)$", line):
            module, rest = found
            words = [w for w in shlex.split(rest) if w not in ("NAME", "...")]
            words = ["Rendezvous10-adv0-v0" if w == "<id>" else "1" if w == "N" else w for w in words]
            if words:
                assert documents.parse(module, words) == 0, line
        if line.startswith("pip install ") and "mir2bench" in line:
            documents.check_pip(shlex.split(line)[2:])
        if found := re.match(r"python (\S+\.py)", line):
            assert (ROOT / found[1]).exists()
        if found := re.match(r"make (\w+)$", line):
            assert re.search(rf"^{found[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Files exist, and so do headings, except those that the site's build makes, which its own check covers."""
    wrong = []
    for token in documents.inlines(page):
        link = str(token.attrs.get("href", token.attrs.get("src", "")))
        if not link or re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists():
            wrong.append(link)
        elif anchor:
            name = target.resolve().relative_to(ROOT).as_posix()
            generated = "<!-- generated:" in target.read_text(encoding="utf-8")
            if anchor not in documents.anchors(name) and not generated:
                wrong.append(link)
    assert wrong == []


# --- figures ---


@pytest.fixture(scope="module")
def drawing() -> Any:
    found = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_figure_has_a_rule_or_a_reason(drawing: Any) -> None:
    kept = [figure for figure in drawing.figures() if drawing.rule(figure) is None]
    assert len(kept) == 6
    assert all(any(fnmatch(figure, pattern) for figure in kept) for pattern in drawing.KEPT)
    with pytest.raises(LookupError, match=r"docs/results/new\.png has no rule"):
        drawing.rule("docs/results/new.png")


def test_figures_come_out_as_they_were_committed(drawing: Any, tmp_path: Path) -> None:
    results = ["rendezvous10-timing/timing.png", "rendezvous10-transfer/bars.png"]
    names = [*(f"docs/results/{name}" for name in results), "docs/images/traitor.gif"]
    assert drawing.draw(names, tmp_path) == names
    for name in names:
        with Image.open(ROOT / name) as old, Image.open(tmp_path / name) as drawn:
            assert old.size == drawn.size
            apart = np.abs(np.asarray(old.convert("L"), float) - np.asarray(drawn.convert("L"), float))
        assert apart.mean() < 1.0  # fonts of another machine may move an edge


def test_pictures_are_shown_and_shown_pictures_are_there(drawing: Any) -> None:
    shown = {
        ((ROOT / page).parent / source).resolve().relative_to(ROOT).as_posix()
        for page in PAGES
        for source in documents.pictures(page)
        if not source.startswith("https:")
    }
    committed = set(drawing.figures())
    assert shown <= committed
    assert {figure for figure in committed if figure.startswith("docs/images/")} <= shown
    told = {Path(figure).parts[2] for figure in committed if figure.startswith("docs/results/")}
    index = (ROOT / "docs/results/README.md").read_text()
    assert [folder for folder in sorted(told) if f"`{folder}`" not in index] == []
