"""Load a base model for QLoRA: data type, attention, and two silent defects of the stack corrected.

1. bitsandbytes on a CPU with AVX512_BF16: an eval-mode forward repacks 4-bit weights, and the gradient through them is lost
   in every later training step, without an error. `mend_linear4bit` turns that path off.
2. Resuming loads the adapter back as fp32 whatever it was trained in, and the run drifts. `resuming` casts it back.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.callbacks import Tracking
from training.config import Quantization, RunFile, TrainingError
from training.data import file_sha256
from training.license import RECORD
from training.targets import ROUTERS
from training.weights import find_weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

_READ_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken")

_READ_NAMES = ("merges.txt", "vocab.txt")

_CODE_NEXT = "take a model that transformers knows by itself; code from a model folder is never run"


def base_digest(folder: Path) -> str:
    """Return the sha256 over the names and hashes of every file that loading a checkpoint reads.

    These are the configurations, the tokenizer with its chat templates, the shard index and the weights it names.
    """
    files = sorted({*find_settings(folder), *find_weights(folder)})
    return hashlib.sha256("\n".join(f"{p.relative_to(folder).as_posix()} {file_sha256(p)}" for p in files).encode()).hexdigest()


def find_settings(folder: Path) -> list[Path]:
    """Return the files beside the weights that transformers may read: JSON, chat templates and vocabularies; not our own record."""
    beside = [path for path in folder.iterdir() if path.is_file() and path.name != RECORD]
    read = [
        path for path in beside if path.suffix in _READ_SUFFIXES or path.name in _READ_NAMES or path.name.startswith("tokenizer.model.")
    ]
    return read + [path for path in folder.glob("additional_chat_templates/*.jinja") if path.is_file()]


@contextlib.contextmanager
def refuse_code(folder: Path) -> Iterator[None]:
    """Turn transformers' refusal of a model that needs its own code into a sentence. Every load inside passes trust_remote_code=False."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error) and "custom code" not in str(error):
            raise
        raise TrainingError(str(folder), "needs Python code from its own folder to load", _CODE_NEXT) from error


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
    with refuse_code(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not tokenizer.chat_template:
        raise TrainingError(str(folder), "its tokenizer has no chat template", "take an instruction-tuned base model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def attention_for(*, packing: bool) -> str | None:
    """Return the attention implementation to ask for; None lets transformers choose what the model family supports.

    That is torch's own attention, or eager for families that it would compute wrongly (Gemma 2's softcapping, gpt-oss's sinks). Packed
    rows take FlashAttention where it is installed, because it never builds the mask of rows times rows that keeps them apart.
    """
    import torch

    has_flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if packing and has_flash else None


MOST_LEAK = 0.03
"""Largest share of the effect of a foreign row that may be left after packing. Of 24 families of transformers 5.24 those that keep rows
apart leave under .007 (in bfloat16, by rounding) and those that do not leave .07 (RecurrentGemma) to 1 (Bloom, MPT, Mamba, gpt-oss)."""


def check_packing(model: Any, ids: Sequence[int]) -> float:
    """Refuse a model that reads one packed row while it predicts another.

    A row is packed behind a copy of itself, which tells every token in advance. Its loss must be that of the row alone.

    Args:
        model: the loaded base model.
        ids: tokens of one row.

    Returns:
        The share of the copy's effect that is left when rows are packed; 0 where they are kept apart.
    """
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    row = list(ids)[:256]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    packed = collate([{"input_ids": row * 2, "seq_lengths": [len(row)] * 2}])
    try:
        alone, kept, mixed = (
            _token_losses(model, batch)[-(len(row) - 1) :]
            for batch in (
                {"input_ids": torch.tensor([row])},
                {key: value for key, value in packed.items() if key != "labels"},
                {"input_ids": torch.tensor([row * 2])},
            )
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError("optimizer.packing", f"this base model cannot read packed rows ({reason})", "set packing: false") from error
    effect = float((mixed - alone).abs().mean())
    left = float((kept - alone).abs().mean()) / max(effect, 1e-6)
    if left > MOST_LEAK:
        fact = f"this base model reads one packed row while it predicts another ({left:.0%} of the effect of a foreign row is left)"
        raise TrainingError("optimizer.packing", fact, "set packing: false")
    return left


def _token_losses(model: Any, batch: Mapping[str, Any]) -> Any:
    """The loss of each token of a batch of one sequence but the first."""
    import torch

    moved = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        scores = torch.log_softmax(model(**moved, use_cache=False).logits[0, :-1].float(), dim=-1)
    model.train(was_training)
    return -scores.gather(1, moved["input_ids"][0, 1:, None])[:, 0]


def compute_dtype() -> str:
    """Return the data type this machine computes in: bfloat16, or float32 on a CPU without bfloat16 instructions.

    There oneDNN emulates bfloat16: a step of SmolLM2-135M (NF4, batch 2) took 10.8 processor seconds in it and 1.4 in float32.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    return "bfloat16" if supported else "float32"


def checked_dtype(checked: Mapping[str, Any], *, say: Callable[[str], None]) -> str:
    """Return the data type preflight recorded, so that a run that was moved goes on in the arithmetic it was begun with."""
    recorded, own = str(checked["dtype"]), compute_dtype()
    if recorded != own:
        say(f"Computing in {recorded}, as preflight recorded; {own} is this machine's fast data type")
    return recorded


def load_base(folder: Path, quantization: Quantization, *, packing: bool = False, dtype: str | None = None) -> Any:
    """Load the base model, frozen. The GPU path has not been run on a GPU.

    Args:
        folder: the checkpoint.
        quantization: NF4 or none.
        packing: whether rows are packed.
        dtype: data type of what is not quantized and of the arithmetic; by default this machine's (`compute_dtype`).

    Returns:
        The causal language model, with `use_cache` off.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    chosen = getattr(torch, dtype or compute_dtype())
    settings: dict[str, Any] = {
        "dtype": chosen,
        "device_map": {"": 0 if torch.cuda.is_available() else "cpu"},
        "attn_implementation": attention_for(packing=packing),
    }
    if quantization.kind == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=chosen,
        )
    find_weights(folder)
    with refuse_code(folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **settings
        )
    model.config.use_cache = False
    if not hasattr(model, model.base_model_prefix):
        # Llama4ForCausalLM names a body it does not have; TRL and `likelihood.py` look the body up by this name.
        model.base_model_prefix = "model"
    text = model.config.get_text_config()
    if hasattr(text, "num_local_experts") and not hasattr(text, "num_experts"):
        text.num_experts = text.num_local_experts  # the name TRL reads for the router's auxiliary loss
    steady_routers(model)
    mend_linear4bit(model)
    return model


def load_for_reading(folder: Path, quantization: Quantization, *, adapter: Path | None) -> Any:
    """The base model, with an adapter on it or not, to be asked and never trained."""
    model = load_base(folder, quantization)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def steady_routers(model: Any) -> None:
    """Let routers choose experts as they do at inference, without the noise of pretraining (Phi-3.5-MoE samples its experts).

    Routers are not trained here, so the noise teaches them nothing, and DPO's policy and reference would be sent to other experts.
    """
    for name, module in model.named_modules():
        for noise in ("jitter_noise", "input_jitter_noise"):
            if hasattr(module, noise):
                setattr(module, noise, 0.0)
        if name.rpartition(".")[2] in ROUTERS:
            module.eval()
            module.train = lambda mode=True, module=module: module


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


def training_arguments(run: RunFile, *, folder: Path, tracking: Tracking | None = None) -> dict[str, Any]:
    """Return the arguments that SFTConfig and DPOConfig share.

    Args:
        run: the run file.
        folder: the run folder.
        tracking: name and project of the run for its logger.
    """
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
        "activation_checkpointing": checkpointing,
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
        "report_to": [],  # `progress.logger_callbacks` makes the loggers
        **({"run_name": tracking.name, "project": tracking.project} if tracking else {}),
        "seed": run.seed,
        "data_seed": run.seed,
    }
