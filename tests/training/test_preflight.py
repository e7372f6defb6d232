"""What is known before a model is loaded: memory, licences, digests, intervals, the evaluation file, the room on the disk."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from training.adapter import digest_of, folder_digest
from training.base_model import check_space
from training.card import loss_picture
from training.chat import Rendered
from training.config import LicenceAnswers, TrainingError
from training.data import LengthStats, describe_left_out, describe_lengths, kept_rows
from training.license import check_use, find_base_record
from training.memory import GIB, Shape, adapter_parameters, estimate_memory, read_shape
from training.statistics import compare, measure, permutation_p
from training.weights import find_module_names

LLAMA_70B = Shape(layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=128256, tied=False)
SMOL = Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152, tied=True)


def test_weights_of_70b_in_nf4_are_what_the_formula_says() -> None:
    # 68.45 G linear parameters at 4.127 bits and 2.10 G of embedding and head at 16.
    assert LLAMA_70B.linear_parameters == 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    estimate = estimate_memory(LLAMA_70B, parameters=0, batch=1, length=1)
    assert estimate.weights / GIB == pytest.approx(68.451e9 * 4.12695 / 8 / GIB + 2.1013e9 * 2 / GIB, rel=1e-3)


def test_qlora_of_70b_needs_some_48_gib_as_llama_factory_says() -> None:
    parameters = adapter_parameters(LLAMA_70B, r=16, targets="all-linear")
    sft = estimate_memory(LLAMA_70B, parameters=parameters, batch=1, length=2048, optimizer="8bit", adapter_bytes=2)
    dpo = estimate_memory(LLAMA_70B, parameters=parameters, batch=1, length=2048, optimizer="8bit", adapter_bytes=2, dpo=True)
    # LLaMA-Factory's table says 48 GB, which is 44.7 GiB.
    assert 44 < sft.total / GIB < 47
    assert sft.total < dpo.total < 60 * GIB


def test_smollm_adapter_has_the_parameters_peft_counts() -> None:
    # PEFT's print_trainable_parameters for r 16 over all linear modules of SmolLM2-135M: 4,884,480.
    assert adapter_parameters(SMOL, r=16, targets="all-linear") == 4_884_480
    assert adapter_parameters(SMOL, r=16, targets=("q_proj", "v_proj")) == 30 * 16 * (576 + 576 + 576 + 192)


def test_dpo_and_longer_rows_and_wider_batches_need_more() -> None:
    plain = estimate_memory(SMOL, parameters=10**6, batch=4, length=128)
    assert estimate_memory(SMOL, parameters=10**6, batch=8, length=128).total > plain.total
    assert estimate_memory(SMOL, parameters=10**6, batch=4, length=256).total > plain.total
    assert estimate_memory(SMOL, parameters=10**6, batch=4, length=128, dpo=True).logits > plain.logits
    assert estimate_memory(SMOL, parameters=10**6, batch=4, length=128, checkpointing=False).activations > plain.activations


def test_shape_is_read_from_a_checkpoint(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 49152, "tie_word_embeddings": True}))
    assert read_shape(tmp_path) == SMOL


def test_shape_that_is_not_known_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 12, "hidden_size": 768}))
    with pytest.raises(TrainingError, match=r"has no num_hidden_layers, intermediate_size, num_attention_heads, vocab_size"):
        read_shape(tmp_path)


def test_module_names_are_those_of_the_weights(tmp_path: Path) -> None:
    raw = ("F32", [1], b"\0" * 4)
    write_safetensors(tmp_path / "a.safetensors", {"model.layers.0.self_attn.q_proj.weight": raw, "model.norm.weight": raw})
    write_safetensors(tmp_path / "b.safetensors", {"model.layers.1.mlp.c_fc.weight": raw, "model.layers.1.mlp.c_fc.bias": raw})
    write_safetensors(tmp_path / "not-loaded.safetensors", {"model.layers.0.evil.weight": raw})
    (tmp_path / "config.json").write_text("{}")
    index = {"model.norm.weight": "a.safetensors", "model.layers.1.mlp.c_fc.weight": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert find_module_names(tmp_path) == {"q_proj", "norm", "c_fc"}
    (tmp_path / "b.safetensors").write_bytes(b"cut short")
    with pytest.raises(TrainingError, match=r"b\.safetensors: is not a safetensors file"):
        find_module_names(tmp_path)


@pytest.mark.parametrize("use", ["research", "internal", "commercial"])
def test_open_licences_allow_every_use(use: str) -> None:
    assert check_use("Apache-2.0", use, of="m") == check_use("MIT", use, of="m") == ""  # type: ignore[arg-type]


def test_non_commercial_licences_stop_a_commercial_run() -> None:
    with pytest.raises(TrainingError, match=r"licence CC-BY-NC-4\.0: does not allow use: commercial"):
        check_use("CC-BY-NC-4.0", "commercial", of="m")
    assert check_use("CC-BY-NC-4.0", "internal", of="m") == "not for commercial use"
    assert "use restrictions" in check_use("openrail", "commercial", of="m")
    assert "under the same licence" in check_use("CC-BY-SA-4.0", "commercial", of="m")


@pytest.mark.parametrize("use", ["research", "internal", "commercial"])
@pytest.mark.parametrize("licence", ["our-own-licence", "unknown", "other", "LicenseRef-Ours"])
def test_unknown_licence_is_a_question_for_every_use(licence: str, use: str) -> None:
    question = (
        rf"m: licence {licence}: is not in our table\. Do its terms allow use: {use}\?.*licence_answers: {{terms_read: {{{licence}: 'NAME"
    )
    with pytest.raises(TrainingError, match=question):
        check_use(licence, use, of="m")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="is not in our table"):
        check_use(licence, use, of="m", answers=LicenceAnswers(terms_read={"another": "ann", licence: " "}))  # type: ignore[arg-type]
    answers = LicenceAnswers(terms_read={licence.upper(): "ann, 2026-11-25:\nany use"})
    assert check_use(licence, use, of="m", answers=answers) == "terms read by the user: ann, 2026-11-25: any use"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("licence", "key", "stops"),
    [
        ("llama2", "users_above_700m", True),
        ("llama3.1", "users_above_700m", True),
        ("llama4", "users_above_700m", True),
        ("llama4", "based_in_eu", True),
        ("qwen", "users_above_100m", True),
        ("falcon-llm-license", "hosted_service", False),
        ("falcon-180b-license", "hosted_service", True),
    ],
)
def test_licence_that_depends_on_the_user_asks_and_records_the_answer(licence: str, key: str, stops: bool) -> None:
    no = LicenceAnswers(users_above_700m=False, users_above_100m=False, based_in_eu=False, hosted_service=False)
    with pytest.raises(TrainingError, match=rf"licence {licence}: asks: .*\?\. Next: answer in the run file, .*{key}: no"):
        check_use(licence, "research", of="m", answers=no.model_copy(update={key: None}))
    assert "answered: no" in check_use(licence, "research", of="m", answers=no)
    yes = no.model_copy(update={key: True})
    if stops:
        with pytest.raises(TrainingError, match=rf"\({key}: yes\)"):
            check_use(licence, "research", of="m", answers=yes)
    else:
        assert "answered: yes" in check_use(licence, "research", of="m", answers=yes)


def test_expression_of_licences_means_all_of_and_or_the_first_of_or() -> None:
    assert check_use("MIT AND CC-BY-4.0", "commercial", of="m") == "its authors must be named"
    assert check_use("CC-BY-NC-4.0 OR MIT", "commercial", of="m") == ""
    for expression in ("MIT AND CC-BY-NC-4.0", "(MIT OR CC-BY-NC-4.0) AND CC0-1.0", "CC-BY-NC-4.0 OR CC-BY-NC-SA-4.0"):
        with pytest.raises(TrainingError, match="does not allow use: commercial"):
            check_use(expression, "commercial", of="m")


def test_licence_comes_from_the_record_then_the_card_then_the_run_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        find_base_record(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="records no licence"):
        find_base_record(tmp_path)
    assert find_base_record(tmp_path, declared="MIT").licence == "MIT"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    assert find_base_record(tmp_path, declared="MIT").licence == "cc-by-nc-4.0"
    (tmp_path / "base-model.json").write_text(json.dumps({"id": "m", "licence": "Apache-2.0"}))
    assert find_base_record(tmp_path).licence == "Apache-2.0"
    (tmp_path / "base-model.json").write_text('{"id": "m"}')
    with pytest.raises(TrainingError, match=r"base-model\.json: is no JSON object with id and licence"):
        find_base_record(tmp_path)


def test_card_that_says_other_names_nothing_by_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: llama3.1\n---\n")
    assert find_base_record(tmp_path, declared="MIT").licence == "llama3.1"
    card.write_text("---\nlicense: other\n---\n")
    assert find_base_record(tmp_path, declared="MIT").licence == "MIT"
    with pytest.raises(TrainingError, match="records no licence"):
        find_base_record(tmp_path)


def write_safetensors(file: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header, body = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "bias": "none", "use_dora": False}


def test_adapter_digest_sees_values_shapes_and_names_but_not_dtype_or_order(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.0], [0.5, 0.0]], dtype="<f4")
    bf16 = (values.view("<u4") >> 16).astype("<u2").tobytes()
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(LORA))
    write_safetensors(one / "adapter_model.safetensors", {"a": ("F32", [2, 2], values.tobytes()), "b": ("F32", [4], values.tobytes())})
    write_safetensors(two / "adapter_model.safetensors", {"b": ("BF16", [4], bf16), "a": ("BF16", [2, 2], bf16)})
    expected = digest_of({"a": values, "b": values.reshape(4)}, LORA)
    assert folder_digest(one) == folder_digest(two) == expected
    assert digest_of({"a": values.reshape(4), "b": values.reshape(4)}, LORA) != expected
    assert digest_of({"a": values, "c": values.reshape(4)}, LORA) != expected
    assert digest_of({"a": values + 1e-6, "b": values.reshape(4)}, LORA) != expected


@pytest.mark.parametrize(
    "change",
    [
        {"r": 4},
        {"lora_alpha": 400},
        {"lora_dropout": 0.5},
        {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"q_proj": 800}},
        {"target_modules": ["q_proj"]},
        {"exclude_modules": ["v_proj"]},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 1], [0, 2]]},
        {"use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"fan_in_fan_out": True},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"trainable_token_indices": [3]},
        {"peft_type": "XLORA"},
    ],
)
def test_adapter_digest_covers_what_peft_reads_from_the_config(change: dict) -> None:
    values = {"a": np.ones((2, 2), dtype="<f4")}
    assert digest_of(values, LORA | change) != digest_of(values, LORA)


def test_adapter_digest_ignores_where_the_base_lies_the_library_and_unset_options() -> None:
    values, same = {"a": np.ones((2, 2), dtype="<f4")}, digest_of({"a": np.ones((2, 2), dtype="<f4")}, LORA)
    for change in (
        {"base_model_name_or_path": "/elsewhere", "peft_version": "9.9", "inference_mode": True},
        {"an_option_of_a_later_peft": None, "another": False, "third": {}},
        {"target_modules": {"v_proj", "q_proj"}},
    ):
        assert digest_of(values, LORA | change) == same


def test_live_adapter_has_the_digest_of_its_saved_config() -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["v_proj", "q_proj"], alpha_pattern={"q_proj": 12}, task_type="CAUSAL_LM")
    saved = json.loads(json.dumps(lora.to_dict() | {"target_modules": ["q_proj", "v_proj"], "inference_mode": True}))
    values = {"a": np.ones((2, 2), dtype="<f4")}
    assert digest_of(values, lora.to_dict()) == digest_of(values, saved)


def test_damaged_or_missing_adapter_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="so it is not an adapter"):
        folder_digest(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(TrainingError, match=r"adapter_config\.json: is missing or is not valid JSON"):
        folder_digest(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    with pytest.raises(TrainingError, match="is damaged"):
        folder_digest(tmp_path)


def test_interval_covers_the_mean_and_narrows_with_n() -> None:
    small, large = measure([1, 0] * 20), measure([1, 0] * 200)
    assert small.value == large.value == 0.5
    assert small.low < 0.4 < 0.6 < small.high
    # The standard error of a share of one half over 400 is .025, so the interval is about +-.049.
    assert large.low == pytest.approx(0.451, abs=0.006)
    assert large.high == pytest.approx(0.549, abs=0.006)


def test_interval_of_all_wrong_is_not_a_point() -> None:
    nothing = measure([0.0] * 120)
    assert (nothing.value, nothing.low, nothing.method) == (0.0, 0.0, "wilson")
    assert nothing.high == pytest.approx(0.031, abs=0.001)
    assert measure([1.0] * 120).low == pytest.approx(0.969, abs=0.001)


def test_difference_that_covers_zero_is_no_change() -> None:
    rng = np.random.default_rng(1)
    before = rng.integers(0, 2, 120).astype(float).tolist()
    flipped = [1 - v if i in (3, 50) else v for i, v in enumerate(before)]
    assert compare(flipped, before).verdict == "no change"
    assert compare(before, before).verdict == "no change"
    better = [1.0 if i % 3 == 0 else v for i, v in enumerate(before)]
    assert compare(better, before).verdict == "better"
    assert compare(before, better).verdict == "worse"


def test_pairing_finds_what_two_separate_intervals_would_miss() -> None:
    before = [1.0] * 60 + [0.0] * 60
    after = [1.0] * 68 + [0.0] * 52
    assert measure(before).high > measure(after).low
    assert compare(after, before).verdict == "better"


def test_a_few_items_that_flip_by_chance_are_no_change() -> None:
    four = [1.0] * 4 + [0.0] * 96
    assert compare(four, [0.0] * 100).low > 0, "the bootstrap alone would call this better"
    assert compare(four, [0.0] * 100).verdict == "no change" and permutation_p(four) == 0.125
    assert compare([1.0], [0.0]).verdict == "no change"
    assert compare([1.0] * 6 + [0.0] * 94, [0.0] * 100).verdict == "better"
    # 9 better, 1 worse: McNemar's exact test gives 22 / 1024.
    assert permutation_p([1.0] * 9 + [-1.0] + [0.0] * 30) == pytest.approx(22 / 1024)


def test_differences_of_many_sizes_are_tested_by_random_signs() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1, 60)
    assert permutation_p(noise.tolist()) > 0.05
    assert permutation_p((noise + 0.6).tolist()) < 0.01
    # Of the 32 ways to sign these, two give a sum of 13 or more and two one of -13 or less.
    assert permutation_p([5.0, 4.0, 3.0, 2.0, -1.0], resamples=40_000) == pytest.approx(4 / 32, abs=0.01)


def test_rows_that_are_left_out_or_cut_are_named_with_the_reason() -> None:
    rows = [{"id": name} for name in ("aa", "bb", "cc", "dd", "ee")]
    rendered = [
        Rendered(4, 10),
        Rendered(200, 300),
        Rendered(9, 20),
        Rendered(256, 280, merged=True),
        Rendered(4, 12, fault="it never stops"),
    ]
    dropped = describe_lengths(rows, rendered, max_length=256)
    assert dropped == LengthStats(
        rows=5,
        median=20,
        longest=20,
        too_long=("bb", "dd"),
        left_out=("bb", "dd", "ee"),
        faults={"it never stops": ("ee",)},
        merged=1,
    )
    assert describe_left_out({"train": asdict(dropped)}, max_length=256) == [
        "2 of 5 train rows are left out, because they are longer than max_length (256 tokens): bb, dd",
        "1 of 5 train rows are left out: it never stops: ee",
        "1 train rows: white space at the end of the prompt shares a token with the answer",
    ]
    cut = describe_lengths(rows, rendered, max_length=256, too_long="cut")
    assert (cut.too_long, cut.left_out, cut.longest) == (("bb", "dd"), ("dd", "ee"), 300)
    assert describe_left_out({"train": asdict(cut)}, max_length=256)[:2] == [
        "1 of 5 train rows are cut, because they are longer than max_length (256 tokens): bb",
        "1 of 5 train rows are left out, because they are longer than max_length (256 tokens): dd",
    ]
    assert kept_rows(Dataset.from_list(rows), asdict(dropped))["id"][:] == ["aa", "cc"]


def test_no_room_on_the_disk_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"needs 999000000 MB and \d+ MB are free"):
        check_space(tmp_path / "deep" / "model", needed=999_000_000 * 1_000_000)
    check_space(tmp_path / "deep" / "model", needed=1000)


@pytest.mark.skipif(os.name != "posix", reason="ulimit is POSIX")
def test_file_size_limit_of_the_shell_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    command = f"ulimit -f 100000; {sys.executable} -m training prepare-model {tmp_path / 'model'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "one file of it has 270 MB and this shell allows 102 MB a file. Next: ulimit -f unlimited" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_never_overwritten(tmp_path: Path) -> None:
    from training.base_model import prepare_model

    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match="nothing was overwritten"):
        prepare_model(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_that_is_no_snapshot_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    from tests.support.training_samples import run_settings, write_run_file

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "base-model.json").write_text(json.dumps({"id": "m", "licence": "MIT"}))
    (tmp_path / "notes").mkdir()
    file = write_run_file(tmp_path, "sft.yaml", run_settings(snapshot="../notes"))
    command = [sys.executable, "-m", "training", "preflight", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "holds no manifest.json, so it is not a finished snapshot. Next:" in done.stderr


def test_loss_curve_is_drawn_from_the_history() -> None:
    from xml.etree import ElementTree

    history = [
        {"step": 1, "loss": 4.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "eval_loss": 3.0},
        {"step": 4, "loss": 1.0},
        {"step": 4, "eval_loss": 3.5},
    ]
    root = ElementTree.fromstring(loss_picture(history))
    assert root.get("aria-label") == "Training loss 4.000 to 1.000 over 4 steps; best validation loss 3.0000 at step 2"
    lines = [[tuple(map(float, p.split(","))) for p in e.get("points", "").split()] for e in root if e.tag.endswith("polyline")]
    # Steps go from left (56) to right (624), the largest loss lies at the top (26) and the smallest at the bottom (224).
    assert lines == [[(198, 26), (340, 158), (624, 224)], [(340, 92), (624, 59)]]
    marked = [(e.get("cx"), e.get("cy")) for e in root if e.tag.endswith("circle") and e.get("r") == "5"]
    assert marked == [("340.0", "92.0")]
    assert ElementTree.fromstring(loss_picture([{"step": 1, "loss": 2.0}])).tag.endswith("svg")
