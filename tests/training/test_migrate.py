"""Run files of schema 1: same settings and digest under the names of TRL and PEFT, comments kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.command_line import call
from tests.support.training_samples import run_settings, write_run_file
from training.config import load_run_file
from training.errors import RunFileError
from training.migrate import rewrite
from training.run_folder import open_run

FULL = """\
# train preflight b.yaml
schema: 1
kind: sft
snapshot: ../snapshots/icd10-instruction@latest
base_model: ../models/smollm2-135m-instruct
output: sft
use: internal
eval: {file: ../protected/icd10_eval.jsonl, n: 100}
purpose: knowledge
lora:
  # the adapter
  alpha: 48  # three halves of the rank
  dropout: 0.0
  targets: [q_proj, v_proj]

# steps and rates
optimizer:
  # a small model
  learning_rate: 1.0e-3  # high
  epochs: 2
  max_steps: 40
  batch_size: 4
  accumulation: 2
  max_length: 256
  too_long: cut
  max_left_out: 0.1
  warmup: 0.1
  schedule: linear  # not cosine
  weight_decay: 0.01
  adapter_dtype: bfloat16
  packing: true
  gradient_checkpointing: true

stopping: {every_steps: 12, patience: 2}
seed: 9
threads: 2
logger: tensorboard
"""
PLAIN = """\
schema: 1
kind: sft
snapshot: ../snapshots/icd10-instruction@latest
base_model: ../models/smollm2-135m-instruct
output: sft
eval: {file: ../protected/icd10_eval.jsonl}
"""
PAIRS = """\
schema: 1
kind: dpo
snapshot: ../snapshots/icd10-preference@latest
base_model: ../models/smollm2-135m-instruct
sft_adapter: sft
output: dpo
eval: {file: ../protected/icd10_eval.jsonl}
beta: 0.2  # strong

optimizer:
  learning_rate: 2.0e-5
  batch_size: 4
quantization: {kind: none}
system: merge
"""
DIGESTS = {
    PLAIN: "cf0c2c5d85512d8f9f51859c60ad5c88abe480b1054791099aa4cdcc0dbd935b",
    FULL: "1e4a77f9a29218c77a1b65fb49ce088c36047f9c7703c332467c359efbd9bc88",
    PAIRS: "ac3c5703acba65b40ff0d4ae9441665524c209dfdb1eefc1beb4176e043221eb",
}
"""Digests that the last version with schema 1 computed for these files: run folders hold them."""


@pytest.mark.parametrize(("text", "digest"), DIGESTS.items(), ids=["plain", "full", "pairs"])
def test_old_file_keeps_the_digest_of_its_run_folders_before_and_after_it_is_rewritten(tmp_path: Path, text: str, digest: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    old = load_run_file(file)
    assert old.digest == digest and "has the names of schema 1" in old.note
    written = rewrite(file)
    file.write_text(written)
    new = load_run_file(file)
    assert (new.digest, new.note) == (digest, "")
    assert new.model_dump() == old.model_dump()
    kept = {line.partition("#")[2].strip() for line in text.splitlines() if "#" in line}
    assert {comment for comment in kept if f"# {comment}" in written} == kept


def test_command_prints_or_rewrites_the_file_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(FULL)
    shown = call("training", "migrate", str(file))
    assert yaml.safe_load(shown.stdout)["sft"]["per_device_train_batch_size"] == 4 and file.read_text() == FULL
    assert "its digest are the same" in call("training", "migrate", str(file), "--write").stdout
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(shown.stdout)
    again = call("training", "migrate", str(file))
    assert again.returncode == 2 and "is not a run file of schema 1; there is nothing to rewrite" in again.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("optimizer: {lr: 1}", "run.yaml: optimizer.lr: is not a known key of schema 1"),
        ("optimizer: {epoch: 1}", "the nearest one is `epochs` (did you mean that?)"),
        ("optimizer: 3", "run.yaml: optimizer: must hold keys of its own, found 3"),
        ("lora: {lora_alpha: 3}", "run.yaml: lora.lora_alpha: is not a known key of schema 1; the nearest one is `alpha`"),
        ("optimizer: {batch_size: many}", "run.yaml: optimizer.batch_size: must be a whole number, found 'many'"),
        ("optimizer: {too_long: keep}", "run.yaml: optimizer.too_long: input should be 'drop' or 'cut', found 'keep'"),
        ("lora: {alpha: -1}", "run.yaml: lora.alpha: input should be greater than or equal to 1, found -1"),
        ("beta: 0.1", "run.yaml: beta: belongs to kind dpo, and this run is of kind sft"),
    ],
)
def test_mistake_in_an_old_file_is_named_in_its_own_words(tmp_path: Path, line: str, sentence: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(PLAIN + line + "\n")
    with pytest.raises(RunFileError) as caught:
        load_run_file(file)
    assert sentence in str(caught.value)


@pytest.mark.model
def test_run_begun_under_an_old_file_resumes_under_the_rewritten_one(untrained: Path) -> None:
    from training.preflight import preflight
    from training.run_folder import find_finished
    from training.speed import LOOP
    from training.train import build_trainer, train_run

    settings = run_settings(schema=1, lora={"r": 4, "alpha": 8, "dropout": 0.0})
    del settings["sft"]
    settings["optimizer"] = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "max_length": 200}
    settings["stopping"] = {"every_steps": 2, "patience": 3}
    file = write_run_file(untrained, "sft.yaml", settings)
    said: list[str] = []
    report = preflight(load_run_file(file), say=said.append)
    assert any("has the names of schema 1" in line for line in said)
    assert report.loop == LOOP
    # As an older version left it: without the version of the training loop.
    report = report.model_copy(update={"loop": 1})
    (untrained / "runs/sft/preflight.json").write_text(report.model_dump_json(by_alias=True, exclude={"loop"}))
    trainer, _ = build_trainer(load_run_file(file), report=report, say=said.append)
    trainer.train()  # as if killed before run.json: its checkpoints are complete
    file.write_text(rewrite(file))
    (untrained / "runs/sft/checkpoints/origin.json").write_text(
        json.dumps(
            {
                "settings": report.config_digest,
                "snapshot": report.snapshot.digest,
                "base model": report.base.digest,
                "data type": report.dtype,
            }
        )
    )
    run = load_run_file(file)
    done = train_run(run, say=said.append)
    assert done.settings["train_sampling_strategy"] == "random" and done.settings["autocast"] is False
    assert done.resumed_from == 6 and done.config_digest == report.config_digest
    assert find_finished(run) == done
    # The copy in the run folder keeps the names of schema 1.
    assert open_run(untrained / "runs" / "sft").digest == run.digest
