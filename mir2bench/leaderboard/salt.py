"""The secret that verification draws its seeds and its sample of partitions from.

Whoever knows the evaluation seeds can prepare for them. So those of a verification derive from a salt that the board's
keepers hold. Entries publish its hash: all can see which rows met the same conditions, and that nobody chose the salt
afterwards. Once a salt has retired it can be published, and every number drawn from it can be checked.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import numpy as np

from mir2bench.errors import ConfigError
from mir2bench.evaluation.protocol import Draw, Protocol, get_budget
from mir2bench.registration import VariantSpec

DEFAULT = Path("~/.config/mir2bench/leaderboard-salt")
_LENGTH = 32  # bytes
_EPISODES = 3_000_000_000_000  # above the seeds of training, validation and public evaluation
_ATTACKS = 2**31  # above the attack seeds of studies; with what is added they stay below 2**32


def read_salt(path: Path | None = None, *, make: bool = True) -> bytes:
    """Return the salt, and make it first if the file is not there.

    Args:
        path: its file, 32 bytes or more that only its owner can read; None for `DEFAULT`.
        make: whether it may be made.

    Raises:
        ConfigError: the file is too short, or cannot be read or made.
    """
    path = (path or DEFAULT).expanduser()
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_LENGTH))
        salt = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read or make the salt {path}: {error.strerror}. Name another file with --salt."
        ) from error
    if len(salt) < _LENGTH:
        raise ConfigError(f"the salt {path} has {len(salt)} bytes, but {_LENGTH} or more are needed to keep it secret.")
    return salt


def salt_hash(salt: bytes) -> str:
    """Return what is published of a salt."""
    return hashlib.sha256(salt).hexdigest()


def salted_draw(salt: bytes, variant: VariantSpec, protocol: Protocol, partitions: int | None) -> Draw:
    """Return where a verification's random numbers begin; the same for all entries of a variant.

    Args:
        salt: the secret.
        variant: the world.
        protocol: whose partitions are sampled.
        partitions: how many of them are attacked; None for all.
    """
    stream = hmac.digest(salt, variant.id.encode(), "sha512")
    everyone = ["".join(map(str, phi.phi)) for phi in protocol.partitions(variant, get_budget("standard"))]
    chosen = tuple(everyone)
    if partitions is not None and partitions < len(everyone):
        rng = np.random.default_rng(list(stream[16:32]))
        chosen = tuple(everyone[i] for i in sorted(rng.permutation(len(everyone))[:partitions]))
    return Draw(
        first_episode=_EPISODES + int.from_bytes(stream[:7], "big"),
        first_attack=_ATTACKS + int.from_bytes(stream[8:12], "big") % 2**30,
        partitions=chosen,
    )
