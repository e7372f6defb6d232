"""The worker process of a project's own check, started by sandbox.py. It imports nothing of this package, so that it starts fast.

    python -P sandbox_worker.py DOTTED.NAME MEGABYTES FOLDER

It reads one JSON list of arguments per line and writes one JSON object per line. Output of the check is discarded: the two pipes are
separate from its standard input and output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

# Characters of one reason, and reasons of one row, that are returned.
LONGEST, MOST = 500, 10


def main() -> None:
    """Import the function, confirm it, and answer until the input ends."""
    dotted, megabytes, folder = sys.argv[1:4]
    # Duplicates of the two pipes. The check's own input and output are then redirected to /dev/null.
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)

    def reply(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    sys.path.insert(0, folder)
    try:
        check = find(dotted)
    except BaseException as error:
        reply({"refused": describe(error, dotted)})
        return
    # After the import, so that the limit counts only what the check uses.
    limit_memory(int(megabytes))
    reply({"ready": True})
    for line in questions:
        reply(answer(check, json.loads(line)))


def find(dotted: str) -> Callable[..., Any]:
    """Return the function of a dotted name: the longest prefix that is a module, then attributes.

    Raises:
        LookupError: there is no such function.
    """
    parts = dotted.split(".")
    module = importlib.import_module(parts[0])
    found: Any = module
    for place, name in enumerate(parts[1:], 2):
        if not hasattr(found, name):
            try:
                importlib.import_module(".".join(parts[:place]))
            except ModuleNotFoundError as error:
                if error.name != ".".join(parts[:place]):
                    raise
        if not hasattr(found, name):
            known = sorted(n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n)))
            here = ".".join(parts[: place - 1])
            raise LookupError(f"{here} has no {name}; it has {', '.join(known[:20]) or 'no function'}")
        found = getattr(found, name)
    if not callable(found):
        raise LookupError(f"{dotted} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def describe(error: BaseException, dotted: str) -> str:
    """Return the reason for a failed import, in one sentence."""
    if isinstance(error, ModuleNotFoundError) and error.name == dotted.split(".")[0]:
        return f"there is no module {error.name} in the project's folder or in this environment"
    if isinstance(error, LookupError) and not isinstance(error, KeyError | IndexError):
        return str(error)[:LONGEST]
    return f"cannot be imported ({type(error).__name__}: {error})"[:LONGEST]


def limit_memory(megabytes: int) -> None:
    """Limit the memory beyond what the process uses now. Has no effect on systems that have no such limit."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as status:
            # The first number is the address space in pages, which is what RLIMIT_AS limits.
            held = int(status.read().split()[0]) * resource.getpagesize()
        # Soft and hard limit, so that the check cannot raise it again.
        resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * 2**20,) * 2)
    except (ImportError, OSError, ValueError):
        return


def answer(check: Callable[..., Any], arguments: list[str]) -> dict[str, Any]:
    """Return the result for one row: {"failed": reasons}, or {"kind": "exception" or "memory", "failed": [the error]}."""
    try:
        result = check(*arguments)
    except MemoryError:
        return {"kind": "memory", "failed": ["it exceeded its memory limit"]}
    except BaseException as error:  # a check may raise anything, even SystemExit: the row fails, the process continues
        return {"kind": "exception", "failed": [f"{type(error).__name__}: {error}"[:LONGEST]]}
    if result is None or result is True:
        return {"failed": []}
    if result is False:
        return {"failed": ["returned False"]}
    if isinstance(result, str):
        return {"failed": [result[:LONGEST]] if result else []}
    if isinstance(result, list | tuple) and all(isinstance(reason, str) for reason in result):
        return {"failed": [reason[:LONGEST] for reason in result[:MOST]]}
    return {"kind": "exception", "failed": [f"returned {type(result).__name__}, expected None, a bool, a str or a list of str"]}


if __name__ == "__main__":
    main()
