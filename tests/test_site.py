"""The static site: its pages hold what they should, escape what strangers wrote, and are the same each time."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_entries import make_entry
from board_site import HOSTILE, LONG, PLAIN, QUOTES, SKIRMISH, board, edited, write_entries, write_site_board
from scipy.stats import ttest_ind

from mir2bench.leaderboard import columns, pages, site
from mir2bench.leaderboard.charts import Line, line_chart, profile, tick_text
from mir2bench.leaderboard.entry import EntryError
from mir2bench.leaderboard.settings import letters
from mir2bench.leaderboard.standing import Runs, compare, tie_groups

BOARD = "Rendezvous10-adv1-v0"
OWN = {"theme.js", "copy.js", "tables.js", "datatables.js"}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    write_site_board(root)
    return root


@pytest.fixture(scope="module")
def built(content: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = site.build(content, tmp_path_factory.mktemp("out") / "site")
    assert (found.variants, found.entries) == (3, len(board()))
    assert found.files == sum(path.is_file() for path in found.index.parent.rglob("*"))
    return found.index.parent


class Page(HTMLParser):
    """Everything on a page: elements with attributes, ids, links, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.ids = {about["id"] for _, about in self.elements if "id" in about}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [about for name, about in self.elements if name == tag]


def pages_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.html"))


def test_every_link_leads_somewhere(built: Path) -> None:
    read = {path.resolve(): Page(path) for path in pages_of(built)}
    checked = 0
    for path, page in read.items():
        for tag, key in (("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")):
            for target in (str(about[key]) for about in page.all(tag)):
                if target.startswith("https://"):
                    continue
                file, _, anchor = target.partition("#")
                aim = (path.parent / file).resolve() if file else path
                assert aim.is_file(), f"{path}: {target}"
                assert aim.is_relative_to(built.resolve())
                assert not anchor or anchor in read[aim].ids, f"{path}: {target}"
                checked += 1
    assert checked > 200


def test_nothing_comes_from_outside_and_strangers_links_are_marked(built: Path) -> None:
    outside = 0
    for path in pages_of(built):
        page = Page(path)
        policy = next(str(m["content"]) for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for tag, about in page.elements:
            assert not [key for key in about if key.startswith("on") or key == "style"], f"{path}: {tag} {about}"
            assert tag not in ("iframe", "object", "embed", "base", "form", "style")
            if tag == "script":
                assert str(about["src"]).startswith(("../", "assets/"))
            if str(about.get("href")).startswith("http"):
                assert tag == "a"
                assert about["rel"] == "nofollow noopener noreferrer"
                outside += 1
    assert outside > 10
    for path in (built / "assets").glob("*.css"):
        assert "url(" not in path.read_text()
        assert "@import" not in path.read_text()


def test_hostile_texts_are_shown_as_text(built: Path) -> None:
    entry, table = Page(built / BOARD / "hostile" / "index.html"), Page(built / BOARD / "index.html")
    for page in (entry, table):
        assert HOSTILE in page.text
        assert {str(about["src"]).rpartition("/")[2] for about in page.all("script")} <= OWN
        assert page.all("img") == []
    for text in (QUOTES, LONG, "a&lt;b", "; rm -rf ~ #", "{{ 7 * 7 }}"):
        assert text in entry.text
    assert "49" not in entry.text.split("Paper")[0]  # no template in a text is ever evaluated
    raw = (built / BOARD / "hostile" / "index.html").read_text()
    assert raw.count("<script>") == 0
    shell = next(text for text in re.findall(r"<code>(.*?)</code>", raw) if "--budget" in text)
    assert "--budget &#39;; rm -rf ~ #" in shell  # quoted for the shell too


def test_same_entries_give_the_same_bytes(content: Path, built: Path, tmp_path: Path) -> None:
    again = site.build(content, tmp_path / "again").index.parent
    first = {p.relative_to(built): p.read_bytes() for p in built.rglob("*") if p.is_file()}
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()} == first


