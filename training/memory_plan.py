"""Memory of a training from config.json alone, before there are weights: `train memory`.

Terms are those of `training.memory`, for a GPU, with checkpointed activations. Full fine-tuning counts 16 bytes a parameter: 2 of weight,
2 of gradient, 12 of AdamW (a float32 copy and two moments), as in ZeRO (Rajbhandari et al. 2020). ZeRO stage 1 divides AdamW's state over
the devices, stage 2 the gradients too, and stage 3 the weights too, of which one block at a time is gathered.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.errors import TrainingError
from training.memory import GIB, Estimate, LoraShape, Shape, Step, adapter_parameters, estimate_memory, gathered_bytes

MIB = 2**20
CARDS = {
    "t4-16gb": 15360,
    "rtx3090-24gb": 24576,
    "rtx4090-24gb": 24564,
    "l4-24gb": 23034,
    "v100-32gb": 32768,
    "a100-40gb": 40960,
    "l40s-48gb": 46068,
    "a6000-48gb": 49140,
    "a100-80gb": 81920,
    "h100-80gb": 81559,
    "h200-141gb": 143771,
    "b200-180gb": 183359,
}
"""Memory of a card in MiB, as nvidia-smi prints it."""
Adaptation = Literal["qlora", "lora", "full"]
ADAPTATIONS: tuple[Adaptation, ...] = ("qlora", "lora", "full")
MOST_ROWS = 4096
"""Largest batch that is looked for."""


@dataclass(frozen=True)
class Setup:
    """The training method, and the number of devices."""

    adaptation: Adaptation
    method: Literal["sft", "dpo"]
    zero: int = 0
    """Stage of ZeRO; 0 keeps everything on each device."""
    devices: int = 1


class MemoryLine(BaseModel):
    """One line of `train memory`: GiB on each device at one row, and the largest batch that fits."""

    model_config = ConfigDict(frozen=True)

    adaptation: Adaptation
    method: Literal["sft", "dpo"]
    zero: int
    devices: int
    weights: float
    trained: float
    """Trained parameters with gradients, AdamW's state, and the reference of DPO."""
    activations: float
    logits: float
    other: float
    """One dequantized matrix, and a reserve of 5 % and 1 GiB."""
    total: float
    rows: int
    """Largest batch on a device; 0 if one row does not fit."""


