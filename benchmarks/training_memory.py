"""Compare the memory estimate of preflight with the peak of real training steps on this CPU, for five shapes of models.

    python -m benchmarks.training_memory [SHAPE ...]

Each shape is trained for two steps in a process of its own, on random weights and rows of one length. The peak is the process's largest
resident memory, libraries included, as in run.json; the estimate is what `train preflight` prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.memory import GIB


@dataclass(frozen=True)
class Case:
    """A model's dimensions and the settings of its training."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    batch: int
    length: int
    kind: str = "sft"
    quantization: str = "nf4"
    checkpointing: bool = False
    rank: int = 16


CASES = {
    "smollm2-135m": Case(30, 576, 1536, 9, 3, 49152, True, batch=8, length=256),
    "wide-16-bit": Case(8, 1536, 4096, 12, 4, 32000, False, batch=4, length=512, quantization="none"),
    "dpo": Case(16, 768, 2048, 12, 4, 49152, True, batch=4, length=256, kind="dpo"),
    "large-vocabulary": Case(8, 768, 2048, 12, 4, 128256, True, batch=4, length=512),
    "checkpointed": Case(24, 896, 3584, 14, 2, 49152, True, batch=8, length=512, checkpointing=True, rank=32),
}


def main(names: list[str]) -> None:
    """Print a table of the cases."""
    print(f"{'shape':<18} {'estimate':>9} {'peak':>9} {'ratio':>6}  GiB")
    for name in names or list(CASES):
        done = subprocess.run([sys.executable, "-m", __spec__.name, "--child", name], capture_output=True, text=True)
        if done.returncode:
            print(f"{name:<18} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["estimate"] / found["peak"]
        print(f"{name:<18} {found['estimate']:>9.2f} {found['peak']:>9.2f} {ratio:>6.2f}  {found['parts']}", flush=True)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Train two steps and return the estimate and the peak in GiB."""
    import resource

    import transformers
    from peft import get_peft_model

    from tests.support.training_samples import build_model, load_run, run_settings, write_eval
    from training.adapter import ADAPTER, save_adapter
    from training.config import Lora
    from training.libraries import keep_freed_memory
    from training.memory import LoraShape, estimate_run, read_shape
    from training.model import compute_dtype, load_base, load_tokenizer, lora_config
    from training.train import Splits, make_trainer

    keep_freed_memory()
    build_model(folder / "model")
    config = transformers.LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        tie_word_embeddings=case.tied,
        max_position_embeddings=2048,
    )
    # In a process of its own, so that making the weights is not part of the peak.
    make = WRITE.format(config=json.dumps(config.to_dict()), folder=str(folder / "model"))
    subprocess.run([sys.executable, "-c", make], check=True, capture_output=True)
    write_eval(folder)
    trainer: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": case.batch, "max_length": case.length}
    trainer["activation_checkpointing"] = case.checkpointing
    settings = run_settings(case.kind, trainer=trainer, quantization={"kind": case.quantization}, stopping={"every_steps": 2})
    settings.pop("threads")
    if case.kind == "sft":
        settings["lora"] = {"r": case.rank, "lora_dropout": 0.0}
    run = load_run(folder, "run.yaml", settings)
    dtype, tokenizer = compute_dtype(), load_tokenizer(folder / "model")
    words = " ".join(f"pain{n % 7}" for n in range(case.length))
    answer = [{"role": "assistant", "content": words}]
    row = {"prompt": [{"role": "user", "content": "code"}], "completion": answer, "chosen": answer, "rejected": answer, "id": "a"}
    if case.kind == "dpo":
        assert run.sft_adapter is not None
        run.sft_adapter.mkdir(parents=True)
        model = get_peft_model(base := load_base(folder / "model", run.quantization, dtype=dtype), lora_config(Lora(r=case.rank), base))
        save_adapter(model, tokenizer, folder=run.sft_adapter, base_id="benchmark")
        assert (run.sft_adapter / ADAPTER).is_dir()
        del model, base
    run.output.mkdir(exist_ok=True)
    estimate = estimate_run(
        run, shape=read_shape(folder / "model"), lora=LoraShape(case.rank), longest=case.length, on_gpu=False, dtype=dtype
    )
    built = make_trainer(run, tokenizer, Splits([row] * case.batch * 2, [row] * 2), dtype=dtype, say=lambda text: None)
    built.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"estimate": estimate.total / GIB, "peak": peak / GIB, "parts": estimate.as_gib()}


WRITE = """
import json, torch, transformers
config = transformers.LlamaConfig(**json.loads('''{config}'''))
torch.manual_seed(1)
transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained({folder!r})
"""

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        with tempfile.TemporaryDirectory() as aside:
            print(json.dumps(measure(CASES[sys.argv[2]], Path(aside))))
    else:
        main(sys.argv[1:])
