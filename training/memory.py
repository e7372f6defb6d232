"""How much memory a run needs, by arithmetic, before anything is loaded.

Weights in NF4 with quantized constants, the adapter with its gradients and AdamW, activations with or without checkpointing,
the output head's tile, and a dequantized matrix at a time. Activations are what autograd keeps of a Llama block with LoRA, counted to
the byte on a CPU (`tests/training/test_memory.py`); the head's tile is read from TRL 1.16 (`kernels/chunked_logprob.py`). run.json has
the estimate and the peak of each run. On a GPU nothing was measured.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.config import RunFile, TrainingError

GIB = 1024**3

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

_OPTIMIZER_BYTES = {"float32": 8, "bfloat16": 4, "8bit": 2}


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions, from its config.json."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    experts: int = 0
    """Experts of a block; 0 for a dense model."""
    expert_intermediate: int = 0

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear module of a block, by name."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, inner = self.hidden, self.intermediate
        return {
            "q_proj": (hidden, q),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (q, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def expert_parameters(self) -> int:
        """Parameters of the experts: transformers 5 fuses them into tensors that bitsandbytes does not quantize."""
        return self.layers * self.experts * 3 * self.hidden * self.expert_intermediate

    @property
    def linear_parameters(self) -> int:
        return self.layers * sum(a * b for a, b in self.linears.values())


@dataclass(frozen=True)
class Estimate:
    """Bytes by what they hold."""

    weights: int
    adapter: int
    activations: int
    logits: int
    dequantization: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def as_gib(self) -> dict[str, float]:
        """The parts and the total, GiB, rounded for people."""
        return {**{key: round(value / GIB, 2) for key, value in asdict(self).items()}, "total": round(self.total / GIB, 2)}


def read_shape(folder: Path) -> Shape:
    """The dimensions in a checkpoint's config.json."""
    value = json.loads((folder / "config.json").read_text())
    value = value.get("text_config") or value
    asked = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if missing := [key for key in asked if not isinstance(value.get(key), int)]:
        fact = f"has no {', '.join(missing)}; only decoders shaped like Llama are known here"
        raise TrainingError(str(folder / "config.json"), fact, "take a base model of that kind (Llama, Mistral, Qwen, Gemma, SmolLM)")
    heads = value["num_attention_heads"]
    return Shape(
        layers=value["num_hidden_layers"],
        hidden=value["hidden_size"],
        intermediate=value["intermediate_size"],
        heads=heads,
        kv_heads=value.get("num_key_value_heads") or heads,
        head_dim=value.get("head_dim") or value["hidden_size"] // heads,
        vocabulary=value["vocab_size"],
        tied=bool(value.get("tie_word_embeddings", False)),
        experts=(experts := next((value[key] for key in _EXPERTS if isinstance(value.get(key), int)), 0)),
        expert_intermediate=(value.get("moe_intermediate_size") or value["intermediate_size"]) if experts else 0,
    )


@dataclass(frozen=True)
class Limits:
    """What a base model can be given, from its config.json."""

    vocabulary: int
    positions: int | None
    """Tokens in a row; None where the configuration names no limit."""


def read_limits(folder: Path) -> Limits:
    """Return the vocabulary's size and the number of positions, RoPE scaling included."""
    value = json.loads((folder / "config.json").read_text())
    value = value.get("text_config") or value
    positions, scaling = value.get("max_position_embeddings"), value.get("rope_parameters") or value.get("rope_scaling") or {}
    factors = [scaling.get("factor"), *(inner.get("factor") for inner in scaling.values() if isinstance(inner, dict))]
    factor = max([1.0, *(float(number) for number in factors if isinstance(number, int | float))])
    return Limits(vocabulary=value["vocab_size"], positions=int(positions * factor) if isinstance(positions, int) else None)


def adapter_parameters(shape: Shape, *, r: int, targets: tuple[str, ...] | str) -> int:
    """Parameters of a LoRA: the sum of r * (in + out) over the adapted modules."""
    names = shape.linears if targets == "all-linear" else {name: shape.linears[name] for name in targets if name in shape.linears}
    return shape.layers * sum(r * (a + b) for a, b in names.values())


def block_bytes(shape: Shape, *, r: int, targets: tuple[str, ...] | str, dropout: float, dtype: int, adapter: int, mask: int) -> int:
    """Return the bytes autograd keeps of one block for one token.

    Two norms keep their input in float32. Attention keeps query, key, value, output and one number a head. The MLP keeps gate, its
    activation and up. Each adapted module keeps its input in the adapter's data type, the dropout mask, and its r numbers.

    Args:
        shape: the model's dimensions.
        r: the adapter's rank.
        targets: adapted modules.
        dropout: the adapter's; 0 keeps no masks.
        dtype: bytes of a number of the base model's arithmetic.
        adapter: bytes of an adapter's number.
        mask: bytes of a number in a dropout mask: 1 on CUDA; on a CPU the mask is kept in the adapter's data type.
    """
    linears = shape.linears
    adapted = linears if targets == "all-linear" else {name: linears[name] for name in targets if name in linears}
    q, kv = linears["q_proj"][1], linears["k_proj"][1]
    base = 2 * (4 * shape.hidden + 4) + dtype * (2 * q + 2 * kv + 3 * shape.intermediate) + 4 * shape.heads
    inputs = sum(size for size, _ in adapted.values())
    return base + inputs * (adapter + (mask if dropout > 0 else 0)) + len(adapted) * r * adapter


TOKEN_TILE, VOCABULARY_TILE = 4096, 32768
"""TRL's output head is computed in tiles of at most so many tokens and entries of the vocabulary; the whole logits are never built."""

