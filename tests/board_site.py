"""A made-up board with everything a page can show: sanity rows, hostile texts, challenges, one seed, another world."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from board_entries import make_entry

from mir2bench.leaderboard.entry import ENTRY_FILE, Entry, dump_entry, parse_entry
from mir2bench.leaderboard.ledger import record

HOSTILE = "<script>alert(1)</script>"
QUOTES = "\"><img src=x onerror='alert(2)'> {{ 7 * 7 }} {% raw %} ${8} </title> =1+1"
LONG = "W" * 80
SKIRMISH = "mir2bench/Skirmish-4m_vs_3m-adv1-v0"
PLAIN = "mir2bench/Rendezvous5-adv0-v0"


def edited(entry: Entry, change: Callable[[dict[str, Any]], Any]) -> Entry:
    """Return an entry after a change of its plain content; it must still keep every rule."""
    content = json.loads(dump_entry(entry))
    change(content)
    return parse_entry(json.dumps(content))


def _scripted(name: str, seed: int) -> Entry:
    def change(content: dict[str, Any]) -> None:
        content["method"].update(kind="scripted", algorithm=name, name=f"Scripted: {name}", authors=["mir2bench"])
        content["method"]["links"] = {}
        content["training"].update(seeds=[], steps=0, config={}, adversaries_seen=[])
        content["policies"] = []

    return edited(make_entry(f"scripted-{name}", seed=seed, seeds=1), change)


def _hostile(content: dict[str, Any]) -> None:
    content["method"].update(name=HOSTILE, description=QUOTES, authors=[LONG, QUOTES[:80], "a&lt;b"], algorithm=HOSTILE)
    content["method"]["links"] = {"paper": "https://example.org/?a=1&b=(2)", "code": None, "page": None}
    content["training"]["config"] = {QUOTES[:80]: QUOTES, "list": [HOSTILE, 1]}
    content["training"]["adversaries_seen"] = [HOSTILE]
    content["training"]["hardware"]["processor"] = QUOTES[:80]
    for table in ("reported", "verified"):
        scores = content[table]
        scores["attackers"][HOSTILE] = scores["attackers"].pop("circle")
        scores["not_applicable"] = {QUOTES[:80]: HOSTILE}
        scores["provisional"] = QUOTES
        for cell in scores["cells"]:
            cell["attacker"] = HOSTILE
        scores["curves"][0].update(attacker=HOSTILE, falling=True)
        scores["budget"]["name"] = "; rm -rf ~ #" + HOSTILE
    content["reported"]["command"] = f"python -m x '; rm -rf ~' {HOSTILE}"
    content["history"][0]["reason"] = QUOTES


def _challenged(content: dict[str, Any]) -> None:
    content["verified"]["attackers"]["challenge:pincer"] = content["verified"]["attackers"]["learned"]
    content["verified"]["failures"] = 2
    files = [
        {"path": f"challenges/pincer/a/{name}", "sha256": "0" * 64, "bytes": 2}
        for name in ("policy.json", "weights.safetensors")
    ]
    content["challenges"] = [
        {
            "name": "pincer",
            "description": "Two-phase attack.",
            "authors": ["Eve Example"],
            "links": {"paper": None, "code": "https://example.org/pincer", "page": None},
            "date": "2026-02-03",
            "lowered": 3,
            "adversaries": [{"phi": "1000000000", "seed": None, "files": files}],
        }
    ]


def _plain(content: dict[str, Any]) -> None:
    for scores in (content["reported"], content["verified"]):
        scores.update(worst=None, difference=None, attackers={}, curves=[], partitions={})
        scores["cells"] = [{**c, "phi": "0" * 5, "worst": c["clean"], "attacker": "none"} for c in scores["cells"]]
    content["history"] = []


def _curves_of_one(content: dict[str, Any]) -> None:
    content["reported"]["curves"] = [{"attacker": "learned", "points": [{"steps": 5, "mean": -1.0}], "falling": False}]


def board() -> list[Entry]:
    """Return the entries of the made-up board."""
    return [
        *(make_entry(f"method-{k}", seed=k, seeds=5, verified=k != 3) for k in range(6)),
        edited(make_entry("challenged", seed=20, seeds=5), _challenged),
        edited(make_entry("hostile", seed=21), _hostile),
        edited(make_entry("one-seed", seed=22, seeds=1, verified=False), _curves_of_one),
        _scripted("centroid", 23),
        _scripted("idle", 24),
        make_entry("fighter", variant=SKIRMISH, seed=25, partitions=4, wins=True),
        edited(make_entry("alone", variant=PLAIN, seed=26, partitions=1), _plain),
    ]


def write_site_board(root: Path) -> list[Entry]:
    """Write the made-up board below `root`, as `leaderboards/` holds it, with small stand-ins for files."""
    return write_entries(board(), root)


def write_entries(entries: list[Entry], root: Path) -> list[Entry]:
    """Write entries below `root`, with stand-ins for their files and with a ledger."""
    for entry in entries:
        content = json.loads(dump_entry(entry))
        folder = root / entry.folder
        _files(content, folder)
        written = parse_entry(json.dumps(content))
        (folder / ENTRY_FILE).write_text(dump_entry(written), encoding="utf-8")
        record(written, root)
    return entries


def _files(content: Any, folder: Path) -> None:
    """Write a stand-in for each file that an entry names, and put its hash in."""
    if isinstance(content, list):
        for item in content:
            _files(item, folder)
    elif isinstance(content, dict):
        for item in content.values():
            _files(item, folder)
        if {"path", "sha256", "bytes"} <= set(content):
            data = f"{folder.name}/{content['path']}".encode()
            (folder / content["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / content["path"]).write_bytes(data)
            content.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
