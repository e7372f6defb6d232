"""Runs on a tiny model: the two silent defects, kills, early stopping, the reference of DPO, evaluation and trace."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from curation.errors import UserError
from tests.training_samples import NOW, SYSTEM, build_model, build_project, phrase, run_settings, write_run_file
from training.config import Lora, Quantization, RunFile, TrainingError, load_run_file
from training.folder import find_checkpoint, require_run

pytestmark = pytest.mark.model
KILLS = 20 if os.environ.get("SEEDCORN_SOAK") else 2


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with finished runs of both kinds; tests copy it before they change anything."""
    from training.dpo import train_dpo
    from training.preflight import preflight
    from training.sft import train_sft

    folder = build_project(tmp_path_factory.mktemp("training") / "project")
    for kind, train in (("sft", train_sft), ("dpo", train_dpo)):
        run = load(folder, f"{kind}.yaml", run_settings(kind))
        preflight(run)
        train(run, say=lambda text: None)
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "project"))


def load(project: Path, name: str, settings: dict[str, Any]) -> RunFile:
    return load_run_file(write_run_file(project, name, settings))


def train(run: RunFile) -> dict[str, Any]:
    from training.dpo import train_dpo
    from training.preflight import preflight
    from training.sft import train_sft

    preflight(run)
    return (train_sft if run.kind == "sft" else train_dpo)(run, say=lambda text: None)


