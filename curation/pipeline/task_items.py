"""The documents of an lm-eval task as the harness itself would look for them in training data."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from curation.errors import ProjectError

SPLITS = ("test", "validation", "train")


@lru_cache(maxsize=32)
def read_task(where: str, task: str, *, include: Path | None = None, split: str | None = None) -> tuple[str, ...]:
    """One text per document: its decontamination query where the task has one, else what the model is shown of it.

    Args:
        where: the key of project.yaml, for errors.
        include: a folder with the task's own YAML; its data may then be a local file, and nothing is fetched.
        split: test, validation or train; by default the first of them that the task evaluates on.

    Raises:
        ProjectError: lm-eval is not installed, knows no such task, or cannot get its data.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ProjectError(where, f"names the task {task!r}, and the package lm-eval is not installed", "pip install 'seedcorn[lm-eval]'")
    from lm_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=str(include) if include else None)
    if task not in manager.all_tasks:
        fact = f"names the task {task!r}, which lm-eval does not know"
        raise ProjectError(where, fact, "lm_eval ls tasks; or give the folder of its YAML as include_path")
    try:
        texts = [text for one in _leaves(get_task_dict([task], manager)) for text in _texts_of(one, split)]
    # datasets and the hub raise any of these when a task's data cannot be had.
    except (OSError, ValueError, RuntimeError, LookupError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        step = "give include_path, with a task whose dataset_path is json and whose data_files are local"
        raise ProjectError(where, f"the data of {task!r} cannot be had ({reason})", step) from error
    if not texts:
        raise ProjectError(where, f"the task {task!r} has no documents{f' in {split}' if split else ''}", "name another split")
    return tuple(texts)


def _leaves(tasks: Any) -> Iterable[Any]:
    """The tasks of a task or of a group of them."""
    for value in tasks.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value[1] if isinstance(value, tuple) else value


def _texts_of(task: Any, split: str | None) -> Iterable[str]:
    for name in [split] if split else SPLITS:
        if getattr(task, f"has_{'training' if name == 'train' else name}_docs")():
            for document in getattr(task, f"{'training' if name == 'train' else name}_docs")():
                yield str(_query_of(task, document) or task.doc_to_text(document))
            return


def _query_of(task: Any, document: Any) -> Any:
    try:
        return task.doc_to_decontamination_query(document) if task.should_decontaminate() else None
    # lm-eval 0.4.13 reads a rendered query as a Python literal, so one that is a template of plain words fails.
    except (SyntaxError, ValueError):
        return None
