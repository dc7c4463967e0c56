"""What MkDocs does with the pages before it builds the site.

1. `<!-- generated: NAME ARGUMENTS -->` is replaced by what the function `NAME` of `reference.py` or `algorithms.py`
   returns, so that tables of worlds, protocols, defenders and attackers are those of the package, and pictures named
   `<!-- inline: FILE -->` by their text.
2. Files of the checkout outside `docs/` that pages link to become part of the site, under `repository/`; links to
   folders of results lead to their section of the page of results.
3. Notebooks become pages.
4. In the navigation a folder stands for its pages; a page or folder that is not there is an error.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "repository"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
GENERATED = re.compile(r"^<!-- generated: (\w+) ?(.*?) -->$", re.MULTILINE)
INLINE = re.compile(r"^<!-- inline: (\S+) -->$", re.MULTILINE)


def _module(name: str) -> Any:
    """Load a file beside this one; later ones can import it by its name."""
    found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert found is not None
    assert found.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def on_config(config: Any) -> Any:
    """Expand the folders of the navigation.

    Raises:
        PluginError: the navigation names what is not there.
    """
    docs = Path(config.docs_dir)

    def expand(entries: list[Any]) -> list[Any]:
        kept: list[Any] = []
        for entry in entries:
            title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
            if isinstance(value, list):
                kept.append({title: expand(value)})
                continue
            place = ROOT / value.removeprefix(f"{OUTSIDE}/") if value.startswith(f"{OUTSIDE}/") else docs / value
            pages = sorted(place.glob("*.md")) + sorted(place.glob("*.ipynb"))
            if not (pages if value.endswith("/") else place.is_file()):
                raise PluginError(f"the navigation in mkdocs.yml names {value}, but there is no such page. Write it.")
            if value.endswith("/"):
                kept += [p.relative_to(docs).with_suffix(".md").as_posix() for p in pages]
            else:
                kept.append(entry)
        return kept

    config.nav = expand(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside `docs/` that pages link to, and the pages of notebooks."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            _add_notebook(file, files, config)
    waiting = list(files.documentation_pages())
    wanted = [e for e in _leaves(config.nav) if e.startswith(f"{OUTSIDE}/")]
    seen: set[str] = set()
    while waiting or wanted:
        if waiting:
            page = waiting.pop()
            targets = [_target(page.src_uri, m[1]) for m in LINK.finditer(_filled(page.content_string))]
        else:
            targets = [wanted.pop().removeprefix(f"{OUTSIDE}/")]
        for target in targets:
            if target in seen or target.startswith("docs/") or not (ROOT / target).is_file():
                continue
            seen.add(target)
            new = File.generated(config, f"{OUTSIDE}/{target}", content=(ROOT / target).read_bytes())
            if target.endswith(".md"):
                new = File.generated(config, f"{OUTSIDE}/{target}", content=(ROOT / target).read_text())
                new.inclusion = InclusionLevel.NOT_IN_NAV
                waiting.append(new)
            files.append(new)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is generated, and let links lead to where things lie in the site."""
    source = page.file.src_uri
    markdown = _filled(markdown)
    markdown = INLINE.sub(
        lambda m: '<div class="diagram">\n' + (ROOT / _target(source, m[1])).read_text() + "</div>", markdown
    )
    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", lambda m: _link(m, source), markdown)


REFERENCE, ALGORITHMS = _module("reference"), _module("algorithms")


def _filled(markdown: str) -> str:
    """Return a page's text with what is generated in it."""
    return GENERATED.sub(lambda m: _generate(m[1], *m[2].split()), markdown)


@functools.cache
def _generate(name: str, *arguments: str) -> str:
    return getattr(ALGORITHMS if hasattr(ALGORITHMS, name) else REFERENCE, name)(*arguments)


def _leaves(entries: list[Any]) -> list[str]:
    values = [next(iter(e.values())) if isinstance(e, dict) else e for e in entries]
    return [leaf for v in values for leaf in (_leaves(v) if isinstance(v, list) else [v])]


def _target(source: str, link: str) -> str:
    """Return the path in the checkout that a page's relative link means."""
    place = source.removeprefix(f"{OUTSIDE}/") if source.startswith(f"{OUTSIDE}/") else f"docs/{source}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def _link(match: re.Match[str], source: str) -> str:
    whole, text, link = match[0], match[2], match[3]
    if re.match(r"\w+:|#", link):
        return whole
    path, _, anchor = link.partition("#")
    target = _target(source, path)
    if (ROOT / target).is_dir():
        folder = re.fullmatch(r"docs/results(?:/([\w-]+))?", target)
        if not folder:
            return text  # a folder is no page
        target, anchor = "docs/results/README.md", folder[1] or ""
    elif target.endswith(".ipynb"):
        target = target.removesuffix(".ipynb") + ".md"
    inside = target.removeprefix("docs/") if target.startswith("docs/") else f"{OUTSIDE}/{target}"
    relative = posixpath.relpath(inside, posixpath.dirname(source) or ".")
    return f"{match[1]}[{text}]({relative}{'#' if anchor else ''}{anchor})"


def _add_notebook(file: File, files: Files, config: Any) -> None:
    """Add the page of a notebook: its text, code and what was printed and drawn when it was last run."""
    cells = json.loads(file.content_string)["cells"]
    stem = file.src_uri.removesuffix(".ipynb")
    parts: list[str] = []
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                encoded = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="output" src="data:image/png;base64,{encoded}">')
            elif "text" in output or "text/plain" in data:
                printed = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
                parts.append(f"```text\n{printed}\n```")
    parts.append(f"[The notebook]({posixpath.basename(stem)}.ipynb)")
    files.append(File.generated(config, f"{stem}.md", content="\n\n".join(parts)))
