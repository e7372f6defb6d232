"""Model families: likelihoods are the model's own, and a step of SFT and DPO runs, mixtures of experts included."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.training_families import CHATS, FAMILIES, MIXTURES, build_family, build_tokenizer
from tests.training_samples import build_project, load_run, run_settings, train_run

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


TRAINED = ["gemma2", "qwen3_5", *MIXTURES]
"""Families that failed before: attention that torch computes wrongly, recurrent layers, routers."""
ADAPTED = {
    "gemma2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "qwen2_moe": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "llama4_text": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "olmoe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "gpt_oss": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "granitemoe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "phimoe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "deepseek_v3": {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_project(tmp_path_factory.mktemp("families") / "project")


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_of_sft_and_dpo(project: Path, name: str) -> None:
    import torch

    model = build_family(name, eos_token_id=2).to(torch.bfloat16)
    model.save_pretrained(project / "model")
    optimizer = {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 2, "max_length": 200, "warmup": 0.0}
    small = {"optimizer": optimizer, "stopping": {"every_steps": 2, "patience": 3}}
    sft = train_run(load_run(project, f"{name}.yaml", run_settings(output=f"{name}-sft", **small)))
    dpo = train_run(load_run(project, f"{name}-dpo.yaml", run_settings("dpo", output=f"{name}-dpo", sft_adapter=f"{name}-sft", **small)))
    assert (sft["steps"], dpo["steps"]) == (2, 2)
    assert dpo["first_margin"] == 0.0
    assert dpo["adapter_digest"] != dpo["reference_digest"] == sft["adapter_digest"]
    if name in ADAPTED:
        settings = json.loads((project / "runs" / f"{name}-sft" / "adapter" / "adapter_config.json").read_text())
        assert set(settings["target_modules"]) == ADAPTED[name] and not settings.get("target_parameters")


def test_names_that_peft_takes_for_fused_experts_are_those_of_the_table() -> None:
    from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING

    from training.model import EXPERT_PROJECTIONS, REMAPPED_BY_PEFT, ROUTERS

    assert {kind for kind, pattern in _MODEL_TO_CONVERSION_PATTERN.items() if pattern in _MOE_TARGET_MODULE_MAPPING} == REMAPPED_BY_PEFT
    names = {name for mapping in _MOE_TARGET_MODULE_MAPPING.values() for name in mapping}
    assert names == EXPERT_PROJECTIONS | {"gate"} and "gate" in ROUTERS


def test_first_step_of_dpo_leaves_out_the_routers_loss_only() -> None:
    from training.config import TrainingError
    from training.dpo import check_first_step

    check_first_step(loss=math.log(2), margin=0.0)
    with pytest.raises(TrainingError, match="the reference is not the SFT policy"):
        check_first_step(loss=0.6952, margin=0.0)