def test_tables_hold_their_rows_best_first(built: Path) -> None:
    verified, reported = (
        pages.make_table([e for e in board() if e.entry and BOARD in e.variant], name) for name in pages.TITLES
    )
    names = [row.entry.entry for row in verified.rows]
    assert "method-3" not in names
    assert "one-seed" not in names
    assert {row.entry.entry for row in reported.rows} - set(names) == {"method-3", "one-seed"}
    for setting in verified.settings:
        scores = [row.scores.iqm.value for row in verified.rows if row.setting == setting and not row.failed]
        assert scores == sorted(scores, reverse=True)
    page = (built / BOARD / "index.html").read_text()
    tables = re.findall(r'<table class="ranking".*?</table>', page, re.DOTALL)
    assert len(tables) == 2
    for table, rows in zip(tables, (verified.rows, reported.rows), strict=True):
        assert re.findall(r'<th scope="row".*?href="(.*?)/index.html"', table) == [row.entry.entry for row in rows]
        assert table.count('<th scope="col"') == len(columns.columns_of(rows))
        assert table.count(">sanity row<") == 2
        assert "<caption>" in table
    data = json.loads((built / BOARD / "board.json").read_text())
    assert [row["entry"] for row in data["verified"]] == names
    assert data["verified"][0]["group"] == "A1"


def test_every_column_is_explained(built: Path) -> None:
    page = Page(built / "columns.html")
    for rows in (pages.make_table(board(), "verified").rows, pages.make_table(board(), "reported").rows):
        assert {column.key for column in columns.columns_of(rows)} <= page.ids
    for column in columns.FIXED:
        assert column.title in page.text
        assert column.help in " ".join(page.text.split())


def test_columns_fit_the_world() -> None:
    def heads(variant: str) -> list[str]:
        rows = pages.make_table([entry for entry in board() if entry.variant == variant], "verified").rows
        return [column.key for column in columns.columns_of(rows)]

    assert "wins" in heads(SKIRMISH)
    plain = heads(PLAIN)
    assert not {"worst", "change", "curve", "attacker", "wins"} & set(plain)
    assert {"group", "method", "iqm", "clean"} <= set(plain)
    rows = pages.make_table([e for e in board() if BOARD in e.variant], "verified").rows
    challenges = next(column for column in columns.columns_of(rows) if column.key == "challenges")
    assert {challenges.fill(row).text for row in rows} == {"0", "1"}
    assert "challenge:pincer" not in [column.title for column in columns.columns_of(rows)]
    cells = next(column for column in columns.columns_of(rows) if column.key == "cells")
    assert any("2 failed" in cells.fill(row).small for row in rows)


def test_rows_attacked_in_another_way_are_never_compared() -> None:
    rows = pages.make_table([e for e in board() if BOARD in e.variant], "verified").rows
    assert {row.group[:1] for row in rows if not row.failed} == {"A", "B"}
    assert [row.entry.entry for row in rows if row.group.startswith("B")] == ["hostile"]
    assert [row.first for row in rows].count(True) == 2


def test_rows_stand_by_how_they_were_attacked_the_strongest_way_first() -> None:
    def change(**budget: Any) -> Any:
        return lambda content: content["verified"]["budget"].update(budget)

    def fewer(content: Any) -> None:
        scores = content["verified"]
        scores["cells"] = [c for c in scores["cells"] if c["phi"] == scores["cells"][0]["phi"]]
        mean = sum(c["worst"] for c in scores["cells"]) / len(scores["cells"])
        scores["worst"].update(mean=mean, cells=len(scores["cells"]))

    weak, strong = make_entry("weak", seed=1), make_entry("strong", seed=4)
    entries = [
        edited(make_entry("claims", seed=2), change(name="mine", attack_steps=10**12)),
        edited(weak, change(attack_steps=2_000)),
        edited(make_entry("one", seed=3), fewer),
        strong,
        edited(make_entry("paper", seed=5), lambda content: content["verified"].update(protocol="paper-v1")),
        edited(make_entry("few", seed=6), change(episodes=4)),
    ]
    rows = pages.make_table(entries, "verified").rows
    assert [row.entry.entry for row in rows] == ["strong", "few", "one", "weak", "claims", "paper"]
    assert [row.group for row in rows] == ["A1", "B1", "C1", "D1", "E1", "F1"]
    assert all(row.first for row in rows)
    found = {row.entry.entry: row.setting for row in rows}
    assert found["one"] == "suite-v1, quick budget, 300,000 attack steps, 1 partition"
    assert found["weak"] == "suite-v1, quick budget, 2,000 attack steps, 2 partitions"
    assert len(set(found.values())) == len(found)  # `strong` and `few` differ in their episodes alone


