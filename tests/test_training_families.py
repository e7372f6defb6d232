"""Model families: likelihoods are the model's own, and a step of SFT and DPO runs, mixtures of experts included."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training_families import CHATS, FAMILIES, build_family, build_tokenizer

pytestmark = pytest.mark.model
PROMPTS = [[{"role": "user", "content": f"acute pain {'and more ' * n}"}] for n in range(3)]
RIVALS = ["Code: A1.1\n", "Code: A1\nChapter: Bones", "no"]


def likelihood(model: Any, tokenizer: Any, prompt: list[dict[str, str]], text: str) -> float:
    """By the model's own logits over the whole text, nothing cached."""
    import torch

    head = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = (
        head + text
        if text.endswith("\n")
        else tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": text}], tokenize=False)
    )
    start, ids = len(tokenizer(head)["input_ids"]), tokenizer(whole, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        scores = torch.log_softmax(model(input_ids=ids).logits.float()[0, :-1], -1)
    return float(scores.gather(1, ids[0, 1:, None])[start - 1 :].sum())


@pytest.mark.parametrize("name", list(FAMILIES))
def test_likelihoods_are_those_of_the_models_own_logits(name: str) -> None:
    from training.likelihood import score_rivals

    model, tokenizer = build_family(name), build_tokenizer(CHATS["chatml"])
    if not hasattr(model, model.base_model_prefix):
        model.base_model_prefix = "model"
    found = score_rivals(model, tokenizer, PROMPTS, [RIVALS] * len(PROMPTS), batch=2)
    expected = [[likelihood(model, tokenizer, prompt, text) for text in RIVALS] for prompt in PROMPTS]
    for ours, own in zip(found, expected, strict=True):
        assert ours == pytest.approx(own, abs=2e-2)


@pytest.mark.parametrize("name", ["gemma2", "granite", "mistral", "qwen3_5", "llama4_text"])
def test_written_answers_are_those_of_generate(name: str) -> None:
    import torch

    from training.likelihood import write_answers

    model, tokenizer = build_family(name), build_tokenizer(CHATS["chatml"])
    if not hasattr(model, model.base_model_prefix):
        model.base_model_prefix = "model"
    found = write_answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch=3, stop_lines=None)
    for prompt, text in zip(PROMPTS, found, strict=True):
        head = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(head, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            whole = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
        assert text == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip()
