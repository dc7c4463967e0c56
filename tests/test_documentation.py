"""Every code block of README.md, CONTRIBUTING.md, docs/, baselines/ and leaderboards/ is run, and every link followed."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import documents
import pytest
from documents import EXCUSE, NOT_CODE, PAGES, ROOT, SHELL, Session, blocks

import mir2bench
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
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new, "content_dir", lambda _: tmp_path / "leaderboards")
    code = [block for block in blocks(page) if not block.excuse and block.language not in NOT_CODE]

    def work() -> None:
        for block in code:
            session.run(block)

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            documents.undisturbed(work)
        except MissingDependencyError as error:
            pytest.skip(str(error))
    assert [(line, code) for line, code in session.ran if code and not may_fail(line)] == []


def may_fail(line: str) -> bool:
    return "leaderboard challenge" in line