def test_letters_go_on() -> None:
    assert [letters(n) for n in (0, 25, 26, 27, 51, 52, 701, 702)] == "A Z AA AB AZ BA ZZ AAA".split()  # noqa: SIM905
    steps = [
        edited(make_entry(f"m{n}", seed=n), lambda c, n=n: c["verified"]["budget"].update(attack_steps=n + 1))
        for n in range(30)
    ]
    rows = pages.make_table(steps, "verified").rows
    assert [row.group for row in rows] == [f"{letters(n)}1" for n in range(30)]
    orders = [columns.GROUP.cell(row).order for row in rows]
    assert orders == sorted(orders)


@pytest.mark.parametrize("name", ["verified", "reported"])
def test_a_row_that_failed_stands_below_all_others(name: str, tmp_path: Path) -> None:
    best = edited(make_entry("best", seed=1), lambda content: None)
    entries = [make_entry("good", seed=4), make_entry("other", seed=5), best]
    (first, *_) = pages.make_table(entries, name).rows

    def fail(content: Any) -> None:
        content[name]["failures"] = 1

    entries = [edited(e, fail) if e.entry == first.entry.entry else e for e in entries]
    rows = pages.make_table(entries, name).rows
    failed = rows[-1]
    assert failed.entry.entry == first.entry.entry
    assert failed.scores.iqm.value > rows[0].scores.iqm.value
    assert (failed.group, failed.first) == ("", False)
    assert (rows[0].group, rows[0].first) == ("1", True)
    cells = {column.key: column.cell(failed) for column in columns.columns_of(rows)}
    assert cells["group"].text == "failed"
    assert cells["iqm"].key == cells["beats"].key == ""  # last in the page's own sorting too
    write_entries(entries, tmp_path / "board")
    out = site.build(tmp_path / "board", tmp_path / "site").index.parent / BOARD
    told = json.loads((out / "board.json").read_text())[name][-1]
    assert (told["entry"], told["group"], told["failed"]) == (failed.entry.entry, None, True)
    assert "has no rank" in (out / failed.entry.entry / "index.html").read_text()
    assert 'class="badge warn">failed' in (out / "index.html").read_text()


def test_entry_page_shows_all_there_is(built: Path) -> None:
    page = Page(built / BOARD / "challenged" / "index.html")
    for words in (
        "Accepted challenges",
        "Two-phase attack.",
        "2 failed evaluations",
        "Provisional:",
        "a stronger attack",
    ):
        assert words in page.text
    folder = f"leaderboards/{BOARD}/challenged"
    for command in (
        f"mir2bench.leaderboard check {folder}",
        f"verify {folder} --full",
        f"--policy {folder}/policies/seed0",
    ):
        assert command in page.text
    downloads = {str(about["href"]) for about in page.all("a") if "download" in about}
    assert downloads == {"entry.json", "reported/episodes.parquet", "verified/episodes.parquet"}
    scripted = Page(built / BOARD / "scripted-centroid" / "index.html")
    assert "--algo scripted:centroid" in scripted.text
    assert "Policies of" not in scripted.text


def test_large_tables_keep_the_later_rows_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "AT_ONCE", 4)
    write_site_board(tmp_path / "board")
    site.build(tmp_path / "board", tmp_path / "out")
    page = (tmp_path / "out" / BOARD / "index.html").read_text()
    first, later = (
        re.search(p, page, re.DOTALL)
        for p in (r'id="table-reported" .*?</table>', r'id="more-reported">.*?</template>')
    )
    assert first is not None
    assert later is not None
    assert first[0].count('<th scope="row"') == 4
    assert later[0].count('<th scope="row"') == 7
    assert "These are the first 4 rows" in page


# --- what is refused ---


