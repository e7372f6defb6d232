"""Which modules of a base model an adapter goes on: every linear module by default, without output head, routers and fused experts."""

from __future__ import annotations

import difflib
from typing import Any

from training.config import Lora, RunFile, TrainingError
from training.weights import find_module_names

ROUTERS = frozenset({"router", "gate", "shared_expert_gate", "modality_router", "router_gate"})
"""Names of the modules that choose experts. Some return tuples, which PEFT cannot adapt (Llama 4, Phi-3.5-MoE); in the others an
adapter would move tokens to other experts than those the base model was trained with."""
EXPERT_PROJECTIONS = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
REMAPPED_BY_PEFT = frozenset(
    {
        *("Dots3NoteTextModel", "UnlimitedOcrTextModel", "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3"),
        *("deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa"),
        *("hunyuan_v1_moe", "longcat_flash", "mellum", "minimax", "minimax_m2", "mixtral", "olmoe", "qwen3_moe", "qwen3_next"),
        *("qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "sarvam_mla", "solar_open"),
    }
)
"""Model types for which PEFT takes the name of an expert's projection to mean the fused experts of transformers 5. It then multiplies
the rank by the number of experts and refuses dropout, so `all-linear` leaves these names out and the experts stay as they are."""
MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
MAMBA_MODULES = frozenset({"out_proj", "conv1d"})
"""Modules that PEFT refuses in models of MAMBA_TYPES: their kernels read the weights directly."""


def linear_names(model: Any) -> list[str]:
    """Return the last names of the linear modules that `all-linear` adapts: without output head, routers and fused experts."""
    import torch

    kind, head = model.config.get_text_config().model_type, model.get_output_embeddings()
    left_out = (
        ROUTERS
        | (EXPERT_PROJECTIONS if kind in REMAPPED_BY_PEFT else frozenset())
        | (MAMBA_MODULES if kind in MAMBA_TYPES else frozenset())
    )
    linears = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head)
    return sorted({name.rpartition(".")[2] for name in linears} - left_out)


def lora_config(lora: Lora, model: Any) -> Any:
    """Return PEFT's configuration of a fresh adapter on a base model."""
    from peft import LoraConfig

    targets = linear_names(model) if isinstance(lora.targets, str) else list(lora.targets)
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM")


def refuse_unknown_targets(run: RunFile) -> None:
    """Names in lora.targets that no module of the base model has."""
    if run.lora is None or isinstance(run.lora.targets, str):
        return
    known = find_module_names(run.base_model)
    for target in run.lora.targets:
        if target in ROUTERS:
            raise TrainingError("lora.targets", f"{target} chooses the experts of a mixture; routers are not adapted", "leave it out")
        if target not in known:
            near = difflib.get_close_matches(target, sorted(known), n=1)
            again = f"did you mean {near[0]}?" if near else "name modules that it has, or write targets: all-linear"
            raise TrainingError("lora.targets", f"{target} is no module of the base model", again)
