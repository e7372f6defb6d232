"""A model in a local folder, asked in this process: one call at a time, in a thread of its own. For many calls serve it with vLLM
and use `provider: openai`.

It has no structured output, so the schema stands in the prompt, and of what it writes only the first whole JSON value is its
answer. Its answers are messages like any other, at no price.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from curation.errors import ModelUnavailable
from curation.models.base import Reply

_JSON_ONLY = "Answer with one JSON value that fits this JSON schema, and with nothing else:\n"


class LocalModel:
    """A transformers model in a folder; loaded when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder, self._threads, self._ended = folder, ThreadPoolExecutor(1, thread_name_prefix="local-model"), threading.Event()

    async def send(self, body: dict[str, Any]) -> Reply:
        """Write one answer. Equal bodies get equal answers: the draw's seed is the body's digest."""
        if self._ended.is_set():
            self._threads, self._ended = ThreadPoolExecutor(1, thread_name_prefix="local-model"), threading.Event()
        return await asyncio.get_running_loop().run_in_executor(self._threads, _answer, self._folder, body, self._ended)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """A folder has no other paths."""
        return _error(404, "not_found_error", f"a local model has no {path}")

    async def close(self) -> None:
        """Stop what is being written."""
        self._ended.set()
        self._threads.shutdown(wait=True, cancel_futures=True)


def chat_of(body: dict[str, Any]) -> list[dict[str, str]]:
    """The turns for the model's chat template; a schema is asked for in words."""
    from curation.message_format import completion_body

    asked = completion_body(body, limit="max_tokens")
    turns: list[dict[str, str]] = asked["messages"]
    if "response_format" not in asked:
        return turns
    words = _JSON_ONLY + json.dumps(asked["response_format"]["json_schema"]["schema"])
    return [*turns[:-1], {**turns[-1], "content": f"{turns[-1]['content']}\n\n{words}"}]


def first_json(text: str) -> str:
    """The first whole JSON object or list in a text; the text itself where there is none."""
    decoder = json.JSONDecoder()
    for place, mark in enumerate(text):
        if mark in "{[":
            try:
                return text[place : decoder.raw_decode(text, place)[1]]
            except json.JSONDecodeError:
                continue
    return text


@functools.lru_cache(maxsize=2)
def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"model {folder}", "is no folder with a model (no config.json)", "name the model's folder in project.yaml")
    try:
        # Without trust_remote_code=False transformers asks on the terminal whether to run the folder's own Python code.
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        is_code = "trust_remote_code" in str(error) or "custom code" in str(error)
        reason = str(error).strip().split("\n")[0]
        fact = "needs Python code from its own folder to load, which is never run" if is_code else f"cannot be loaded ({reason})"
        raise ModelUnavailable(f"model {folder}", fact, "name a folder with a model that transformers knows by itself") from error
    return tokenizer, model.to(_device()).eval()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _answer(folder: Path, body: dict[str, Any], ended: threading.Event) -> Reply:
    import torch
    from transformers import StoppingCriteriaList

    tokenizer, model = _load(folder)
    ids = tokenizer.apply_chat_template(chat_of(body), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = ids.to(model.device)
    asked, room = ids["input_ids"].shape[1], getattr(model.config, "max_position_embeddings", None)
    if room is not None and asked + body["max_tokens"] > room:
        return _error(400, "invalid_request_error", f"{asked} tokens and {body['max_tokens']} to write; the model holds {room}")
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
    torch.manual_seed(int.from_bytes(digest[:4], "big"))
    stops = StoppingCriteriaList([lambda ids, scores, **more: torch.full((ids.shape[0],), ended.is_set(), device=ids.device)])
    with torch.inference_mode():
        written = model.generate(
            **ids, max_new_tokens=body["max_tokens"], stopping_criteria=stops, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id
        )[0, asked:]
    if ended.is_set():
        return _error(499, "canceled", "stopped while it was written")
    text = tokenizer.decode(written, skip_special_tokens=True)
    return _reply(body, text, digest.hex(), asked=asked, written=len(written))


def _reply(body: dict[str, Any], text: str, digest: str, *, asked: int, written: int) -> Reply:
    wants_json = ((body.get("output_config") or {}).get("format") or {}).get("schema") is not None
    answer = first_json(text) if wants_json else text
    is_cut = written >= body["max_tokens"] and not (wants_json and answer != text)
    message = {
        "id": f"local_{digest[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": answer}],
        "stop_reason": "max_tokens" if is_cut else "end_turn",
        "usage": {"input_tokens": asked, "output_tokens": written},
    }
    return Reply(200, orjson.dumps(message if answer == text else {**message, "written": text}))


def _error(status: int, kind: str, text: str) -> Reply:
    return Reply(status, orjson.dumps({"type": "error", "error": {"type": kind, "message": text}}))