def test_altered_files_are_refused(content: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(content, tmp_path / "board")
    (copy / BOARD / "method-0" / "verified" / "episodes.parquet").write_bytes(b"other")
    with pytest.raises(EntryError, match="bytes, not"):
        site.build(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_entries_in_the_wrong_folder_are_refused(content: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(content, tmp_path / "board")
    (copy / BOARD / "method-0").rename(copy / BOARD / "other")
    with pytest.raises(EntryError, match="must lie there"):
        site.build(copy, tmp_path / "out")


def test_folders_that_hold_something_else_are_left_alone(content: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(EntryError, match="holds something else"):
        site.build(content, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_older_site_is_replaced(tmp_path: Path) -> None:
    write_site_board(tmp_path / "board")
    out = site.build(tmp_path / "board", tmp_path / "out").index.parent
    shutil.rmtree(tmp_path / "board" / BOARD)
    site.build(tmp_path / "board", out)
    assert not (out / BOARD).exists()
    assert BOARD in Page(out / "index.html").text  # among the boards that wait
    assert not list(tmp_path.glob(".out*"))


def test_an_empty_board_has_a_site(tmp_path: Path) -> None:
    (tmp_path / "board").mkdir()
    found = site.build(tmp_path / "board", tmp_path / "out")
    assert "There are no entries yet" in found.index.read_text()


# --- how rows stand to each other ---


def runs(scores: Any, fixed: bool = False) -> Runs:
    matrix = np.array(scores, dtype=float)
    return Runs(tuple(f"{i:03b}" for i in range(matrix.shape[1])), matrix, fixed)


def test_comparison_against_numbers_by_hand() -> None:
    x, y = runs([[0.5, 0.7], [0.7, 0.9]]), runs([[0.1, 0.3], [0.3, 0.5], [0.2, 0.4]])
    found = compare(x, y)  # seed means 0.6, 0.8 and 0.2, 0.4, 0.3
    assert found.difference == pytest.approx(0.4)
    assert found.probability == 1.0
    low, high = ttest_ind([0.6, 0.8], [0.2, 0.4, 0.3], equal_var=False).confidence_interval()
    assert found.interval == pytest.approx((low, high))
    assert found.verdict == "tie"  # two seeds say little
    assert compare(y, x).interval == pytest.approx((-high, -low))


def test_only_partitions_in_common_count() -> None:
    x, y = runs([[0.5, 0.9], [0.5, 0.9]]), runs([[0.5, np.nan], [0.5, np.nan]])
    assert compare(x, Runs(("000",), y.scores[:, :1], False)).difference == 0
    other = Runs(("111",), np.array([[0.1], [0.2]]), False)
    found = compare(x, other)
    assert np.isnan(found.difference)
    assert found.verdict == "unknown"


def test_tie_groups() -> None:
    def around(mean: float) -> Runs:
        return runs([[mean - 0.02], [mean + 0.02], [mean], [mean + 0.01], [mean - 0.01]])

    best, close, low, lower = around(0.8), around(0.79), around(0.5), around(0.49)
    one_seed, fixed = runs([[0.6]]), runs([[0.7]], fixed=True)
    assert tie_groups([best, close, fixed, one_seed, low, lower]) == [1, 1, 2, None, 3, 3]
    assert tie_groups([one_seed, best]) == [None, 1]
    assert tie_groups([runs([[0.9], [0.9]]), runs([[0.9], [0.9]]), runs([[0.8], [0.8]])]) == [1, 1, 2]
    assert tie_groups([]) == []


def test_two_scripted_teams_are_compared_by_their_partitions() -> None:
    x = runs([[0.5, 0.6, 0.7, 0.8]], fixed=True)
    assert compare(x, runs([[0.4, 0.5, 0.61, 0.7]], fixed=True)).verdict == "higher"
    assert compare(x, runs([[0.9, 0.3, 0.9, 0.5]], fixed=True)).verdict == "tie"


# --- charts ---


def test_profile_is_the_share_above() -> None:
    assert profile(np.array([[0.2, 0.5], [np.nan, 0.5]])) == [
        (0.0, 1.0),
        (0.2, pytest.approx(2 / 3)),
        (0.5, 0.0),
        (1.0, 0.0),
    ]


def test_chart_geometry() -> None:
    chart = line_chart([Line("a", [(0, 0), (1, 1)])], "x", "y", x_range=(0, 1), y_range=(0, 1))
    assert chart is not None
    plot = chart["plot"]
    assert chart["series"][0]["path"] == f"M{plot['left']} {plot['bottom']}L{plot['right']} {plot['top']}"
    assert line_chart([], "x", "y") is None
    assert line_chart([Line("flat", [(0, 5.0), (1, 5.0)])], "x", "y") is not None
    assert [tick_text(v) for v in (0, -0.5, 300_000, 2.5e6)] == ["0", "\N{MINUS SIGN}0.5", "300k", "2.5M"]


def test_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mir2bench.errors import MissingDependencyError

    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"mir2bench\[site\]"):
        site.build(tmp_path, tmp_path / "out")


def test_made_up_entries_survive_the_columns() -> None:
    row = pages.make_table([make_entry("a"), make_entry("b", seed=1)], "verified").rows[0]
    assert row.first
    assert row.group == "1"
    assert [column.fill(row).text for column in columns.FIXED if column.key == "beats"] == ["first"]
