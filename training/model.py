"""Load a base model for QLoRA, with the two silent defects of the stack mended.

1. bitsandbytes on a CPU with AVX512_BF16: an eval-mode forward repacks 4-bit weights, and the gradient through them is lost
   in every later training step, without an error. `mend_linear4bit` turns that path off.
2. Resuming loads the adapter back as fp32 whatever it was trained in, and the run drifts. `resuming` casts it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import Lora, Quantization, RunFile, TrainingError
from training.data import file_sha256

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def base_digest(folder: Path) -> str:
    """sha256 over the names and hashes of a checkpoint's config, weights, tokenizer and chat template."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise TrainingError(
            str(folder), "holds no .safetensors weights", "name a checkpoint folder that has them (train prepare-model makes one)"
        )
    named = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    files = [path for path in named if path.is_file()] + weights
    return hashlib.sha256("\n".join(f"{p.name} {file_sha256(p)}" for p in files).encode()).hexdigest()


def check_base(folder: Path, checked: Mapping[str, Any], *, mend: str) -> None:
    """Refuse a base model that is no longer the one preflight recorded: the adapter would be traced to other weights."""
    digest = base_digest(folder)
    if digest != checked["base"]["digest"]:
        fact = f"is not the base model preflight looked at (digest {digest[:12]}, not {checked['base']['digest'][:12]})"
        raise TrainingError(str(folder), fact, mend)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer with its chat template; a base model without one cannot be trained on conversations."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES[:3]):
        raise TrainingError(
            str(folder), "holds no tokenizer (no tokenizer.json)", "put the base model's tokenizer files beside its weights"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise TrainingError(str(folder), "its tokenizer has no chat template", "take an instruction-tuned base model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def attention_for(*, packing: bool) -> str:
    """Packed rows are kept apart by FlashAttention only, so packing must really use it; else torch's own is as good and always there."""
    return "flash_attention_2" if packing else "sdpa"


def load_base(folder: Path, quantization: Quantization, *, packing: bool = False) -> Any:
    """The base model, frozen, in 4 bits where asked. The GPU path has not been run on a GPU."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "device_map": {"": 0 if torch.cuda.is_available() else "cpu"},
        "attn_implementation": attention_for(packing=packing),
    }
    if quantization.kind == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    model.config.use_cache = False
    mend_linear4bit(model)
    return model


def load_for_reading(folder: Path, quantization: Quantization, *, adapter: Path | None) -> Any:
    """The base model, with an adapter on it or not, to be asked and never trained."""
    model = load_base(folder, quantization)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def mend_linear4bit(model: Any) -> int:
    """Keep 4-bit weights in their training layout; returns how many modules were mended.

    `Linear4bit.forward` repacks for inference when it is not training, the input needs no gradient and the CPU has
    AVX512_BF16; the packed layout has no backward. A GPU never takes that path.
    """
    import bitsandbytes

    modules = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]  # type: ignore[attr-defined]
    for module in modules:
        module.support_avx512bf16_for_cpu = False
    return len(modules)


def lora_config(lora: Lora) -> Any:
    """PEFT's configuration of a fresh adapter."""
    from peft import LoraConfig

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM")


def cast_adapters(model: Any, dtype: str) -> None:
    """Put every LoRA weight, reference included, into one dtype. TRL makes the trained one bfloat16 and leaves the other."""
    import torch

    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, dtype))


def resuming(trainer: type) -> type:
    """The trainer class with checkpoints read back into the dtype the run trains in (silent defect 2)."""

    class Resuming(trainer):  # type: ignore[misc]
        adapter_dtype = "float32"

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            cast_adapters(self.model, self.adapter_dtype)

        def _load_best_model(self) -> None:
            super()._load_best_model()
            cast_adapters(self.model, self.adapter_dtype)

    return Resuming


def training_arguments(run: RunFile, *, folder: Path) -> dict[str, Any]:
    """The arguments SFTConfig and DPOConfig share."""
    import torch

    on_gpu, settings = torch.cuda.is_available(), run.optimizer
    checkpointing = settings.gradient_checkpointing if settings.gradient_checkpointing is not None else on_gpu
    return {
        "output_dir": str(folder / "checkpoints"),
        "learning_rate": run.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "max_length": settings.max_length,
        "warmup_steps": settings.warmup,
        "lr_scheduler_type": settings.schedule,
        "weight_decay": settings.weight_decay,
        "optim": "paged_adamw_8bit" if on_gpu else "adamw_torch",
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": checkpointing,
        "eval_strategy": "steps",
        "eval_steps": run.stopping.every_steps,
        "save_strategy": "steps",
        "save_steps": run.stopping.every_steps,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,  # or the patience of early stopping would begin anew after a kill
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # by default a loss that is nan is shown as the mean of those before it
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
        "report_to": [] if run.logger == "none" else [run.logger],
        "seed": run.seed,
        "data_seed": run.seed,
    }
