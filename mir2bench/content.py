"""The only place that knows where `registry/`, `baselines/` and `leaderboards/` lie.

In a checkout they are the folders beside the package; in an installed wheel they travel as `mir2bench/_content/`.
The working directory never matters.
"""

from __future__ import annotations

from pathlib import Path

from mir2bench.errors import SpecError

_PACKAGE = Path(__file__).resolve().parent


def content_dir(name: str) -> Path:
    """Return the folder of the given content: "registry", "baselines" or "leaderboards".

    Raises:
        SpecError: the installation is damaged and holds no such folder.
    """
    for root in (_PACKAGE / "_content", _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise SpecError(f"No `{name}/` in this installation of mir2bench (looked beside {_PACKAGE}). Reinstall it.")
