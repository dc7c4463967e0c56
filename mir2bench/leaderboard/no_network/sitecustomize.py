"""Lets Python's sockets refuse to connect, in the process that imports it.

Python imports a module of this name when it starts: with this folder in PYTHONPATH the rule holds in all workers.
"""

import sys

_REFUSED = frozenset(
    f"socket.{name}"
    for name in ("bind", "connect", "getaddrinfo", "gethostbyaddr", "gethostbyname", "sendmsg", "sendto")
)


def _refuse(event: str, _: object) -> None:
    if event in _REFUSED:
        raise PermissionError("there is no network while an entry is examined")


sys.addaudithook(_refuse)
