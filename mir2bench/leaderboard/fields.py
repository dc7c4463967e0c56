"""The types of an entry's fields: numbers with bounds, texts that cannot mislead, links and paths that stay inside."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

NAME = "[a-z0-9][a-z0-9-]{0,62}"
"""Pattern of an entry's or a challenge's short name."""
_PILE = re.compile(r"[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]{3}")  # combining marks


def printable(text: str) -> str:
    """Return a text that shows what it is."""
    if not text.isprintable():
        raise ValueError("must hold printable characters only, without line breaks or direction marks")
    if unicodedata.normalize("NFC", text) != text or re.search(
        r"(?:[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]){3}", text
    ):
        raise ValueError("must be in Unicode's form NFC, without piles of combining marks")
    return text


def _https(link: str) -> str:
    try:
        parts = urlsplit(link)
        fine = parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        fine = False
    if not fine or re.search(r"[\s<>\"'`\\^{}|]", link) or not (link.isascii() and link.isprintable()):
        raise ValueError("must be a link that begins with https:// and names a host")
    return link


def _inside(path: str) -> str:
    parts = path.split("/")
    if any(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", part) is None or part.endswith(".") for part in parts):
        raise ValueError("must be a path inside the entry's folder, of letters, digits and . _ + - between slashes")
    return path


Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[int, Field(ge=1, le=10**15)]
Line = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(printable)]
Word = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(printable)]
Link = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_https)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
VariantId = Annotated[str, Field(max_length=100, pattern=r"^mir2bench/[A-Za-z0-9_+-]+-v[0-9]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}(\+changes)?$")]
RelativePath = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_inside)]
Seed = Annotated[int, Field(ge=0, lt=10**9)]
Phi = Annotated[str, Field(pattern=r"^[01]{1,200}$")]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
"""[low, high], a 95% interval."""
Scalar = bool | Annotated[int, Field(ge=-(10**15), le=10**15)] | Number | Line | Literal[""] | None
