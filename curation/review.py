"""The only code that speaks Argilla: show rows to people, bring back what they said. What is shown is a value (`Shown`) with a
digest, so that pushing again sends only differences and every answer can be held against exactly what was seen.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from argilla_setup import bootstrap, forms
from curation.decide import shown_first
from curation.errors import ReviewError
from curation.records import InstructionRecord, Kind, Message, Record, canonical_json

SIMULATED = "simulated-"
"""Names of annotators that are programs start with this; their answers never pass for a person's."""
BATCH = 25
"""Records a request. The server takes 500, but people who answer meanwhile wait for as long as one request writes."""
OVERLAP = 1
"""Requests on their way at once; a second one would leave annotators no gap between two writes."""
PAGE = 500
"""Records asked for at a time when answers are read."""
LONGEST_REQUEST = 120.0
_MARKDOWN_CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE | re.DOTALL,
)
"""Fenced blocks and code spans."""


@dataclass(frozen=True)
class Shown:
    """One record as people see it, and what owners may filter by."""

    id: str
    fields: Mapping[str, str]
    metadata: Mapping[str, str | float]
    suggestions: Mapping[str, str]
    vector: Sequence[float] | None = None

    @property
    def digest(self) -> str:
        """sha256 (hex, 16 characters) of all of it; the vector by its values."""
        plain = {
            "fields": dict(self.fields),
            "suggestions": dict(self.suggestions),
            "metadata": {k: str(v) for k, v in self.metadata.items()},
        }
        vector = hashlib.sha256(repr(list(self.vector)).encode()).hexdigest() if self.vector is not None else ""
        return hashlib.sha256(canonical_json(plain) + vector.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Given:
    """One response as Argilla holds it."""

    response: str
    record: str
    user: str
    status: str
    updated: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ArgillaReview:
    """A connection to the workspace of one project."""

    client: Any
    workspace: str
    url: str
    key: str = field(repr=False)
    literal: bool = False
    """True for a server of ours, whose page shows text literally. Every other Argilla inserts fields as HTML."""


def connect(folder: Path, *, argilla: str | None, workspace: str, annotators: Sequence[str]) -> ArgillaReview:
    """Open the workspace, making it on first use, and let the named annotators in.

    Args:
        argilla: the folder of `argilla-setup up --home`, relative to the project; None to read ARGILLA_API_URL and
            ARGILLA_API_KEY from the environment.

    Raises:
        UserError: Argilla cannot be reached, refuses the key, or an annotator does not exist.
    """
    accounts = folder / ".annotators"
    if argilla is not None:
        url, key, accounts = _read_home((folder / argilla).resolve())
    else:
        url, key = os.environ.get("ARGILLA_API_URL", ""), os.environ.get("ARGILLA_API_KEY", "")
        if not url or not key:
            raise ReviewError(
                "Argilla", "project.yaml names no `review.argilla` folder and ARGILLA_API_URL and ARGILLA_API_KEY are not set",
                "argilla-setup up --detach, then put its --home folder under review.argilla",
            )  # fmt: skip
    client = bootstrap.connect(url, key)
    bootstrap.ensure_workspace(client, workspace)
    bootstrap.ensure_annotators(client, annotators, workspace, folder=accounts)
    return ArgillaReview(client, workspace, url.rstrip("/"), key, bootstrap.shows_text_literally(url))


def show(record: Record, identity: str, *, scores: Mapping[str, float], terms: Mapping[str, str], vector: Sequence[float] | None) -> Shown:
    """What people see of a record: the text, never a score and never which answer its maker meant to be better."""
    metadata: dict[str, str | float] = {forms.score_name(name): value for name, value in scores.items()}
    metadata |= {name: terms[name] for name in forms.TERMS if name in terms}
    prompt = _conversation(record.prompt)
    if isinstance(record, InstructionRecord):
        text = record.completion.content
        return Shown(identity, {forms.PROMPT: prompt, forms.COMPLETION: text}, metadata, {forms.EDITED_COMPLETION: text}, vector)
    first = shown_first(identity)
    fields = {
        forms.PROMPT: prompt,
        forms.RESPONSE_A: record.completions[first].content,
        forms.RESPONSE_B: record.completions[1 - first].content,
    }
    return Shown(identity, fields, metadata, {}, vector)


def fit_to_page(review: ArgillaReview, shown: Sequence[Shown]) -> list[Shown]:
    """Return the records with fields that this server's page displays as the exact text.

    A page that inserts fields as HTML would run what a row contains and leave out `List<String>`, so the fields are escaped for it.
    Suggestions stay as they are: every Argilla assigns them as text, and what comes back is compared with them. The digest covers what is
    sent, so rows that were pushed unescaped before are updated by the next push.
    """
    if review.literal:
        return list(shown)
    return [replace(item, fields={name: escape_html(text) for name, text in item.fields.items()}) for item in shown]


def escape_html(text: str) -> str:
    """Return the HTML that a browser displays as this text."""
    return html.escape(text, quote=False).replace("\r", "&#13;")


def escape_markdown(text: str) -> str:
    """Return Markdown in which tags and entities are literal; code is left alone, because Markdown escapes it itself."""
    parts, end = list[str](), 0
    for code in _MARKDOWN_CODE.finditer(text):
        parts += [_escape_tags(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _escape_tags(text[end:])])


def form_settings(
    kind: Kind, *, criteria: Sequence[str], dimensions: int | None, overlap: int, words: str = "", literal: bool = True
) -> Any:
    """Return the form for a kind of record; the project's own words precede the description of the form.

    Args:
        criteria: names of the judge's criteria; each becomes a hidden metadata property.
        dimensions: size of the vectors for find-similar; None for none.
        overlap: how many people answer each record.
        words: the project's own words, in Markdown.
        literal: whether the server's page shows tags in Markdown literally; False escapes them.
    """
    make = forms.instruction_settings if kind == "instruction" else forms.preference_settings
    guidelines = words if literal else escape_markdown(words)
    return make(list(criteria), vector_dimensions=dimensions, overlap=overlap, guidelines=guidelines)


def form_digest(kind: Kind, *, criteria: Sequence[str], overlap: int, words: str = "") -> str:
    """Digest of the questions asked and the guidelines read, kept with each answer."""
    return hashlib.sha256(canonical_json([kind, list(criteria), overlap, forms.guidelines_text(kind, words)])).hexdigest()[:16]


def push_records(review: ArgillaReview, dataset: str, shown: Iterable[Shown], *, settings: Any) -> Iterator[list[Shown]]:
    """Add or update records by their id, batch by batch; each batch is given back once Argilla holds it.

    Speaks HTTP itself: the SDK sends one batch at a time and has the server compress everything it just received on the way back.
    """
    target = bootstrap.ensure_dataset(review.client, dataset, workspace=review.workspace, settings=settings)
    questions = {question.name: str(question.id) for question in target.settings.questions}
    rows, waiting = iter(shown), deque[tuple[list[Shown], Future[None]]]()
    with open_http(review) as http, ThreadPoolExecutor(OVERLAP) as pool:
        while batch := list(islice(rows, BATCH)):
            body = {"items": [_payload(item, questions) for item in batch]}
            waiting.append((batch, pool.submit(_put, http, f"/api/v1/datasets/{target.id}/records/bulk", body)))
            if len(waiting) == OVERLAP:
                yield _held(*waiting.popleft())
        while waiting:
            yield _held(*waiting.popleft())


def open_http(review: ArgillaReview) -> Any:
    """A connection with the project's key; answers come uncompressed, for compressing costs this machine more than sending."""
    import httpx

    headers = {"X-Argilla-Api-Key": review.key, "Accept-Encoding": "identity"}
    return httpx.Client(base_url=review.url, headers=headers, timeout=LONGEST_REQUEST)


def pull_answers(review: ArgillaReview, dataset: str) -> Iterator[Given]:
    """Every response to a dataset of ours, drafts and discards included; none where it was never pushed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK warns where there is none
        found = review.client.datasets(dataset, workspace=review.workspace)
    if found is None:
        return
    names = {str(user.id): user.username for user in review.client.users}
    offset = 0
    with open_http(review) as http:
        while True:
            reply = http.get(
                f"/api/v1/datasets/{found.id}/records", params={"include": "responses", "limit": PAGE, "offset": offset}
            )  # fmt: skip
            if reply.status_code != 200:
                raise ReviewError(
                    f"Argilla at {review.url}", f"answered {reply.status_code} when asked for answers", "argilla-setup status"
                )
            items = reply.json()["items"]
            for item in items:
                yield from _given(item, names)
            if len(items) < PAGE:
                return
            offset += PAGE


def _read_home(folder: Path) -> tuple[str, str, Path]:
    """Address, owner's key and the annotators' folder of a server on this machine."""
    from argilla_setup.server.control import describe_server
    from argilla_setup.server.home import load_secrets, open_home

    if not (folder / "secrets.json").is_file():
        raise ReviewError(f"{folder}", "holds no Argilla server", f"argilla-setup up --detach --home {folder}")
    home = open_home(folder)
    status = describe_server(home)
    if not status.healthy:
        raise ReviewError(f"Argilla in {folder}", "is not running", f"argilla-setup up --detach --home {folder}")
    return status.url, load_secrets(home).owner_api_key, home.users_folder


def _given(item: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Given]:
    for response in item.get("responses") or []:
        values = {name: value.get("value") for name, value in (response.get("values") or {}).items()}
        yield Given(
            str(response["id"]),
            str(item["external_id"]),
            names.get(str(response["user_id"]), str(response["user_id"])),
            response["status"],
            response["updated_at"],
            values,
        )


def _payload(item: Shown, questions: Mapping[str, str]) -> dict[str, Any]:
    suggestions = [{"question_id": questions[name], "value": value, "agent": "seedcorn"} for name, value in item.suggestions.items()]
    body: dict[str, Any] = {
        "external_id": item.id,
        "fields": dict(item.fields),
        "metadata": dict(item.metadata),
        "suggestions": suggestions,
    }
    return body if item.vector is None else body | {"vectors": {forms.EMBEDDING: list(item.vector)}}


def _put(http: Any, path: str, body: Mapping[str, Any]) -> None:
    """Upsert a batch. Sending it again is harmless, so a connection that breaks is tried again."""
    import httpx
    import orjson
    from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

    content = orjson.dumps(body)

    @retry(retry=retry_if_exception_type(httpx.TransportError), stop=stop_after_attempt(4), wait=wait_exponential(0.5), reraise=True)
    def send() -> Any:
        return http.put(path, content=content, headers={"Content-Type": "application/json"})

    try:
        reply = send()
    except httpx.TransportError as error:
        raise ReviewError(f"Argilla at {http.base_url}", f"broke off while records were sent ({error})", "curate push again") from error
    if reply.is_error:
        fact = f"answered {reply.status_code} to records: {reply.text[:300]}"
        raise ReviewError(f"Argilla at {http.base_url}", fact, "argilla-setup logs --process web")


def _held(batch: list[Shown], sent: Future[None]) -> list[Shown]:
    sent.result()
    return batch


def _escape_tags(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _conversation(prompt: Sequence[Message]) -> str:
    if len(prompt) == 1:
        return prompt[0].content
    if len(prompt) == 2 and prompt[0].role == "system":
        return f"Standing instruction: {prompt[0].content}\n\n{prompt[1].content}"
    names = {"system": "Standing instruction", "user": "User", "assistant": "Assistant"}
    return "\n\n".join(f"{names[m.role]}: {m.content}" for m in prompt)
