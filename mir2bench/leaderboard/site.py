"""The static site of the leaderboards: `build` turns the entries into pages that need no server and no network.

index.html                        the variants
columns.html                      what every column means
<variant>/index.html              two tables, verified and self-reported, and charts
<variant>/board.json              the same as data
<variant>/<entry>/index.html      an entry, with its data beside it
assets/                           style sheet, scripts, and DataTables as the package itables ships it

Every text of an entry is a stranger's: templates escape all of it, links are those that the entry's model lets through,
and a content security policy keeps out whatever might slip by. The same entries give the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mir2bench
from mir2bench.content import content_dir
from mir2bench.errors import MissingDependencyError
from mir2bench.evaluation.files import plain, settle_folder, storing
from mir2bench.leaderboard import columns, pages
from mir2bench.leaderboard.board import read_board
from mir2bench.leaderboard.check import check_files, plain_files
from mir2bench.leaderboard.entry import ENTRY_FILE, Entry, EntryError
from mir2bench.registration import VariantSpec, load_family, spec

_HERE = Path(__file__).parent
_MARK = "assets/site.css"
"""A folder that holds this file was written by `build`, which may replace it."""
_HINT = "The site needs the extra `site`. Run: pip install 'mir2bench[site]'"


@dataclass(frozen=True)
class Built:
    """What `build` wrote.

    Attributes:
        index: the first page.
        variants, entries: how many boards and rows there are.
        files, bytes: how much was written.
    """

    index: Path
    variants: int
    entries: int
    files: int
    bytes: int


def build(content: Path, out: Path) -> Built:
    """Write the site of all entries into a folder, whole or not at all.

    Args:
        content: the folder `leaderboards/`, with <variant>/<entry>/entry.json.
        out: where to; an earlier site there is replaced, anything else is left alone.

    Raises:
        EntryError: an entry breaks a rule, or one of its files is missing or is not what the entry says.
        UnknownNameError: an entry's variant is not registered.
        MissingDependencyError: the extra `site` is not installed.
        StorageError: it cannot be written.
    """
    out = Path(out).absolute()
    if out.is_symlink() or (
        out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).is_file()))
    ):
        raise EntryError(f"{out} holds something else than a built site. Choose another folder, or empty this one.")
    boards = read_board(Path(content))
    for entry in (entry for entries in boards.values() for entry in entries):
        folder = Path(content) / entry.folder
        check_files(entry, folder, plain_files(folder))
    environment, script = _environment(), _datatables()
    temporary = out.with_name(f".{out.name}.tmp")
    with storing(out):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            site = _Site(temporary, environment)
            site.assets(script)
            for variant, entries in boards.items():
                site.variant(spec(variant), entries, Path(content))
            site.front(boards)
            shutil.rmtree(out, ignore_errors=True)
            settle_folder(temporary, out, sync=False)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    written = [path for path in out.rglob("*") if path.is_file()]
    count, size = sum(map(len, boards.values())), sum(path.stat().st_size for path in written)
    return Built(out / "index.html", len(boards), count, len(written), size)


class _Site:
    """Writes pages below a folder."""

    def __init__(self, root: Path, environment: Any) -> None:
        self._root, self._environment = root, environment
        self._boards: list[dict[str, Any]] = []

    def assets(self, datatables: str) -> None:
        for path in sorted((_HERE / "assets").iterdir()):
            self._write(f"assets/{path.name}", path.read_text(encoding="utf-8"))
        self._write("assets/datatables.js", datatables)

    def variant(self, variant: VariantSpec, entries: Sequence[Entry], content: Path) -> None:
        verified, reported = tables = [pages.make_table(entries, name) for name in pages.TITLES]
        folder = pages.short(variant.id)
        view = pages.variant_view(variant, verified, reported)
        self._page(f"{folder}/index.html", "variant.html", view)
        self._write(f"{folder}/board.json", _json(pages.board_data(entries, tables)))
        self._boards.append({"spec": variant, "short": folder, "verified": verified, "reported": reported})
        for entry in entries:
            files = {ENTRY_FILE: "everything on this page"}
            for scores in (entry.verified, entry.reported):
                picture = getattr(scores, "picture", None)
                if picture is not None:
                    files[picture.path] = "one attacked episode, drawn"
                if scores is not None and scores.episodes is not None:
                    files[scores.episodes.path] = "every episode behind the scores"
            downloads = [(path, self._copy(content, f"{entry.folder}/{path}"), what) for path, what in files.items()]
            self._page(f"{entry.folder}/index.html", "entry.html", pages.entry_view(entry, variant, tables, downloads))

    def front(self, boards: Mapping[str, Sequence[Entry]]) -> None:
        families: dict[str, list[str]] = {}
        for path in sorted(content_dir("registry").glob("*.toml")):
            for variant in load_family(path):
                if variant.id not in boards:
                    families.setdefault(variant.family, []).append(pages.short(variant.id))
        self._page("index.html", "index.html", {"boards": self._boards, "waiting": families})
        values = {"columns": columns.FIXED, "attacker_help": columns.ATTACKER_HELP}
        self._page("columns.html", "columns.html", values)

    def _copy(self, content: Path, path: str) -> int:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content / path, target, follow_symlinks=False)
        return target.stat().st_size

    def _page(self, path: str, template: str, values: Mapping[str, Any]) -> None:
        up = "../" * path.count("/")
        text = self._environment.get_template(template).render({**values, "up": up, "version": mir2bench.__version__})
        self._write(path, text)

    def _write(self, path: str, text: str) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")


def _json(data: Any) -> str:
    return json.dumps(plain(data), indent=1, allow_nan=False) + "\n"


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(_HINT) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = _size
    return environment


def _size(count: int) -> str:
    """Return a file's size for readers."""
    return f"{count} bytes" if count < 1000 else f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _datatables() -> str:
    """Return DataTables from the package itables, as a plain script: pages opened as files cannot load modules."""
    found = importlib.util.find_spec("itables")
    if found is None or found.origin is None:
        raise MissingDependencyError(_HINT)
    text = (Path(found.origin).parent / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    exports = list(re.finditer(r"export\{([^{}]*)\};", text))
    names = dict(part.split(" as ")[::-1] for match in exports for part in match[1].split(",") if " as " in part)
    if len(exports) != 1 or "default" not in names:
        raise MissingDependencyError("this version of itables packs DataTables in an unknown way. " + _HINT)
    start, end = exports[0].span()
    return f"(()=>{{{text[:start]}window.DataTable={names['default']};}})();\n{text[end:].strip()}\n"