class MemoryPlan(BaseModel):
    """The result of `train memory`."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    adapter_parameters: int
    card: str
    card_gib: float
    length: int
    rank: int
    lines: tuple[MemoryLine, ...]


def total_parameters(shape: Shape) -> int:
    """Return the parameters of blocks, experts, embeddings and output head; norms are left out."""
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return shape.linear_parameters + shape.expert_parameters + embeddings


def estimate_setup(shape: Shape, lora: LoraShape, setup: Setup, *, rows: int, length: int) -> Estimate:
    """Return the bytes on each device.

    Args:
        shape: the model's dimensions.
        lora: the adapter; not used for full fine-tuning.
        setup: what is trained, and where.
        rows: in one forward pass of a device.
        length: tokens of a row.
    """
    pairs, full = setup.method == "dpo", setup.adaptation == "full"
    step = Step(
        batch=rows,
        length=length,
        sequences=2 if pairs else 1,
        has_reference=pairs,
        quantized=setup.adaptation == "qlora",
        optimizer="8bit",
    )
    found = estimate_memory(shape, replace(lora, targets=()) if full else lora, step)
    parameters = total_parameters(shape) if full else adapter_parameters(shape, lora)
    # Bytes a parameter of gradient, of AdamW's state, and of the trained weight where it is not part of `weights`.
    gradient, state, own = (2.0, 12.0, 0.0) if full else (float(step.adapter_bytes), 2.0, float(step.adapter_bytes))
    reference = 0 if not pairs else 2 * parameters if full else step.adapter_bytes * parameters
    activations, weights = found.activations, found.weights
    if full:
        # A trained linear module keeps its input: two of the hidden size and the down projection's, in 16 bits.
        activations += rows * length * step.sequences * 2 * (2 * shape.hidden + shape.intermediate)
    if setup.zero >= 1:
        state = state / setup.devices
    if setup.zero >= 2:
        gradient = gradient / setup.devices
    if setup.zero >= 3:
        weights = weights // setup.devices + gathered_bytes(shape, step)
        reference, own = reference // setup.devices, own / setup.devices
    trained = int(parameters * (gradient + state + own)) + reference
    parts = weights + trained + activations + found.logits + found.dequantization
    return Estimate(weights, trained, activations, found.logits, found.dequantization, int(parts * 0.05) + GIB)


def find_largest(shape: Shape, lora: LoraShape, setup: Setup, *, length: int, memory: int) -> int:
    """Return the most rows that fit, by bisection; 0 if one row does not fit.

    Args:
        shape: the model's dimensions.
        lora: the adapter.
        setup: what is trained, and where.
        length: tokens of a row.
        memory: bytes of a device.
    """
    low, high = 0, MOST_ROWS + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = estimate_setup(shape, lora, setup, rows=middle, length=length).total <= memory
        low, high = (middle, high) if fits else (low, middle)
    return low


def plan_memory(shape: Shape, *, card: str, rank: int, length: int, devices: int = 1) -> MemoryPlan:
    """Return the memory of each way to train a model on a card, and the largest batch that fits.

    Args:
        shape: the model's dimensions.
        card: a key of CARDS.
        rank: of the adapter, on all linear modules.
        length: tokens of a row.
        devices: number of cards; with more than one, ZeRO stages 1 to 3 are listed too.

    Raises:
        TrainingError: the card is not in the table.
    """
    if card not in CARDS:
        raise TrainingError(f"--card {card}", "is not in our table", f"name one of {', '.join(CARDS)}")
    lora, memory, lines = LoraShape(rank), CARDS[card] * MIB, []
    stages = (0, 1, 2, 3) if devices > 1 else (0,)
    methods: tuple[Literal["sft", "dpo"], ...] = ("sft", "dpo")
    for adaptation, method, zero in itertools.product(ADAPTATIONS, methods, stages):
        setup = Setup(adaptation, method, zero, devices)
        one = estimate_setup(shape, lora, setup, rows=1, length=length)
        gib = {key: round(value / GIB, 2) for key, value in vars(one).items()}
        lines.append(
            MemoryLine(
                adaptation=adaptation,
                method=method,
                zero=zero,
                devices=devices,
                weights=gib["weights"],
                trained=gib["adapter"],
                activations=gib["activations"],
                logits=gib["logits"],
                other=round((one.dequantization + one.overhead) / GIB, 2),
                total=round(one.total / GIB, 2),
                rows=find_largest(shape, lora, setup, length=length, memory=memory),
            )
        )
    return MemoryPlan(
        parameters=total_parameters(shape),
        adapter_parameters=adapter_parameters(shape, lora),
        card=card,
        card_gib=round(memory / GIB, 1),
        length=length,
        rank=rank,
        lines=tuple(lines),
    )


def plan_text(plan: MemoryPlan) -> str:
    """Return the plan as a table, numbers in GiB."""
    places = f"{plan.lines[0].devices} x {plan.card}" if plan.lines[0].devices > 1 else plan.card
    head = (
        f"{plan.parameters / 1e9:.2f} billion parameters; LoRA of rank {plan.rank} trains {plan.adapter_parameters / 1e6:.1f} million\n"
        f"GiB on each card ({places}, {plan.card_gib} GiB) for one row of {plan.length} tokens, and the largest batch a card holds"
    )
    columns = ("", "ZeRO", "weights", "trained", "activations", "logits", "other", "total", "largest batch")
    rows = [
        (
            f"{line.adaptation} {line.method}",
            str(line.zero) if line.zero else "-",
            *(f"{value:.1f}" for value in (line.weights, line.trained, line.activations, line.logits, line.other, line.total)),
            str(line.rows) if line.rows else "does not fit",
        )
        for line in plan.lines
    ]
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in (columns, *rows)
    ]
    notes = (
        "Activations are computed again in the backward pass (activation_checkpointing). The adapter is float32 with 8-bit AdamW,\n"
        "full fine-tuning bfloat16 with AdamW in float32. An estimate: the GPU path was not measured."
    )
    return "\n".join([head, *lines, notes])
