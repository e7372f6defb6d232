"""Memory from config.json alone: terms, ZeRO stages, the largest batch, and the seed's 70B on one card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import call
from training.errors import TrainingError
from training.memory import GIB, LoraShape, Shape, Step, estimate_memory
from training.memory_plan import CARDS, MIB, Setup, estimate_setup, find_largest, plan_memory, total_parameters

LLAMA_70B = Shape(layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=128256, tied=False)
LLAMA_8B = Shape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocabulary=128256, tied=False)
LORA = LoraShape(16)


def test_qlora_of_70b_fits_on_one_card_of_80_gb_and_16_bits_do_not() -> None:
    plan = plan_memory(LLAMA_70B, card="a100-80gb", rank=16, length=2048)
    assert plan.parameters == pytest.approx(70.5e9, rel=0.01)
    rows = {(line.adaptation, line.method): line.rows for line in plan.lines}
    assert rows["qlora", "sft"] >= 4 and rows["qlora", "dpo"] >= 1
    assert all(count == 0 for (how, _), count in rows.items() if how != "qlora")
    assert 36 < next(line for line in plan.lines if line.adaptation == "qlora").weights < 38  # 4.127 bits a weight, embeddings in 16


def test_full_fine_tuning_takes_16_bytes_a_parameter_and_zero_divides_them() -> None:
    parameters = total_parameters(LLAMA_8B)

    def bytes_of(zero: int, devices: int = 8) -> tuple[int, int]:
        found = estimate_setup(LLAMA_8B, LORA, Setup("full", "sft", zero, devices), rows=1, length=512)
        return found.weights, found.adapter

    assert bytes_of(0) == (2 * parameters, 14 * parameters)
    assert bytes_of(1) == (2 * parameters, pytest.approx((2 + 12 / 8) * parameters))
    assert bytes_of(2) == (2 * parameters, pytest.approx((2 + 12) / 8 * parameters))
    weights, trained = bytes_of(3)
    assert trained == pytest.approx(14 / 8 * parameters) and weights < 2 * parameters / 8 + GIB
    dpo = estimate_setup(LLAMA_8B, LORA, Setup("full", "dpo"), rows=1, length=512)
    assert dpo.adapter == 16 * parameters  # and the frozen reference


def test_one_device_without_zero_is_the_estimate_of_preflight() -> None:
    found = estimate_setup(LLAMA_8B, LORA, Setup("qlora", "dpo"), rows=2, length=512)
    same = estimate_memory(LLAMA_8B, LORA, Step(batch=2, length=512, sequences=2, has_reference=True, optimizer="8bit"))
    assert found == same


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_largest_batch_fits_and_one_more_row_does_not(method: str) -> None:
    setup, memory = Setup("lora", method), CARDS["a100-40gb"] * MIB  # type: ignore[arg-type]
    rows = find_largest(LLAMA_8B, LORA, setup, length=1024, memory=memory)
    totals = [estimate_setup(LLAMA_8B, LORA, setup, rows=n, length=1024).total for n in (rows, rows + 1)]
    assert rows > 1 and totals[0] <= memory < totals[1]


def test_command_reads_a_config_alone_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 512}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    done = call("training", "memory", "--model-config", file, "--card", "t4-16gb", "--devices", 2)
    assert done.returncode == 0 and done.stdout.count("qlora sft") == 4 and "2 x t4-16gb, 15.0 GiB" in done.stdout
    assert len(json.loads(call("training", "memory", "--model-config", tmp_path, "--json").stdout)["lines"]) == 6
    assert (
        "--card a1: is not in our table. Next: name one of t4-16gb,"
        in call("training", "memory", "--model-config", file, "--card", "a1").stderr
    )
    file.write_text("{")
    assert "config.json: is missing or is not valid JSON" in call("training", "memory", "--model-config", file).stderr
    with pytest.raises(TrainingError, match="is not in our table"):
        plan_memory(LLAMA_8B, card="x", rank=8, length=128)
