"""A model in a local folder: what it is asked, and a real small one that answers through the same ledger as any other."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from curation.config.models import ModelSpec
from curation.errors import ModelUnavailable
from curation.models import CallContext, ask, check_model, open_model
from curation.models.local_model import chat_turns, first_json
from curation.requests import Request
from curation.store.calls import CallLedger
from tests.support.model_calls import database, ledger

__all__ = ["database", "ledger"]

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('Sure!\n```json\n{"a": {"b": [1, "}"]}}\n```\nBye {"c": 2}', '{"a": {"b": [1, "}"]}}'),
        ("[1, 2] and more", "[1, 2]"),
        ('broken { here, then {"a": 1}', '{"a": 1}'),
        ('{"cut": "of', '{"cut": "of'),
        ("no json", "no json"),
    ],
)
def test_the_answer_is_the_first_whole_json_value(text: str, found: str) -> None:
    assert first_json(text) == found


def test_the_schema_is_asked_for_in_words() -> None:
    body = {"model": "m", "max_tokens": 50, "system": [{"type": "text", "text": "S"}], "messages": [{"role": "user", "content": "Hi"}]}
    assert chat_turns(body) == [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    asked = chat_turns({**body, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}})
    assert asked[0]["content"] == "S" and asked[1]["content"].startswith("Hi\n\n") and '"required": ["name"]' in asked[1]["content"]


def test_a_folder_without_a_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is not a model's folder"):
        check_model(ModelSpec(provider="transformers", model="nowhere"), environ={}, folder=tmp_path)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.init import prepare_model

    folder = tmp_path_factory.mktemp("base") / "model"
    prepare_model(folder)
    return folder


def make_request(model: str, slot: str, **more: Any) -> Request:
    body = {"model": model, "max_tokens": 40, "messages": [{"role": "user", "content": slot}], **more}
    return Request(stage="generate", slot=slot, role="teacher", body=body)


@pytest.mark.model
def test_a_real_small_model_answers_and_costs_nothing(small_model: Path, ledger: CallLedger) -> None:
    spec = ModelSpec(provider="transformers", model=small_model.name, concurrency=3, max_tokens=40)
    assert check_model(spec, environ={}, folder=small_model.parent).max_input_tokens == 8192
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    requests = [
        make_request(spec.model, "What is the capital of France? One sentence."),
        make_request(spec.model, "Name the capital of France.", output_config=wanted),
        make_request(spec.model, "word " * 9000),
    ]
    model = open_model(spec, environ={}, folder=small_model.parent)
    summary = ask(requests, CallContext(model=model, spec=spec, ledger=ledger, budget_usd=0.001, simulated=False))
    assert (summary.answered, summary.failures, summary.cost_usd) == (2, {"http_400": 1}, 0)
    plain, shaped = ledger.answers("generate")
    assert "Paris" in plain.text and plain.message["usage"]["output_tokens"] > 3
    assert shaped.message["stop_reason"] in ("end_turn", "max_tokens")
    assert "holds 8192" in next(ledger.failures("generate")).detail
    again = open_model(spec, environ={}, folder=small_model.parent)
    assert ask(requests[:2], CallContext(model=again, spec=spec, ledger=ledger, budget_usd=0.001, simulated=False)).reused == 2


@pytest.mark.model
def test_closing_stops_what_is_being_written(small_model: Path) -> None:
    from curation.models.local_model import _load

    begun, tokens = threading.Event(), list[int]()

    def count(*_: object) -> None:
        tokens.append(1)
        begun.set()

    hook = _load(small_model.resolve())[1].register_forward_hook(count)

    async def close_early() -> int:
        model = open_model(ModelSpec(provider="transformers", model=str(small_model)), environ={})
        body = {
            "model": "m",
            "max_tokens": 3000,
            "messages": [{"role": "user", "content": "Write a very long story of a ship, in ten long chapters."}],
        }
        writing = asyncio.create_task(model.send(body))
        assert await asyncio.to_thread(begun.wait, 240)
        await model.close()
        return (await writing).status

    assert asyncio.run(close_early()) == 499
    hook.remove()
    assert len(tokens) < 200  # the whole story has some thousand


@pytest.mark.model
def test_code_in_the_models_folder_never_runs(tmp_path: Path) -> None:
    from curation.models.local_model import _load

    mark = tmp_path / "ran"
    (tmp_path / "model").mkdir()
    for name in ("configuration_evil", "modeling_evil"):
        (tmp_path / "model" / f"{name}.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')\n")
    auto = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    with pytest.raises(ModelUnavailable, match=r"needs Python code from its own folder to load, which is never run"):
        _load(tmp_path / "model")
    assert not mark.exists()