def gradients(model: Any, ids: Any) -> dict[str, Any]:
    model.train()
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def quantized(folder: Path) -> Any:
    import torch
    from peft import get_peft_model

    from training.model import load_base, lora_config

    torch.manual_seed(0)
    model = get_peft_model(load_base(folder, Quantization()), lora_config(Lora(r=4, alpha=8, dropout=0.0)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            # B starts at zero, and then A has no gradient to lose.
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def differing_after_eval(model: Any) -> tuple[int, int]:
    import torch

    ids = torch.arange(5, 69).reshape(2, 32)
    before = gradients(model, ids)
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    after = gradients(model, ids)
    return sum(not torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-7) for name in before), len(before)


def test_an_evaluation_leaves_the_gradients_of_nf4_as_they_were(built: Path) -> None:
    assert differing_after_eval(quantized(built / "model")) == (0, 28)


def test_without_the_mend_an_evaluation_changes_the_gradients(built: Path) -> None:
    import bitsandbytes

    model = quantized(built / "model")
    linears = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    if not type(linears[0])(64, 64).support_avx512bf16_for_cpu:
        pytest.skip("this CPU has no AVX512_BF16, so bitsandbytes never repacks and the defect cannot be seen")
    for module in linears:
        module.support_avx512bf16_for_cpu = True
    differing, total = differing_after_eval(model)
    assert differing > total // 3


def wait_for_step(process: subprocess.Popen[bytes], metrics: Path, step: int) -> bool:
    """True once the run has logged this step; False when it has ended before."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if metrics.exists() and any(json.loads(row)["step"] >= step for row in metrics.read_text().splitlines() if row.endswith("}")):
            return True
        time.sleep(0.005)
    raise AssertionError(f"step {step} never came")


def run_killed(project: Path, kind: str, file: Path, *, kills: int, seed: int, total: int) -> None:
    """Run the command to its end, killed from here at seeded moments on the way."""
    run, rng = load_run_file(file), random.Random(seed)
    moments = sorted(rng.sample(range(2, total), kills))
    for step in [*moments, None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", kind, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            if step is not None and wait_for_step(process, run.output / "metrics.jsonl", step):
                time.sleep(rng.uniform(0, 0.05))
                os.kill(process.pid, signal.SIGKILL)
            _, words = process.communicate(timeout=300)
            assert process.returncode in (0, -signal.SIGKILL), words.decode()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_sft_killed_and_run_again_ends_at_the_same_adapter(project: Path) -> None:
    from training.preflight import preflight

    whole = require_run(project / "runs" / "sft")
    run = load(project, "killed.yaml", run_settings(output="killed"))
    preflight(run)
    run_killed(project, "sft", run.source, kills=KILLS, seed=11, total=whole["steps"])
    again = require_run(run.output)
    assert again["adapter_digest"] == whole["adapter_digest"]
    assert again["resumed_from"] is not None
    steps = [json.loads(row)["step"] for row in (run.output / "metrics.jsonl").read_text().splitlines() if "grad_norm" in row]
    assert steps == list(range(1, whole["steps"] + 1))


def stop_at(trainer: Any, step: int) -> Any:
    """End a run at a step as if it had been killed right after its checkpoint."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step >= step

    trainer.args.load_best_model_at_end = False
    trainer.add_callback(Stop())
    return trainer


def resume(run: RunFile, *, load_as: str | None = None) -> str:
    """Train to step 8, then go on in a fresh trainer; the digest at the end."""
    from training import dpo, sft
    from training.adapter import live_digest
    from training.preflight import preflight

    checked, build = preflight(run), (sft if run.kind == "sft" else dpo).build_trainer
    stop_at(build(run, checked=checked, say=print)[0], 8).train()
    checkpoint = find_checkpoint(run.output)
    assert checkpoint is not None and checkpoint.name == "checkpoint-8"
    trainer, _ = build(run, checked=checked, say=print)
    trainer.adapter_dtype = load_as or trainer.adapter_dtype
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return live_digest(trainer.model, "default")


def test_resuming_keeps_the_dtype_it_trains_in(project: Path) -> None:
    optimizer = run_settings()["optimizer"] | {"adapter_dtype": "bfloat16"}
    whole = train(load(project, "whole.yaml", run_settings(output="whole", optimizer=optimizer)))
    assert resume(load(project, "half.yaml", run_settings(output="half", optimizer=optimizer))) == whole["adapter_digest"]
    # What the library does by itself: the checkpoint comes back as fp32 and the run drifts.
    drifted = resume(load(project, "drift.yaml", run_settings(output="drift", optimizer=optimizer)), load_as="float32")
    assert drifted != whole["adapter_digest"]


def test_dpo_resumed_ends_at_the_same_adapter(project: Path) -> None:
    whole = require_run(project / "runs" / "dpo")
    assert resume(load(project, "half.yaml", run_settings("dpo", output="half"))) == whole["adapter_digest"]


def test_half_written_checkpoint_is_taken_away(project: Path) -> None:
    home = project / "runs" / "x" / "checkpoints"
    for name, whole in (("checkpoint-4", True), ("checkpoint-12", False), ("checkpoint-10", True)):
        (home / name).mkdir(parents=True)
        if whole:
            (home / name / "complete").touch()
    found = find_checkpoint(project / "runs" / "x")
    assert found == home / "checkpoint-10"
    assert sorted(p.name for p in home.iterdir()) == ["checkpoint-10", "checkpoint-4"]


def test_rising_validation_loss_stops_the_run_and_the_best_adapter_is_kept(project: Path) -> None:
    optimizer = {"learning_rate": 0.3, "epochs": 20, "batch_size": 8, "max_length": 200, "schedule": "constant", "warmup": 0.0}
    settings = run_settings(output="early", optimizer=optimizer, stopping={"every_steps": 2, "patience": 2})
    done = train(load(project, "early.yaml", settings))
    rows = [json.loads(row) for row in (project / "runs" / "early" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert done["early_stopped_at"] == max(losses) < 60
    assert done["best_eval_loss"] == min(losses.values()) == losses[done["best_step"]]
    assert done["best_step"] == done["early_stopped_at"] - 4


def test_sft_record_says_what_it_is(built: Path) -> None:
    done = require_run(built / "runs" / "sft")
    assert (done["kind"], done["steps"], done["early_stopped_at"]) == ("sft", 18, None)
    assert done["best_eval_loss"] < done["first_loss"]
    assert done["last_loss"] < done["first_loss"]
    assert done["base"]["licence"] == "Apache-2.0"
    assert done["snapshot"]["name"] == "tiny-instruction"
    assert {"torch", "trl", "peft", "bitsandbytes"} <= set(done["versions"])
    assert not (built / "runs" / "sft" / "checkpoints").exists()
    template = (built / "runs" / "sft" / "adapter" / "chat_template.jinja").read_text()
    assert template == (built / "model" / "chat_template.jinja").read_text()


def test_finished_run_says_so_and_changes_nothing(built: Path) -> None:
    folder = built / "runs" / "sft"
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.name != "log.txt"}
    file = built / "runs" / "sft.yaml"
    done = subprocess.run([sys.executable, "-m", "training", "sft", str(file), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Done already" in done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "run.json").read_text())
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.name != "log.txt"} == before


def test_other_settings_never_overwrite_a_finished_run(project: Path) -> None:
    with pytest.raises(TrainingError, match="holds a finished run with other settings"):
        train(load(project, "sft.yaml", run_settings(seed=99)))


def test_dpo_takes_the_sft_policy_as_its_reference(built: Path) -> None:
    sft, dpo = (require_run(built / "runs" / kind) for kind in ("sft", "dpo"))
    assert dpo["reference_digest"] == sft["adapter_digest"] != dpo["adapter_digest"]
    assert dpo["first_margin"] == 0.0
    assert dpo["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert dpo["last_margin"] > 0
    assert not (built / "runs" / "dpo" / "adapter" / "ref").exists()


def dpo_trainer(project: Path, model: Any, **more: Any) -> Any:
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tests.training_samples import pair
    from training.data import to_dataset

    args = DPOConfig(output_dir=str(project / "aside"), use_cpu=True, bf16=False, report_to=[], max_length=200)
    rows = to_dataset([pair(n) for n in range(4)], kind="preference")
    return DPOTrainer(model=model, args=args, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(project / "model"), **more)


def test_base_as_reference_is_refused(project: Path) -> None:
    from training.dpo import check_reference
    from training.model import load_base, lora_config

    base = load_base(project / "model", Quantization())
    trainer = dpo_trainer(project, base, peft_config=lora_config(Lora(r=4)))
    with pytest.raises(TrainingError, match="the base model would be the reference"):
        check_reference(trainer.model, require_run(project / "runs" / "sft")["adapter_digest"], when="before training")


def test_half_trained_policy_as_reference_is_refused(project: Path) -> None:
    from peft import PeftModel

    from training.dpo import check_reference
    from training.model import load_base

    model = PeftModel.from_pretrained(load_base(project / "model", Quantization()), project / "runs" / "dpo" / "adapter", is_trainable=True)
    trainer = dpo_trainer(project, model)
    with pytest.raises(TrainingError, match="is not the SFT adapter before training"):
        check_reference(trainer.model, require_run(project / "runs" / "sft")["adapter_digest"], when="before training")


def test_first_step_must_show_no_margin() -> None:
    from training.dpo import check_first_step

    check_first_step(loss=math.log(2), margin=0.0)
    for loss, margin in ((0.6929, 0.0005), (math.log(2), 0.01), (0.70, -0.0137)):
        with pytest.raises(TrainingError, match="the reference is not the SFT policy"):
            check_first_step(loss=loss, margin=margin)


def test_sft_adapter_of_another_base_is_refused(project: Path) -> None:
    from training.preflight import preflight

    build_model(project / "model2", seed=4)
    with pytest.raises(TrainingError, match="was trained on another base model"):
        preflight(load(project, "dpo.yaml", run_settings("dpo", base_model="../model2", output="dpo2")))


def test_changed_sft_adapter_is_refused(project: Path) -> None:
    from training.preflight import preflight

    file = project / "runs" / "sft" / "adapter" / "adapter_model.safetensors"
    body = bytearray(file.read_bytes())
    body[-5] ^= 1
    file.write_bytes(bytes(body))
    with pytest.raises(TrainingError, match=r"is not the adapter run\.json recorded"):
        preflight(load(project, "dpo.yaml", run_settings("dpo", output="dpo2")))
    with pytest.raises(TrainingError, match=r"is not the adapter run\.json recorded"):
        preflight(load(project, "dpo3.yaml", run_settings("dpo", output="dpo3", sft_adapter="sft")))


def test_likelihood_over_a_shared_prompt_is_that_of_each_whole_text(built: Path) -> None:
    import torch

    from training.likelihood import score_rivals
    from training.model import load_base, load_tokenizer

    tokenizer, model = load_tokenizer(built / "model"), load_base(built / "model", Quantization(kind="none")).float().eval()
    prompts = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": phrase(n) + " and more" * (n % 3)}] for n in range(7)]
    rivals = [["Code: A1.1\n", "Code: A1\n", f"Code: A{n}.77\n"] for n in range(7)]
    found = score_rivals(model, tokenizer, prompts, rivals, batch=3)
    for prompt, texts, scores in zip(prompts, rivals, found, strict=True):
        head = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(head)["input_ids"])
        for text, score in zip(texts, scores, strict=True):
            ids = torch.tensor([tokenizer(head + text)["input_ids"]])
            with torch.no_grad():
                steps = torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
            expected = sum(float(steps[i - 1, ids[0, i]]) for i in range(start, ids.shape[1]))
            assert score == pytest.approx(expected, abs=1e-3)


def test_written_answers_are_those_of_generate_cut_at_the_line(built: Path) -> None:
    import torch
    from peft import PeftModel

    from training.likelihood import write_answers
    from training.model import load_base, load_tokenizer

    tokenizer, base = load_tokenizer(built / "model"), load_base(built / "model", Quantization(kind="none")).float()
    model = PeftModel.from_pretrained(base, built / "runs" / "sft" / "adapter").eval()
    prompts = [[{"role": "user", "content": phrase(n) + " again" * (n % 4)}] for n in range(9)]
    found = write_answers(model, tokenizer, prompts, max_new_tokens=24, batch=4, stop_lines=2)
    for prompt, text in zip(prompts, found, strict=True):
        ids = tokenizer(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True), return_tensors="pt").input_ids
        with torch.no_grad():
            whole = model.generate(input_ids=ids, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        expected = tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert text == "\n".join(expected.split("\n")[:2]).strip()


def test_evaluation_is_cached_by_digest_and_compared_in_pairs(project: Path) -> None:
    from training.evaluate import evaluate_run

    said: list[str] = []
    run = load(project, "sft.yaml", run_settings())
    settings = run_settings("dpo")["eval"] | {"preference_snapshot": "../snapshots/tiny-preference@latest"}
    run = load(project, "sft.yaml", run_settings(eval=settings))
    base = evaluate_run(run, base=True, say=said.append)
    sft = evaluate_run(run, say=said.append)
    measured = len(said)
    assert set(sft["metrics"]) == {"choice", "preference", "preference_test", "chapter", "exact_code", "valid_code"}
    assert sft["metrics"]["choice"]["n"] == 12 and sft["metrics"]["preference_test"]["n"] == 8
    assert base["against"] == {} and set(sft["against"]) == {"base"}
    assert all(found["verdict"] in ("better", "worse", "no change") for found in sft["against"]["base"].values())
    dpo = evaluate_run(load(project, "dpo.yaml", run_settings("dpo", eval=settings)), say=said.append)
    assert set(dpo["against"]) == {"base", "sft"}
    again = len(said)
    assert evaluate_run(run, base=True, say=said.append)["metrics"] == base["metrics"]
    assert evaluate_run(run, say=said.append)["items"] == sft["items"]
    assert (len(said) - again, measured) == (0, 2)


def test_trace_goes_from_the_adapter_to_a_row(project: Path) -> None:
    from tests.training_samples import instruction
    from training.folder import open_run
    from training.trace import sign_run, trace_run

    run, row = open_run(project / "runs" / "sft"), instruction(5)
    found = trace_run(run, row_id=row["id"][:16])
    assert found["row"]["completion"] == row["completion"] and found["row"]["split"] == "train"
    assert found["snapshot"]["digest"] == require_run(run.output)["snapshot"]["digest"]
    assert not found["adapter_signed"]
    sign_run(run, key=project / "keys" / "signing.pem")
    assert trace_run(run)["adapter_signed"]
    with pytest.raises(TrainingError, match="no row's id starts with ffff"):
        trace_run(run, row_id="ffff")


def test_moved_project_can_still_be_traced(project: Path, tmp_path: Path) -> None:
    from training.folder import open_run
    from training.trace import trace_run

    moved = project.rename(tmp_path / "elsewhere")
    found = trace_run(open_run(moved / "runs" / "dpo"))
    assert found["sft_run"]["adapter_digest"] == found["reference_digest"]
    assert found["snapshot"]["path"].startswith(str(moved)) or ".." in found["snapshot"]["path"]


def test_snapshot_changed_after_preflight_stops_the_run(project: Path) -> None:
    from training.preflight import preflight
    from training.sft import train_sft

    run = load(project, "later.yaml", run_settings(output="later"))
    preflight(run)
    card = next((project / "snapshots").glob("tiny-instruction-*")) / "README.md"
    card.chmod(0o644)
    card.write_text(f"# changed {NOW}\n")
    with pytest.raises(UserError, match=r"README\.md"):
        train_sft(run, say=print)
