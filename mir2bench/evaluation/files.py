"""Writing that is whole or absent: what lies under its final name was written to the end and is on the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mir2bench.errors import StudyError

_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "the disk quota is used up. Free some space",
    errno.EFBIG: "the file would exceed the size limit of this process. Raise the limit",
    errno.EROFS: "the file system is read-only. Choose another folder with --out",
    errno.EACCES: "there is no permission to write. Change it or choose another folder with --out",
    errno.EPERM: "there is no permission to write. Change it or choose another folder with --out",
    errno.ENOTDIR: "a part of the path is a file. Choose another folder with --out",
    errno.ENAMETOOLONG: "the path is too long. Choose another folder with --out",
    errno.EIO: "the disk reports an error. Check it",
}


class StorageError(StudyError):
    """The disk is full, read-only or broken: no further job can be kept, so the study stops."""


def storage_error(error: OSError, path: Path | str) -> StorageError:
    """Turn an error of the operating system into one that says what failed where and what to do."""
    advice = _ADVICE.get(error.errno or 0, f"{error.strerror or error}. Check the folder")
    return StorageError(f"cannot write {error.filename or path}: {advice}; nothing that was finished is lost.")


@contextlib.contextmanager
def storing(path: Path | str) -> Iterator[None]:
    """Raise `StorageError` for an `OSError` inside, which happens while writing to `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def plain(value: Any) -> Any:
    """Return data that JSON can hold: numpy numbers and tuples become Python's, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, data: Any, *, indent: int | None = 2, sync: bool = True) -> None:
    """Write plain data as JSON, whole or not at all; see `replace_file`."""
    text = json.dumps(plain(data), indent=indent, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), sync=sync)


def replace_file(path: Path, write: Callable[[Path], Any], *, sync: bool = True) -> None:
    """Let `write` fill a temporary sibling, then put it in the place of `path`.

    Args:
        path: the file.
        write: gets the temporary path.
        sync: whether to wait until it is on the disk; needless in a folder that `settle_folder` takes care of.

    Raises:
        StorageError: the disk is full, read-only or broken; `path` is as it was then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        try:
            write(temporary)
            if sync:
                _sync(temporary)
            os.replace(temporary, path)
            if sync:
                _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def settle_folder(temporary: Path, final: Path, *, sync: bool = True) -> None:
    """Put everything in `temporary` on the disk, then rename it to `final`, which must not exist or be empty.

    Without `sync` the disk may lag behind: a crash of the machine (not of the process) may leave damaged files.
    """
    if sync:
        for path in sorted(temporary.rglob("*")):
            _sync(path)
        _sync(temporary)
    os.rename(temporary, final)
    if sync:
        _sync(final.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in the place of an older one."""
    if final.exists():
        shutil.rmtree(final)
    settle_folder(temporary, final)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differences(there: Any, here: Any, where: str = "") -> list[str]:
    """Name the entries in which two configurations differ, with both values."""
    there, here = _by_name(there), _by_name(here)
    if isinstance(there, dict) and isinstance(here, dict):
        found: list[str] = []
        for key in [*there, *(k for k in here if k not in there)]:
            found += differences(there.get(key), here.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if there == here else [f"{where}: {_short(there)} there, {_short(here)} here"]


def _by_name(value: Any) -> Any:
    """Return a list of named things as a mapping, so that they are compared by name and not by place."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and ("name" in v or "id" in v) for v in value):
        return {v.get("name", v.get("id")): v for v in value}
    return value


def _short(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return "absent" if value is None else "present"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
