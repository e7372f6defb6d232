"""The memory estimate: what autograd keeps of a block, counted, and the head's tile as TRL computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.memory import GIB, Shape, adapter_parameters, block_bytes, estimate_memory, head_bytes

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
    from training.model import cast_adapters, load_base
    from training.targets import lora_config

    ids, kept = torch.randint(0, 64, (2, 24)), {}
    for layers in (2, 3):
        config = LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / str(layers))
        base = load_base(tmp_path / str(layers), Quantization(), dtype="bfloat16")
        model = get_peft_model(base, lora_config(Lora(r=8, dropout=dropout, targets=targets), base)).train()
        model.enable_input_require_grads()
        cast_adapters(model, "float32")
        kept[layers] = kept_by_autograd(model, ids)
    shape = Shape(layers=2, hidden=64, intermediate=192, heads=4, kv_heads=2, head_dim=16, vocabulary=64, tied=False)
    expected = block_bytes(shape, r=8, targets=targets, dropout=dropout, dtype=2, adapter=4, mask=4)
    assert kept[3] - kept[2] == expected * ids.numel()


def test_head_is_a_tile_and_never_the_whole_logits() -> None:
    tokens = 8 * 2048
    assert head_bytes(LLAMA_8B, tokens=tokens, dtype=2, on_gpu=True) == 4096 * 32768 * 2 + tokens * 4096 * 4
    assert head_bytes(LLAMA_8B, tokens=tokens, dtype=2, on_gpu=True) < tokens * 128256 * 10 / 30
    assert head_bytes(LLAMA_8B, tokens=100, dtype=2, on_gpu=False) == 100 * 32768 * 32 + 100 * 4096 * 4 + 32768 * 4096 * 4


def test_8b_in_batches_of_eight_fits_where_it_was_refused() -> None:
    parameters = adapter_parameters(LLAMA_8B, r=16, targets="all-linear")
    estimate = estimate_memory(LLAMA_8B, parameters=parameters, batch=8, length=2048, optimizer="8bit")
    assert estimate.logits / GIB == pytest.approx(0.5, abs=0.01)
    # One block computed again: inputs of the adapted modules in float32 and their masks, which the estimate left out before.
    block = block_bytes(LLAMA_8B, r=16, targets="all-linear", dropout=0.05, dtype=2, adapter=4, mask=1)
    assert estimate.activations == 32 * 8 * 2048 * 4096 * 2 + 8 * 2048 * block
    assert 15 < estimate.total / GIB < 20


def test_experts_are_counted_in_sixteen_bits() -> None:
    shape = Shape(**{**vars(LLAMA_8B), "experts": 8, "expert_intermediate": 14336})
    dense, mixture = (estimate_memory(s, parameters=0, batch=1, length=1).weights for s in (LLAMA_8B, shape))
    assert mixture - dense == 32 * 8 * 3 * 4096 * 14336 * 2
