"""The memory estimate: what autograd keeps of a block, counted, and the head's tile as TRL computes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.errors import TrainingError
from training.memory import GIB, LoraShape, Shape, Step, adapter_parameters, block_bytes, estimate_memory, head_bytes, read_shape

LLAMA_8B = Shape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocabulary=128256, tied=False)


def kept_by_autograd(model: Any, ids: Any) -> int:
    """Bytes of the tensors autograd keeps in a forward pass of the body, each storage once, parameters left out."""
    import torch

    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if (address := tensor.untyped_storage().data_ptr()) not in own:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.get_base_model().model(input_ids=ids).last_hidden_state
    assert states.requires_grad
    return sum(int(tensor.untyped_storage().nbytes()) for tensor in kept.values())


@pytest.mark.model
@pytest.mark.parametrize(("dropout", "targets"), [(0.05, "all-linear"), (0.0, "all-linear"), (0.05, ("q_proj", "v_proj"))])
def test_block_keeps_what_the_formula_says(tmp_path: Path, dropout: float, targets: Any) -> None:
    import torch
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from training.config import Lora, Quantization
    from training.model import cast_adapters, load_base, lora_config

    ids, kept = torch.randint(0, 64, (2, 24)), {}
    for layers in (2, 3):
        config = LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / str(layers))
        base = load_base(tmp_path / str(layers), Quantization(), dtype="bfloat16")
        model = get_peft_model(base, lora_config(Lora(r=8, lora_dropout=dropout, target_modules=targets), base)).train()
        model.enable_input_require_grads()
        cast_adapters(model, "float32")
        kept[layers] = kept_by_autograd(model, ids)
    shape = Shape(layers=2, hidden=64, intermediate=192, heads=4, kv_heads=2, head_dim=16, vocabulary=64, tied=False)
    expected = block_bytes(shape, LoraShape(8, targets, dropout), dtype=2, adapter=4, mask=4)
    assert kept[3] - kept[2] == expected * ids.numel()


def test_head_is_a_tile_and_never_the_whole_logits() -> None:
    tokens = 8 * 2048
    assert head_bytes(LLAMA_8B, tokens=tokens, dtype=2, on_gpu=True) == 4096 * 32768 * 2 + tokens * 4096 * 4
    assert head_bytes(LLAMA_8B, tokens=tokens, dtype=2, on_gpu=True) < tokens * 128256 * 10 / 30
    assert head_bytes(LLAMA_8B, tokens=100, dtype=2, on_gpu=False) == 100 * 32768 * 32 + 100 * 4096 * 4 + 32768 * 4096 * 4


def test_8b_in_batches_of_eight_fits_where_it_was_refused() -> None:
    lora = LoraShape(16, dropout=0.05)
    estimate = estimate_memory(LLAMA_8B, lora, Step(batch=8, length=2048, optimizer="8bit"))
    assert estimate.logits / GIB == pytest.approx(0.5, abs=0.01)
    # One block computed again: inputs of the adapted modules in float32 and their masks, which the estimate left out before.
    block = block_bytes(LLAMA_8B, lora, dtype=2, adapter=4, mask=1)
    assert estimate.activations == 32 * 8 * 2048 * 4096 * 2 + 8 * 2048 * block
    assert 15 < estimate.total / GIB < 20


def test_experts_are_counted_in_sixteen_bits() -> None:
    shape = Shape(**{**vars(LLAMA_8B), "experts": 8, "expert_intermediate": 14336})
    dense, mixture = (estimate_memory(s, LoraShape(16), Step(batch=1, length=1)).weights for s in (LLAMA_8B, shape))
    assert mixture - dense == 32 * 8 * 3 * 4096 * 14336 * 2


LLAMA_70B = Shape(layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=128256, tied=False)
SMOL = Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152, tied=True)
LORA_16 = LoraShape(16, dropout=0.05)


def test_weights_of_70b_in_nf4_are_what_the_formula_says() -> None:
    # 68.45 G linear parameters at 4.127 bits and 2.10 G of embedding and head at 16.
    assert LLAMA_70B.linear_parameters == 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    estimate = estimate_memory(LLAMA_70B, LORA_16, Step(batch=1, length=1))
    assert estimate.weights / GIB == pytest.approx(68.451e9 * 4.12695 / 8 / GIB + 2.1013e9 * 2 / GIB, rel=1e-3)


def test_qlora_of_70b_needs_some_48_gib_as_llama_factory_says() -> None:
    step = Step(batch=1, length=2048, optimizer="8bit", adapter_bytes=2)
    sft = estimate_memory(LLAMA_70B, LORA_16, step)
    dpo = estimate_memory(LLAMA_70B, LoraShape(16), replace(step, sequences=2, has_reference=True))
    # LLaMA-Factory's table says 48 GB, which is 44.7 GiB.
    assert 44 < sft.total / GIB < 47
    assert sft.total < dpo.total < 60 * GIB


def test_smollm_adapter_has_the_parameters_peft_counts() -> None:
    # PEFT's print_trainable_parameters for r 16 over all linear modules of SmolLM2-135M: 4,884,480.
    assert adapter_parameters(SMOL, LORA_16) == 4_884_480
    assert adapter_parameters(SMOL, LoraShape(16, ("q_proj", "v_proj"))) == 30 * 16 * (576 + 576 + 576 + 192)


def test_dpo_and_longer_rows_and_wider_batches_need_more() -> None:
    step = Step(batch=4, length=128)
    plain = estimate_memory(SMOL, LORA_16, step)
    assert estimate_memory(SMOL, LORA_16, replace(step, batch=8)).total > plain.total
    assert estimate_memory(SMOL, LORA_16, replace(step, length=256)).total > plain.total
    assert estimate_memory(SMOL, LORA_16, replace(step, sequences=2)).logits > plain.logits
    assert estimate_memory(SMOL, LORA_16, replace(step, has_reference=True)).adapter > plain.adapter
    assert estimate_memory(SMOL, LORA_16, replace(step, checkpointing=False)).activations > plain.activations


def test_shape_is_read_from_a_checkpoint(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 49152, "tie_word_embeddings": True}))
    assert read_shape(tmp_path) == SMOL


def test_shape_that_is_not_known_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 12, "hidden_size": 768}))
    with pytest.raises(TrainingError, match=r"has no num_hidden_layers, intermediate_size, num_attention_heads, vocab_size"):
        read_shape(tmp_path)
