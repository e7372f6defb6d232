"""The connection to a project's Argilla, its datasets, and what people see of a record.

What is shown is a value (`Shown`) with a digest, so that pushing again sends only differences and every answer names exactly what was
seen. `records.py` sends and reads the records.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from argilla_setup import bootstrap, forms
from argilla_setup.users import admit_existing, open_api
from curation.decide import shown_first
from curation.errors import ReviewError
from curation.records import InstructionRecord, Kind, Message, Record, canonical_json

SIMULATED = "simulated-"
"""Names of annotators that are programs start with this; their answers never pass for a person's."""
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

    @property
    def content(self) -> str:
        """The part of it that Argilla gives back when records are listed, as `Held.content` has it."""
        return content_digest(self.fields, self.metadata)


@dataclass(frozen=True)
class Dataset:
    """A published dataset."""

    id: str
    name: str
    questions: Mapping[str, str]
    """Question name to id."""


@dataclass(frozen=True)
class Member:
    """Somebody with an account."""

    id: str
    name: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class ArgillaReview:
    """A connection to the workspace of one project."""

    client: Any
    workspace: str
    url: str
    key: str = field(repr=False)
    literal: bool = False
    """True for a server of ours, whose page shows text literally. Every other Argilla inserts fields as HTML."""


def connect(folder: Path, *, argilla: str | None, workspace: str) -> ArgillaReview:
    """Open the workspace of a project. Nothing is created and nobody is admitted.

    Args:
        folder: the project.
        argilla: the folder of `argilla-setup up --home`, relative to the project; None to read ARGILLA_API_URL and
            ARGILLA_API_KEY from the environment.
        workspace: its name in Argilla; it need not exist.

    Raises:
        UserError: Argilla cannot be reached or refuses the key.
    """
    if argilla is not None:
        url, key = _read_home((folder / argilla).resolve())
    else:
        url, key = os.environ.get("ARGILLA_API_URL", ""), os.environ.get("ARGILLA_API_KEY", "")
        if not url or not key:
            raise ReviewError(
                "Argilla", "project.yaml names no `review.argilla` folder and ARGILLA_API_URL and ARGILLA_API_KEY are not set",
                "argilla-setup up --detach, then put its --home folder under review.argilla",
            )  # fmt: skip
    client = bootstrap.connect(url, key)
    return ArgillaReview(client, workspace, url.rstrip("/"), key, bootstrap.shows_text_literally(url))


def prepare_workspace(review: ArgillaReview, annotators: Sequence[str]) -> list[str]:
    """Create the workspace if it does not exist, add existing accounts to it, and return the annotators who have no account."""
    bootstrap.ensure_workspace(review.client, review.workspace)
    return admit_existing(review.url, review.key, annotators, workspace=review.workspace)


def list_members(review: ArgillaReview) -> list[Member]:
    """Return the people who answer in the workspace: its members, owners of the server left out."""
    with open_api(review.url, review.key) as api:
        found = next((item for item in api.get("me/workspaces") if item["name"] == review.workspace), None)
        people = api.get(f"workspaces/{found['id']}/users") if found else []
    return [Member(str(user["id"]), user["username"], user["api_key"]) for user in people if user["role"] != "owner"]


def list_accounts(review: ArgillaReview) -> list[Member]:
    """Return everybody with an account, those without a workspace too."""
    with open_api(review.url, review.key) as api:
        return [Member(str(user["id"]), user["username"], user["api_key"]) for user in api.get("users")]


def show(record: Record, identity: str, *, scores: Mapping[str, float], terms: Mapping[str, str], vector: Sequence[float] | None) -> Shown:
    """What people see of a record: the text, never a score and never which answer its maker meant to be better."""
    metadata: dict[str, str | float] = {forms.score_name(name): value for name, value in scores.items()}
    metadata |= {name: terms[name] for name in terms if name in forms.TERMS or name.startswith(forms.filter_name(""))}
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


