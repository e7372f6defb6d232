"""What comes after a training: evaluation, card, trace, signature, merge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from curation.errors import UserError
from tests.support.training_samples import (
    SYSTEM,
    instruction,
    load_run,
    phrase,
    project,
    run_settings,
    train_run,
    trained,
    write_eval,
    write_signed,
)
from training.config import Quantization, RunFile, TrainingError
from training.run_folder import open_run, require_run

__all__ = ["project", "trained"]
pytestmark = pytest.mark.model


def test_likelihood_over_a_shared_prompt_is_that_of_each_whole_text(trained: Path) -> None:
    import torch

    from training.model import load_base, load_tokenizer
    from training.scoring import score_rivals

    tokenizer, model = load_tokenizer(trained / "model"), load_base(trained / "model", Quantization(kind="none")).float().eval()
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


def test_written_answers_are_those_of_generate_cut_at_the_line(trained: Path) -> None:
    import torch
    from peft import PeftModel

    from training.model import load_base, load_tokenizer
    from training.scoring import write_answers

    tokenizer, base = load_tokenizer(trained / "model"), load_base(trained / "model", Quantization(kind="none")).float()
    model = PeftModel.from_pretrained(base, trained / "runs" / "sft" / "adapter").eval()
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
    run = load_run(project, "sft.yaml", run_settings())
    settings = run_settings("dpo")["eval"] | {"preference_snapshot": "../snapshots/tiny-preference@latest"}
    run = load_run(project, "sft.yaml", run_settings(eval=settings))
    base = evaluate_run(run, base=True, say=said.append)
    sft = evaluate_run(run, say=said.append)
    measured = len(said)
    assert set(sft["metrics"]) == {"choice", "preference", "preference_test", "chapter", "exact_code", "valid_code"}
    assert sft["metrics"]["choice"]["n"] == 12 and sft["metrics"]["preference_test"]["n"] == 8
    assert base["against"] == {} and set(sft["against"]) == {"base"}
    assert all(found["verdict"] in ("better", "worse", "no change", "no verdict") for found in sft["against"]["base"].values())
    dpo = evaluate_run(load_run(project, "dpo.yaml", run_settings("dpo", eval=settings)), say=said.append)
    assert set(dpo["against"]) == {"base", "sft"}
    again = len(said)
    assert evaluate_run(run, base=True, say=said.append)["metrics"] == base["metrics"]
    assert evaluate_run(run, say=said.append)["items"] == sft["items"]
    assert (len(said) - again, measured) == (0, 6)


def test_trace_goes_from_the_adapter_to_a_row(project: Path) -> None:
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
    from training.trace import trace_run

    moved = project.rename(tmp_path / "elsewhere")
    found = trace_run(open_run(moved / "runs" / "dpo"))
    assert found["sft_run"]["adapter_digest"] == found["reference_digest"]
    assert found["snapshot"]["path"].startswith(str(moved))


def test_trace_of_a_dpo_adapter_finds_the_rows_of_its_sft_run(project: Path) -> None:
    from training.trace import trace_run, trace_text

    run = open_run(project / "runs" / "dpo")
    found = trace_run(run)
    assert {kind: {split: len(ids) for split, ids in splits.items()} for kind, splits in found["row_ids"].items()} == {
        "dpo": {"train": 24, "validation": 8},
        "sft": {"train": 24, "validation": 8},
    }
    row = trace_run(run, row_id=instruction(5)["id"])["row"]
    assert (row["run"], row["split"], row["completion"]) == ("sft", "train", instruction(5)["completion"])
    assert "(train split of the sft rows)" in trace_text(trace_run(run, row_id=row["id"]))
    train_run(load_run(project, "again.yaml", run_settings(output="again", seed=8, optimizer={"max_steps": 2, "batch_size": 4})))
    shutil.rmtree(project / "runs" / "sft")
    (project / "runs" / "again").rename(project / "runs" / "sft")
    with pytest.raises(TrainingError, match="was trained again since"):
        trace_run(run)
    shutil.rmtree(project / "runs" / "sft")
    with pytest.raises(TrainingError, match="is no finished run"):
        trace_run(run)


def test_trace_believes_no_signature_it_has_not_checked(project: Path) -> None:
    from training.trace import sign_run, trace_run, trace_text

    run = open_run(project / "runs" / "sft")
    assert trace_run(run)["signature"]["status"] == "unsigned"
    signature = run.output / "adapter" / "model.sig"
    signature.write_text("{}")
    assert not trace_run(run)["adapter_signed"] and "signature: altered" in trace_text(trace_run(run))
    signature.unlink()
    sign_run(run, key=project / "keys" / "signing.pem")
    assert trace_run(run)["adapter_signed"] and "signed by sha256:" in trace_text(trace_run(run))
    card = run.output / "adapter" / "README.md"
    card.write_text(card.read_text() + "Better than it was.\n")
    found = trace_run(run)
    assert not found["adapter_signed"] and found["signature"]["problems"][0].startswith("README.md: has sha256")


def test_run_folder_without_its_snapshot_says_what_is_missing(project: Path) -> None:
    from training.trace import trace_run

    shutil.rmtree(project / "snapshots")
    with pytest.raises(UserError, match="tiny-instruction-v1"):
        trace_run(open_run(project / "runs" / "sft"))


def test_card_says_what_the_adapter_is_made_of(project: Path) -> None:
    from training.evaluate import evaluate_run
    from training.model import compute_dtype

    run, said = load_run(project, "sft.yaml", run_settings()), []
    card = run.output / "adapter" / "README.md"
    before = card.read_text()
    done = require_run(run.output)
    for text in (
        "base_model: tiny",
        "license: apache-2.0",
        "24 of snapshot tiny-instruction v1",
        "Meant for: tests",
        done["snapshot"]["digest"][:16],
    ):
        assert text in before
    assert "More Information Needed" not in before and str(project) not in before
    assert "(loss.svg)" in before and (card.parent / "loss.svg").read_text().startswith("<svg ")
    assert "Nothing yet." in before and "Simulated" not in before
    evaluate_run(run, base=True, say=said.append)
    assert card.read_text() == before
    evaluate_run(run, say=said.append)
    text = card.read_text()
    assert f"base model in {compute_dtype()}, as it is served." in text and "| choice |" in text and " no change |" in text
    assert "| distinct answers |" in text
    assert require_run(run.output) == done
    dpo = (project / "runs" / "dpo" / "adapter" / "README.md").read_text()
    assert f"the SFT adapter `{done['adapter_digest'][:16]}` on snapshot tiny-instruction v1" in dpo


def test_signed_adapter_keeps_its_card(project: Path) -> None:
    from training.evaluate import evaluate_run
    from training.trace import sign_run, trace_run

    run, said = load_run(project, "sft.yaml", run_settings()), []
    sign_run(run, key=project / "keys" / "signing.pem")
    evaluate_run(run, say=said.append)
    assert any("its card was left as it is" in line for line in said)
    assert trace_run(run)["adapter_signed"]


def test_merged_model_says_what_base_and_adapter_say_together(project: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from training.license import find_base_record
    from training.merge import merge_run
    from training.model import load_base

    run, out, ids = open_run(project / "runs" / "dpo"), tmp_path / "merged", torch.arange(5, 105).reshape(4, 25)
    done = merge_run(run, out=out)
    assert done["adapter_digest"] == require_run(run.output)["adapter_digest"]
    base = load_base(project / "model", Quantization(kind="none"))
    with torch.inference_mode():
        alone = base(input_ids=ids).logits.float()
        together = PeftModel.from_pretrained(base, run.output / "adapter").eval()(input_ids=ids).logits.float()
        merged = AutoModelForCausalLM.from_pretrained(out)(input_ids=ids).logits.float()
    assert (merged - together).abs().max() < 0.1 * (alone - together).abs().max()
    assert find_base_record(out).licence == "Apache-2.0" and "merged into tiny" in (out / "README.md").read_text()
    assert (out / "chat_template.jinja").read_text() == (project / "model" / "chat_template.jinja").read_text()
    with pytest.raises(TrainingError, match="is there already; nothing was overwritten"):
        merge_run(run, out=out)


def questions(project: Path) -> RunFile:
    """A run whose protected set is questions and answers of no particular task."""
    file = project / "protected" / "questions.jsonl"
    lines = [{"ask": phrase(n), "answer": instruction(n)["completion"][0]["content"]} for n in range(200, 208)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    from training.data import file_sha256

    key = project / "keys" / "signing.pem"
    write_signed(
        project,
        "instruction",
        key=key,
        sha256=file_sha256(file),
        version=2,
        text="ask",
        ranges={"train": range(24), "validation": range(24, 30)},
    )
    evaluation = {"file": "../protected/questions.jsonl", "n": 8, "pattern": "Chapter: (.+)", "max_new_tokens": 60}
    optimizer = {"learning_rate": 2e-2, "epochs": 5, "batch_size": 4, "max_length": 200}
    return load_run(project, "questions.yaml", run_settings(output="questions", eval=evaluation, optimizer=optimizer))


def test_any_task_is_measured_by_its_answers(project: Path) -> None:
    from training.evaluate import evaluate_run, result_text

    run, said = questions(project), []
    train_run(run)
    evaluate_run(run, base=True, say=said.append)
    found = evaluate_run(run, say=said.append)
    assert set(found["metrics"]) == {"likelihood", "exact_answer"}
    assert found["against"]["base"]["likelihood"]["verdict"] == "better"
    assert all(0 < value < 1 for value in found["items"]["likelihood"])
    assert found["answers"][0]["reference"] == instruction(200)["completion"][0]["content"]
    assert "with 8 items the intervals are wide" in result_text(found, target=run.source)


def test_measurement_of_another_adapter_is_not_compared_with(project: Path) -> None:
    from training.evaluate import evaluate_run, result_text

    sft, dpo = (load_run(project, f"{kind}.yaml", run_settings(kind)) for kind in ("sft", "dpo"))
    evaluate_run(sft, say=lambda text: None)
    assert set(evaluate_run(dpo, say=lambda text: None)["against"]) == {"sft"}
    stale = json.loads((sft.output / "eval.json").read_text())
    (sft.output / "eval.json").write_text(json.dumps(stale | {"subject_digest": "0" * 64}))
    found = evaluate_run(dpo, say=lambda text: None)
    assert found["against"] == {}
    text = result_text(found, target=dpo.source, sft_run=dpo.sft_adapter)
    assert f"Next: train eval {dpo.source} --base, then this again" in text
    assert f"Next: train eval {sft.output}, then this again" in text


def test_answer_ends_at_any_token_the_model_ends_a_turn_with(trained: Path) -> None:
    import torch

    from training.model import load_base, load_tokenizer
    from training.scoring import write_answers

    tokenizer, model = load_tokenizer(trained / "model"), load_base(trained / "model", Quantization(kind="none")).float().eval()
    word = tokenizer("x", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        # The head is tied to the embeddings: all tokens are alike but one, which stands out.
        model.get_input_embeddings().weight[:] = 0.01
        model.get_input_embeddings().weight[word] = 0.1
    prompt = [[{"role": "user", "content": phrase(3)}]]
    answers = {"max_new_tokens": 5, "batch": 1, "stop_lines": None}
    assert write_answers(model, tokenizer, prompt, **answers) == ["xxxxx"]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, word]
    assert write_answers(model, tokenizer, prompt, **answers) == [""]


def test_rivals_may_differ_in_number(trained: Path) -> None:
    from training.model import load_base, load_tokenizer
    from training.scoring import score_rivals

    tokenizer, model = load_tokenizer(trained / "model"), load_base(trained / "model", Quantization(kind="none")).float().eval()
    prompts = [[{"role": "user", "content": phrase(n)}] for n in range(5)]
    rivals = [["Code: A1.1\n", "Code: A1.2\n"], ["a\n", "b\n", "c\n"], ["x y"], ["Code: A1.1\n", "no\n"], ["q\n", "r\n", "s t\n"]]
    together = score_rivals(model, tokenizer, prompts, rivals, batch=4)
    apart = [score_rivals(model, tokenizer, [p], [r], batch=1)[0] for p, r in zip(prompts, rivals, strict=True)]
    assert [len(row) for row in together] == [2, 3, 1, 2, 3]
    for ours, alone in zip(together, apart, strict=True):
        assert ours == pytest.approx(alone, abs=1e-3)


def written_over(project: Path, quantization: Quantization) -> list[str]:
    """What the SFT adapter writes over these base weights, asked as the evaluation asks."""
    from peft import PeftModel

    from training.evaluate import load_items
    from training.metrics import Subject, write_out
    from training.model import load_base, load_tokenizer
    from training.run_folder import require_preflight

    run = load_run(project, "sft.yaml", run_settings())
    items, system = load_items(run, require_preflight(run))
    model = PeftModel.from_pretrained(load_base(run.base_model, quantization), run.output / "adapter").eval()
    subject = Subject(model, load_tokenizer(run.base_model), system=system, batch=run.eval.batch_size)
    return write_out(subject, items, max_new_tokens=run.eval.max_new_tokens)


@pytest.mark.parametrize(("weights", "kind"), [("16bit", "none"), ("nf4", "nf4")])
def test_evaluation_answers_over_the_weights_it_names(project: Path, weights: str, kind: str) -> None:
    from training.evaluate import evaluate_run, result_text, with_set
    from training.model import compute_dtype

    run = with_set(load_run(project, "sft.yaml", run_settings()), weights=weights)  # type: ignore[arg-type]
    said: list[str] = []
    found = evaluate_run(run, say=said.append)
    loaded = "nf4" if weights == "nf4" else compute_dtype()
    assert found["weights"] == loaded and f"with its weights in {loaded}" in said[0]
    assert [answer["answer"] for answer in found["answers"]] == written_over(project, Quantization(kind=kind))  # type: ignore[arg-type]
    text = result_text(found, target=run.source)
    assert f"base weights in {loaded}" in text.splitlines()[0]
    assert ("serve 16 bits and can answer differently" in text) == (weights == "nf4")
    card = (run.output / "adapter" / "README.md").read_text()
    assert ("base model in 4 bits (NF4), which is not how merged models and vLLM serve it" in card) == (weights == "nf4")


def test_measurements_over_other_weights_are_not_compared(project: Path) -> None:
    from training.evaluate import evaluate_run, with_set

    run = load_run(project, "sft.yaml", run_settings())
    evaluate_run(run, base=True, say=lambda text: None)
    assert evaluate_run(with_set(run, weights="nf4"), say=lambda text: None)["against"] == {}
    assert set(evaluate_run(run, say=lambda text: None)["against"]) == {"base"}
    assert require_run(run.output)["eval"]["weights"] == "16bit"


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(project: Path) -> None:
    from training.evaluate import refuse_large_weights, weights_bytes
    from training.model import compute_dtype

    needed = weights_bytes(load_run(project, "sft.yaml", run_settings()))
    assert needed == (project / "model" / "model.safetensors").stat().st_size * (2 if compute_dtype() == "float32" else 1)
    refuse_large_weights(needed, available=needed)
    with pytest.raises(TrainingError, match=r"16-bit weights take about 140\.0 GiB and 79\.0 GiB are free\. Next: .*or set weights: nf4"):
        refuse_large_weights(140 * 1024**3, available=79 * 1024**3)


def two_sets(project: Path, *, sft_too: bool = True) -> tuple[RunFile, RunFile]:
    """Finished runs of both kinds whose snapshots (the SFT one only if `sft_too`) were screened against a second set as well."""
    first, second = write_eval(project), write_eval(project, name="second", start=400, n=9)
    for kind in ("instruction", "preference"):
        also = {"second": second} if kind == "preference" or sft_too else {}
        write_signed(project, kind, key=project / "keys" / "signing.pem", sha256=first, version=2, also=also)
    short = run_settings()["optimizer"] | {"max_steps": 2}
    sft = load_run(project, "s.yaml", run_settings(output="s", optimizer=short))
    dpo = load_run(project, "d.yaml", run_settings("dpo", output="d", sft_adapter="s", optimizer=short))
    for run in (sft, dpo):
        train_run(run)
    return sft, dpo


def test_finished_adapter_is_measured_on_another_protected_set(project: Path) -> None:
    from training.evaluate import evaluate_run, result_text, with_set

    sft, dpo = two_sets(project)
    file, quiet = project / "protected" / "second.jsonl", lambda text: None
    evaluate_run(sft, say=quiet)
    other = evaluate_run(with_set(open_run(sft.output), file=file, items=7), say=quiet)
    assert (other["file"]["name"], other["file"]["set"], other["metrics"]["choice"]["n"]) == ("second.jsonl", "second", 7)
    assert json.loads((sft.output / "eval.json").read_text())["file"]["name"] == "eval.jsonl"
    card = (sft.output / "adapter" / "README.md").read_text()
    assert card.index("On eval.jsonl (sha256") < card.index("On second.jsonl (sha256")
    text = result_text(other, target=sft.output, options=("--eval", str(file)))
    assert f"Next: train eval {sft.output} --base --eval {file}, then this again" in text
    evaluate_run(with_set(sft, file=file, items=7), base=True, say=quiet)
    compared = evaluate_run(with_set(dpo, file=file, items=7), say=quiet)
    assert set(compared["against"]) == {"base", "sft"}
    assert require_run(sft.output)["adapter_digest"] == other["subject_digest"]


def test_its_own_set_named_another_way_keeps_the_run_files_settings(project: Path) -> None:
    from training.evaluate import with_set

    evaluation = run_settings()["eval"] | {"pattern": "x", "preference_snapshot": "../snapshots/tiny-preference@latest"}
    run = load_run(project, "sft.yaml", run_settings(eval=evaluation))
    assert with_set(run, file=project / "protected" / "eval.jsonl").eval == run.eval
    other = with_set(run, file=project / "protected" / "second.jsonl").eval
    assert (other.pattern, other.preference_snapshot, other.n, other.table) == (None, None, run.eval.n, run.eval.table)


def test_another_set_must_be_protected_for_the_rows_of_both_runs(project: Path) -> None:
    from training.evaluate import evaluate_run, with_set

    _, dpo = two_sets(project, sft_too=False)
    with pytest.raises(TrainingError, match=r"second\.jsonl is not among the protected sets of the SFT run's snapshot tiny-instruction v2"):
        evaluate_run(with_set(dpo, file=project / "protected" / "second.jsonl"), say=print)
    (project / "protected" / "third.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(TrainingError, match=r"third\.jsonl is not among the protected sets of snapshot tiny-preference v2 \(eval, sec"):
        evaluate_run(with_set(dpo, file=project / "protected" / "third.jsonl"), say=print)
    with pytest.raises(UserError, match=r"--pattern: '\(' is not a regular expression"):
        with_set(dpo, pattern="(")


def test_other_evaluation_settings_do_not_stop_a_finished_or_begun_run(project: Path) -> None:
    from training.preflight import preflight
    from training.sft import train_sft

    sft, _ = two_sets(project)
    settings = run_settings(output="s", optimizer=run_settings()["optimizer"] | {"max_steps": 2})
    settings["eval"] = {"file": "../protected/second.jsonl", "n": 5, "weights": "nf4", "max_new_tokens": 9}
    run = load_run(project, "s.yaml", settings)
    assert run.digest == sft.digest
    done = require_run(sft.output)
    assert preflight(run)["kind"] == "sft" and train_sft(run, say=lambda text: None) == done
    # A begun run continues too: only run.json is missing, as after a kill.
    (sft.output / "run.json").unlink()
    again = train_sft(run, say=lambda text: None)
    assert (again["adapter_digest"], again["eval"]) == (done["adapter_digest"], done["eval"])
