"""The process in which a project's own check runs: started by callables.py with nothing of ours imported, so that it starts fast
and what the check does stays here.

    python -P child.py DOTTED.NAME MEGABYTES FOLDER

Reads one JSON list of arguments a line and answers one JSON object a line. What the check prints goes nowhere: the two pipes are
kept apart from its standard input and output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

LONGEST, MOST = 500, 10
"""Characters of one reason, and reasons of one row, that are handed back."""


def main() -> None:
    """Find the function, say so, and answer until the questions end."""
    dotted, megabytes, folder = sys.argv[1:4]
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)

    def tell(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    sys.path.insert(0, folder)
    try:
        check = find(dotted)
    except BaseException as error:
        tell({"refused": describe(error, dotted)})
        return
    limit_memory(int(megabytes))
    tell({"ready": True})
    for line in questions:
        tell(answer(check, json.loads(line)))


def find(dotted: str) -> Callable[..., Any]:
    """The function of a dotted name: the longest part that is a module, then attributes."""
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
    """Why a function could not be had, in one sentence."""
    if isinstance(error, ModuleNotFoundError) and error.name == dotted.split(".")[0]:
        return f"there is no module {error.name} in the project's folder or in this environment"
    if isinstance(error, LookupError) and not isinstance(error, KeyError | IndexError):
        return str(error)[:LONGEST]
    return f"cannot be imported ({type(error).__name__}: {error})"[:LONGEST]


def limit_memory(megabytes: int) -> None:
    """Allow so much beyond what the process holds once the check is imported. Not enforced where the system has no such limit."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as status:
            held = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * 2**20,) * 2)
    except (ImportError, OSError, ValueError):
        return


def answer(check: Callable[..., Any], arguments: list[str]) -> dict[str, Any]:
    """What the check says of one row: {"failed": reasons}, or {"kind": "exception" or "memory", "failed": [what was raised]}."""
    try:
        said = check(*arguments)
    except MemoryError:
        return {"kind": "memory", "failed": ["it took more memory than it may"]}
    except BaseException as error:  # a check may raise anything, SystemExit too: the row fails, the process goes on
        return {"kind": "exception", "failed": [f"{type(error).__name__}: {error}"[:LONGEST]]}
    if said is None or said is True:
        return {"failed": []}
    if said is False:
        return {"failed": ["returned False"]}
    if isinstance(said, str):
        return {"failed": [said[:LONGEST]] if said else []}
    if isinstance(said, list | tuple) and all(isinstance(reason, str) for reason in said):
        return {"failed": [reason[:LONGEST] for reason in said[:MOST]]}
    return {"kind": "exception", "failed": [f"returned {type(said).__name__}, not None, a truth value, a text or a list of texts"]}


if __name__ == "__main__":
    main()
