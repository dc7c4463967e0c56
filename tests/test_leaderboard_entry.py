"""The entry of a leaderboard: its models, its schema, what they refuse."""

from __future__ import annotations

import json

import pytest
from board_entries import dump, make_entry, write_board

from mir2bench.content import content_dir
from mir2bench.leaderboard.entry import EntryError, dump_entry, parse_entry, read_entry, schema_text


def test_the_schema_in_the_folder_is_the_models():
    assert (content_dir("leaderboards") / "entry.schema.json").read_text(encoding="utf-8") == schema_text()


def test_an_entry_survives_writing_and_reading():
    entry = make_entry(wins=True)
    assert parse_entry(dump_entry(entry)) == entry
    assert entry.training.config["extra"] is None
    assert entry.folder.as_posix() == "Rendezvous10-adv1-v0/example"


def test_a_board_of_made_up_entries(tmp_path):
    entries = write_board(tmp_path, 8)
    assert [read_entry(tmp_path / e.folder) for e in entries] == entries
    assert sum(e.verified is None for e in entries) == 2
    assert all((tmp_path / e.folder / f.path).stat().st_size == f.bytes for e in entries for f in e.files())


def _set(content, path, value):
    *way, last = path
    for part in way:
        content = content[part]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["rank"], 1, "rank: Extra inputs are not permitted"),
        (["format"], 2, "format"),
        (["variant"], "Rendezvous10-adv1-v0", "variant"),
        (["entry"], "../x", "entry"),
        (["method", "authors"], [], "method.authors"),
        (["method", "name"], "a\u202eb", "direction marks"),
        (["method", "name"], "x" * 81, "at most 80"),
        (["method", "links", "paper"], "http://example.org", "https://"),
        (["method", "links", "paper"], "https://a@example.org", "https://"),
        (["method", "links", "paper"], "https://example.org/<script>", "https://"),
        (["method", "links", "paper"], "javascript:alert(1)", "https://"),
        (["training", "checkpoint"], "best", "checkpoint"),
        (["training", "seeds"], [0, 1], "each declared training seed"),
        (["training", "seeds"], [0, 1, 1], "twice"),
        (["training", "config", "f"], {"a": 1}, "training.config.f"),
        (["policies", 0, "files", 0, "path"], "policies/seed0/../../x", "inside the entry's folder"),
        (["policies", 0, "files", 0, "path"], "/etc/passwd", "inside the entry's folder"),
        (["policies", 0, "files", 0, "path"], "policies/seed1/policy.json", "must lie in policies/seed0/"),
        (["policies", 0, "files", 0, "bytes"], 2**20, "more than 1048576"),
        (["policies", 0, "files", 0, "sha256"], "A" * 64, "sha256"),
        (["policies", 0, "format"], "onnx", "policy.onnx is missing"),
        (["reported", "clean", "mean"], "1", "valid number"),
        (["reported", "clean", "ci"], [1.0], "reported.clean.ci"),
        (["reported", "worst", "mean"], 0.0, "the mean of the cells"),
        (["reported", "cells", 0, "seed"], 7, "not declared"),
        (["verified", "salt_sha256"], None, "salt_sha256"),
        (["verified", "cells_total"], 1, "were verified of 1"),
        (["verified", "episodes", "path"], "verified/other.parquet", "must be verified/episodes.parquet"),
    ],
)
def test_a_breach_is_told_in_one_line(path, value, message):
    content = json.loads(dump_entry(make_entry()))
    _set(content, path, value)
    with pytest.raises(EntryError) as caught:
        parse_entry(dump(content))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"format": 1, "format": 1}',
        "[" * 100_000,
        "x" * 2**21,
        '{"a": NaN}',
        b"\xff\xfe",
        '{"a": 1e999}',
    ],
)
def test_what_is_no_entry_is_told_in_one_line(text):
    with pytest.raises(EntryError) as caught:
        parse_entry(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e13", "true"])
def test_numbers_are_finite(number):
    text = dump_entry(make_entry()).replace('"format":', f'"x": {number}, "format":', 1)
    with pytest.raises(EntryError):
        parse_entry(text)
    mean = json.loads(dump_entry(make_entry()))["reported"]["clean"]["mean"]
    with pytest.raises(EntryError):
        parse_entry(dump_entry(make_entry()).replace(str(mean), number, 1))
