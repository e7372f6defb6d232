"""What a base model's chat template makes of rows: which text is trained, and where an answer ends.

TRL renders the prompt with the generation prompt, renders the whole conversation, and trains on the tokens after their common prefix.
That is the answer and its end-of-turn token only where the first text is the beginning of the second, where the template keeps every
message, and where it closes an answer with a token of the tokenizer. Some templates do none of these for some rows, without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROBE = "cordwainer"
"""A word that no template contains."""


@dataclass(frozen=True)
class Rendered:
    """One row as the trainer will see it."""

    prompt: int
    """Tokens up to where the answer begins, as TRL finds it: where prompt and conversation differ."""
    whole: int
    """Tokens of the longest conversation: a pair has two."""
    largest: int = 0
    """The largest token id."""
    merged: bool = False
    """White space at the end of the prompt shares a token with the answer, so the two differ one token early."""
    fault: str = ""
    """Why the row cannot be trained on; empty for most rows."""


def merge_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the messages with the system message put in front of the first user message, separated by an empty line."""
    rest = [dict(message) for message in messages if message["role"] != "system"]
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    first = next((message for message in rest if message["role"] == "user"), None)
    if not system or first is None:
        return [dict(message) for message in messages]
    first["content"] = f"{system}\n\n{first['content']}"
    return rest


def find_end_of_turn(tokenizer: Any) -> int | None:
    """Return the token that the chat template closes an answer with; None if it closes it with none.

    It need not be the tokenizer's end of sequence: Gemma's is <end_of_turn>, a base model's ChatML has <|im_end|>.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": PROBE}], tokenize=False
        )
    except TemplateError:
        return None
    _, found, tail = text.rpartition(PROBE)
    return _first_marker(tail, tokenizer) if found else None


def read_row(row: Mapping[str, Any], tokenizer: Any, *, answers: Sequence[str]) -> Rendered:
    """Render one row as the trainer does and find what is wrong with it.

    Args:
        row: prompt and answers as messages.
        tokenizer: the base model's, with its chat template.
        answers: the columns that hold an answer: completion, or chosen and rejected.
    """
    from jinja2 import TemplateError

    try:
        prompt_text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        texts = [tokenizer.apply_chat_template([*row["prompt"], *row[answer]], tokenize=False) for answer in answers]
    except TemplateError as error:
        return Rendered(0, 0, fault=f"the template refuses it ({error})")
    prompt, *whole = tokenizer([prompt_text, *texts], add_special_tokens=False)["input_ids"]
    shared = min(common_prefix(prompt, ids) for ids in whole)
    cut = tokenizer.decode(prompt[shared:])
    contents = [row[answer][-1]["content"] for answer in answers]
    fault = _find_fault(row["prompt"], prompt_text, list(zip(contents, texts, strict=True)), cut=cut, tokenizer=tokenizer)
    return Rendered(shared, max(len(ids) for ids in whole), max(max(ids) for ids in whole), merged=bool(cut), fault=fault)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences share from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _find_fault(
    prompt: Sequence[Mapping[str, str]], prompt_text: str, wholes: Sequence[tuple[str, str]], *, cut: str, tokenizer: Any
) -> str:
    for message in prompt:
        if message["content"].strip() not in prompt_text:
            return f"the template leaves out the {message['role']} message or changes it"
    for content, text in wholes:
        if not text.startswith(prompt_text):
            return "the template renders the prompt alone otherwise than in a conversation, so part of the prompt would be trained"
        trained, answer = text[len(prompt_text) :], content.strip()
        if not answer or answer not in trained:
            return "the template changes the answer" if answer else "the answer is empty"
        tail = trained.rpartition(answer)[2]
        if _first_marker(tail, tokenizer) is None:
            marker = f": {tail.strip()!r} is not a token of the tokenizer" if tail.strip() else ""
            return f"the template closes an answer with no end-of-turn token, so the model would not learn to stop{marker}"
    if cut.strip():
        return f"the tokenizer has no token for the template's marker, and its end {cut!r} would be trained as part of the answer"
    return ""


def _first_marker(tail: str, tokenizer: Any) -> int | None:
    """The first token in the text after an answer that the tokenizer never splits: an end of turn or of sequence."""
    markers = {index for index, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    markers |= {tokenizer.eos_token_id} - {None}
    return next((index for index in tokenizer(tail, add_special_tokens=False)["input_ids"] if index in markers), None)