def content_digest(fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the digest of a record's fields and metadata; a number is the same number whether Argilla returns 4 or 4.0."""
    numbers = {name: str(float(value) if isinstance(value, int | float) else value) for name, value in metadata.items()}
    return hashlib.sha256(canonical_json({"fields": dict(fields), "metadata": numbers})).hexdigest()[:16]


def form_settings(
    kind: Kind,
    *,
    criteria: Sequence[str],
    dimensions: int | None,
    overlap: int,
    words: str = "",
    literal: bool = True,
    filters: Sequence[str] = (),
) -> Any:
    """Return the form for a kind of record; the project's own words precede the description of the form.

    Args:
        criteria: names of the judge's criteria; each becomes a hidden metadata property.
        dimensions: size of the vectors for find-similar; None for none.
        overlap: how many people answer each record.
        words: the project's own words, in Markdown.
        literal: whether the server's page shows tags in Markdown literally; False escapes them.
        filters: metadata columns of imported rows that annotators may filter by.
    """
    make = forms.instruction_settings if kind == "instruction" else forms.preference_settings
    guidelines = words if literal else escape_markdown(words)
    return make(list(criteria), vector_dimensions=dimensions, overlap=overlap, guidelines=guidelines, filters=filters)


def form_digest(kind: Kind, *, criteria: Sequence[str], overlap: int, words: str = "") -> str:
    """Digest of the questions asked and the guidelines read, kept with each answer."""
    return hashlib.sha256(canonical_json([kind, list(criteria), overlap, forms.guidelines_text(kind, words)])).hexdigest()[:16]


def open_dataset(review: ArgillaReview, name: str, *, settings: Any) -> Dataset:
    """Return the dataset of that name, created if it does not exist, with this form."""
    found = bootstrap.ensure_dataset(review.client, name, workspace=review.workspace, settings=settings)
    return Dataset(str(found.id), name, {question.name: str(question.id) for question in found.settings.questions})


def find_dataset(review: ArgillaReview, name: str) -> Dataset | None:
    """Return the published dataset of that name in the workspace; None where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK warns where there is none
        if review.client.workspaces(review.workspace) is None:
            return None
        found = review.client.datasets(name, workspace=review.workspace)
    if found is None or found.api_model().status == "draft":
        return None
    return Dataset(str(found.id), name, {question.name: str(question.id) for question in found.settings.questions})


def follow_overlap(review: ArgillaReview, dataset: Dataset, overlap: int) -> int | None:
    """Set how many people answer each record, where it differs; return the number before. Argilla's worker computes the statuses again."""
    with open_http(review) as http:
        held = checked_reply(http.get(f"/api/v1/datasets/{dataset.id}"), "when asked for a dataset").json()["distribution"]["min_submitted"]
        if held == overlap:
            return None
        body = {"distribution": {"strategy": "overlap", "min_submitted": overlap}}
        checked_reply(http.patch(f"/api/v1/datasets/{dataset.id}", json=body), "to a change of the overlap")
    return int(held)


def open_http(review: ArgillaReview) -> Any:
    """A connection with the project's key; answers come uncompressed, for compressing costs this machine more than sending."""
    import httpx

    headers = {"X-Argilla-Api-Key": review.key, "Accept-Encoding": "identity"}
    return httpx.Client(base_url=review.url, headers=headers, timeout=LONGEST_REQUEST)


def _read_home(folder: Path) -> tuple[str, str]:
    """Return the address and the owner's key of a server on this machine."""
    from argilla_setup.server.control import describe_server
    from argilla_setup.server.home import load_secrets, open_home

    if not (folder / "secrets.json").is_file():
        raise ReviewError(f"{folder}", "holds no Argilla server", f"argilla-setup up --detach --home {folder}")
    home = open_home(folder)
    status = describe_server(home)
    if not status.healthy:
        raise ReviewError(f"Argilla in {folder}", "is not running", f"argilla-setup up --detach --home {folder}")
    return status.url, load_secrets(home).owner_api_key


def checked_reply(reply: Any, to: str) -> Any:
    """Return the reply, or raise what Argilla answered as a sentence."""
    if reply.is_error:
        url = f"{reply.request.url.scheme}://{reply.request.url.netloc.decode()}"
        raise ReviewError(f"Argilla at {url}", f"answered {reply.status_code} {to}: {reply.text[:300]}", "argilla-setup logs --process web")
    return reply


def _escape_tags(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _conversation(prompt: Sequence[Message]) -> str:
    if len(prompt) == 1:
        return prompt[0].content
    if len(prompt) == 2 and prompt[0].role == "system":
        return f"Standing instruction: {prompt[0].content}\n\n{prompt[1].content}"
    names = {"system": "Standing instruction", "user": "User", "assistant": "Assistant"}
    return "\n\n".join(f"{names[m.role]}: {m.content}" for m in prompt)