CPU_TILE_BYTES = 32
"""Bytes for an entry of the tile on a CPU, whose kernel works on float32 copies; measured 31.3 to 31.5 over forward and backward."""


def head_bytes(shape: Shape, *, tokens: int, dtype: int, on_gpu: bool) -> int:
    """Return the bytes of TRL's output head: one tile, on a CPU with its float32 copies, and the gradient of the hidden states."""
    columns = min(shape.vocabulary, VOCABULARY_TILE)
    tile = min(tokens, TOKEN_TILE) * columns * (dtype if on_gpu else CPU_TILE_BYTES)
    return tile + tokens * shape.hidden * 4 + (0 if on_gpu else columns * shape.hidden * 4)


def estimate_memory(
    shape: Shape,
    *,
    parameters: int,
    batch: int,
    length: int,
    dpo: bool = False,
    quantized: bool = True,
    checkpointing: bool = True,
    optimizer: str = "float32",
    adapter_bytes: int = 4,
    r: int = 16,
    targets: tuple[str, ...] | str = "all-linear",
    dropout: float = 0.05,
    dtype_bytes: int = 2,
    on_gpu: bool = True,
) -> Estimate:
    """Return the peak memory of a step. DPO holds the reference adapter and two sequences a row.

    Args:
        shape: the model's dimensions.
        parameters: of the adapter.
        batch: rows in a step.
        length: tokens of the longest row.
        dpo: whether it is a DPO run.
        quantized: whether the linear modules are in NF4.
        checkpointing: whether a block's activations are computed again in the backward pass.
        optimizer: float32, bfloat16 or 8bit; AdamW keeps two numbers a parameter.
        adapter_bytes: bytes of an adapter's number.
        r: the adapter's rank.
        targets: adapted modules.
        dropout: the adapter's.
        dtype_bytes: bytes of a number that is not quantized.
        on_gpu: whether TRL's Triton kernels are used.
    """
    # 4 bits, plus an 8-bit constant per 64 weights, plus a 32-bit one per 64 * 256.
    bits = 4 + 8 / 64 + 32 / (64 * 256) if quantized else 8 * dtype_bytes
    tokens = batch * length * (2 if dpo else 1)
    embeddings = shape.vocabulary * shape.hidden * dtype_bytes * (1 if shape.tied else 2)
    weights = int(shape.linear_parameters * bits / 8) + shape.expert_parameters * dtype_bytes + embeddings
    adapter = parameters * (2 * adapter_bytes + _OPTIMIZER_BYTES[optimizer] + (adapter_bytes if dpo else 0))
    # DPOTrainer turns dropout off.
    mask, kept = 1 if on_gpu else adapter_bytes, 0.0 if dpo else dropout
    block = tokens * block_bytes(shape, r=r, targets=targets, dropout=kept, dtype=dtype_bytes, adapter=adapter_bytes, mask=mask)
    boundaries = shape.layers * tokens * shape.hidden * dtype_bytes
    activations = boundaries + block if checkpointing else shape.layers * block
    logits = head_bytes(shape, tokens=tokens, dtype=dtype_bytes, on_gpu=on_gpu)
    dequantization = shape.hidden * shape.intermediate * dtype_bytes if quantized else 0
    subtotal = weights + adapter + activations + logits + dequantization
    return Estimate(weights, adapter, activations, logits, dequantization, int(subtotal * 0.05) + GIB)


def estimate_run(run: RunFile, *, shape: Shape, lora: dict[str, Any], longest: int, on_gpu: bool, dtype: str = "bfloat16") -> Estimate:
    """Return the estimate for a run file.

    Args:
        run: the run file.
        shape: the base model's dimensions.
        lora: r, targets and dropout of the adapter.
        longest: the longest row in tokens, which max_length may cut.
        on_gpu: whether it runs on a GPU.
        dtype: data type to compute in.
    """
    settings = run.optimizer
    checkpointing = settings.gradient_checkpointing if settings.gradient_checkpointing is not None else on_gpu
    return estimate_memory(
        shape,
        parameters=adapter_parameters(shape, r=lora["r"], targets=lora["targets"]),
        batch=settings.batch_size,
        length=min(longest, settings.max_length),
        dpo=run.kind == "dpo",
        quantized=run.quantization.kind == "nf4",
        checkpointing=checkpointing,
        optimizer="8bit" if on_gpu else settings.adapter_dtype,
        adapter_bytes=4 if settings.adapter_dtype == "float32" else 2,
        r=lora["r"],
        targets=lora["targets"],
        dropout=lora.get("dropout", 0.0),
        dtype_bytes=4 if dtype == "float32" else 2,
        on_gpu=on_gpu,
    )


def checkpoint_bytes(run: RunFile, *, shape: Shape, lora: dict[str, Any], on_gpu: bool) -> int:
    """The most a run folder takes: four checkpoints (the best, the last two and the one being written), and the adapter twice."""
    parameters = adapter_parameters(shape, r=lora["r"], targets=lora["targets"])
    one = parameters * (4 if run.optimizer.adapter_dtype == "float32" else 2)
    optimizer = parameters * _OPTIMIZER_BYTES["8bit" if on_gpu else run.optimizer.adapter_dtype]
    tokenizer = sum(path.stat().st_size for path in run.base_model.glob("token*.json"))
    return 4 * (one * (2 if run.kind == "dpo" else 1) + optimizer + tokenizer) + 2 * (one + tokenizer)


def available_memory() -> int:
    """Bytes this process may still take: what the machine says is free, or less where a container's limit is lower."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free
