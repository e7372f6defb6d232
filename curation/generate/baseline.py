"""The baseline for `curate diversity`: the prompt one would write without a plan, repeated. It shows what the plan adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from curation.config.project import Project
from curation.generate.requests import FIELDS
from curation.prompts import fill
from curation.requests import Answer, Failure, Request
from curation.structured_output import list_schema, message_body, read_rows


def naive_requests(project: Project, count: int) -> Iterator[Request]:
    """Yield COUNT equal requests, which differ in their slots only."""
    system, user = fill(
        "teacher_naive",
        brief=project.brief.strip(),
        intended_use=project.intended_use.strip(),
        output_format=project.records.output_format.strip(),
    )
    schema = list_schema("examples", {key: {"type": "string"} for key in FIELDS["examples"]})
    body = message_body(project.models.teacher, system, user, schema)
    for n in range(count):
        yield Request(stage="naive", slot=f"naive:{n:05d}", role="teacher", body=body)


def naive_texts(answers: Iterable[Answer], project: Project) -> tuple[list[str], list[Failure]]:
    """Return the user's text of each answer, and the failures of unusable answers."""
    texts: list[str] = []
    failures: list[Failure] = []
    for answer in answers:
        rows = read_rows(answer, "examples", FIELDS["examples"])
        if isinstance(rows, Failure):
            failures.append(rows)
            continue
        instruction, text = rows[0]["instruction"].strip(), rows[0]["input"].strip()
        parts = [text or instruction] if project.records.system is not None else [instruction, text]
        texts.append("\n\n".join(filter(None, parts)))
    return texts, failures
