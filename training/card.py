"""The adapter's card: README.md beside its weights, for whoever gets the folder without the run.

What it was made from (base model, snapshot, reviewers), what its licences ask, how training went, what was measured and how to load
it. It takes the place of the empty form that PEFT writes. It is written with the adapter and again after each evaluation, unless the
adapter has been signed: a signature covers the card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from argilla_setup.shown import plain_markdown as plain
from training.callbacks import Say

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 260, 56, 26, 16, 36

Points = Sequence[tuple[float, float]]


def loss_picture(history: Sequence[Mapping[str, Any]]) -> str:
    """The picture of a trainer's log history; the best validation loss is marked."""
    train = [(float(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]
    validation = [(float(entry["step"]), float(entry["eval_loss"])) for entry in history if "eval_loss" in entry]
    points = [*train, *validation]
    if not points:
        raise ValueError("a history without a loss has no picture")
    low, high = min(y for _, y in points), max(y for _, y in points)
    steps, spread = max(1.0, *(x for x, _ in points)), (high - low) or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return LEFT + (WIDTH - LEFT - RIGHT) * x / steps, TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / spread

    best = min(validation, key=lambda point: (point[1], point[0]), default=None)
    spoken = f"Training loss {train[0][1]:.3f} to {train[-1][1]:.3f} over {steps:.0f} steps" if train else "Validation loss"
    spoken += f"; best validation loss {best[1]:.4f} at step {best[0]:.0f}" if best else ""
    shapes = [
        _line([at(p) for p in train], "#8a8a8a", 1.2),
        _line([at(p) for p in validation], "#b3541e", 2),
        *(_dot(at(p), 2.5) for p in validation if len(validation) <= 40),
        *([_dot(at(best), 5)] if best else []),
        _text(LEFT - 6, TOP + 4, f"{high:.3g}", "end"),
        _text(LEFT - 6, HEIGHT - BOTTOM, f"{low:.3g}", "end"),
        _text(LEFT, HEIGHT - BOTTOM + 18, "0", "middle"),
        _text(WIDTH - RIGHT, HEIGHT - BOTTOM + 18, f"{steps:.0f} steps", "end"),
        _text(LEFT, 14, spoken, "start"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{spoken}"><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#555"/>{"".join(shapes)}</svg>\n'
    )


def _line(points: Points, colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _dot(point: tuple[float, float], radius: float) -> str:
    return f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius}" fill="#b3541e"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-family="sans-serif" font-size="12" fill="#333">{words}</text>'


CARD, PICTURE, SIGNATURE = "README.md", "loss.svg", "model.sig"

_SHOWN = (
    "purpose",
    "r",
    "alpha",
    "dropout",
    "learning_rate",
    "schedule",
    "epochs",
    "max_steps",
    "batch_size",
    "accumulation",
    "max_length",
    "beta",
    "quantization",
    "seed",
)


def write_card(
    adapter: Path,
    done: Mapping[str, Any],
    *,
    evaluations: Sequence[Mapping[str, Any]] = (),
    history: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write the card of a finished run's adapter.

    Args:
        adapter: the adapter folder.
        done: its run.json.
        evaluations: what was measured, a result a protected set.
        history: the trainer's log, for the picture of the loss beside the card; left out, the picture stays as it is.
    """
    target = adapter / CARD
    if history is not None:
        (adapter / PICTURE).write_text(loss_picture(history))
    aside = target.with_name(f".{CARD}.part")
    aside.write_text(card_text(done, evaluations=evaluations))
    aside.replace(target)
    return target


def renew_card(adapter: Path, done: Mapping[str, Any], *, evaluations: Sequence[Mapping[str, Any]], say: Say) -> None:
    """Write the measurements into the card; a signed adapter keeps the card it was signed with."""
    text, target = card_text(done, evaluations=evaluations), adapter / CARD
    if target.is_file() and target.read_text() == text:
        return
    if (adapter / SIGNATURE).is_file():
        say("The adapter is signed, so its card was left as it is; it shows what was measured before.")
        return
    write_card(adapter, done, evaluations=evaluations)


def card_text(done: Mapping[str, Any], *, evaluations: Sequence[Mapping[str, Any]] = (), merged: bool = False) -> str:
    """The card as Markdown with the front matter that model hubs read.

    Args:
        merged: of a whole model with the adapter in it; what was measured is the adapter all the same.
    """
    base, snapshot = done["base"], done["snapshot"]
    what = "merged into" if merged else "adapter for"
    front = {
        "base_model": base["id"],
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        # Rows under terms of their own bind the adapter too; the card's text names both licences.
        "license": "other" if {"snapshot", "SFT snapshot"} & set(done["conditions"]) else base["licence"].lower(),
        "tags": ["lora", "qlora", done["kind"], "seedcorn"],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {plain(snapshot['name'])} v{snapshot['version']}, {done['kind'].upper()} {what} {plain(base['id'])}",
        *_warnings(done),
        _made_from(done),
        _how_it_went(done),
        _measured(evaluations),
        "" if merged else _use(done),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _warnings(done: Mapping[str, Any]) -> list[str]:
    simulated = done["snapshot"]["simulated_review"] or (done.get("sft") or {}).get("simulated_review")
    found = ["> **Simulated review.** No person has approved the rows this was trained on. Not for real use."] if simulated else []
    reviewed = {"none": "No person reviewed", "sample": "People reviewed only a random sample of"}
    if (mode := done["snapshot"].get("review", "all")) in reviewed:
        found.append(f"> **Review: {mode}.** {reviewed[mode]} the rows this was trained on.")
    if (mode := (done.get("sft") or {}).get("review", "all")) in reviewed:
        found.append(f"> **Review of the SFT rows: {mode}.** {reviewed[mode]} the rows of the SFT run before it.")
    return found


def _made_from(done: Mapping[str, Any]) -> str:
    base, snapshot, rows = done["base"], done["snapshot"], done["rows"]["train"]
    kept = rows["rows"] - rows["left_out"]
    lines = [
        "## What it was made from",
        f"- Base model: {plain(base['id'])}, {plain(base['licence'])}, digest `{base['digest'][:16]}`"
        + (f" ({plain(base['note'])})" if base["note"] else ""),
        f"- Rows: {kept} of snapshot {plain(snapshot['name'])} v{snapshot['version']}, digest `{snapshot['digest'][:16]}`, signed by "
        f"`{snapshot['signer'][:23]}`" + (f", licence {plain(snapshot['licence'])}" if snapshot["licence"] else ""),
    ]
    if snapshot["teacher"]:
        lines.append(f"- Written by {plain(snapshot['teacher'])}")
    if snapshot["intended_use"]:
        lines.append(f"- Meant for: {plain(snapshot['intended_use'])}")
    if cut := rows.get("cut", 0):
        lines.append(f"- {cut} of them are longer than the run's max_length: the ends of their answers were cut off")
    if sft := done.get("sft"):
        lines.append(
            f"- Before that: the SFT adapter `{sft['adapter_digest'][:16]}` on snapshot {plain(sft['name'])} v{sft['version']}, "
            "which is also DPO's frozen reference"
        )
    lines.append(f"- Checked for use: {plain(done['use'])}")
    lines += [f"- Condition ({plain(of)}): {plain(text)}" for of, text in done["conditions"].items()]
    return "\n".join([lines[0], "", *lines[1:]])


def _how_it_went(done: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {done['versions'][name]}" for name in ("torch", "transformers", "peft", "trl") if name in done["versions"]
    )
    stopped = f", stopped early at {done['early_stopped_at']}" if done["early_stopped_at"] else ""
    lines = [
        f"- {plain(_settings_text(done['settings']))}",
        f"- {done['steps']} steps{stopped}; loss {done['first_loss']:.4f} to {done['last_loss']:.4f}",
        f"- Best validation loss {done['best_eval_loss']:.4f} at step {done['best_step']}; these are its weights",
        f"- {versions}",
        f"- Adapter digest `{done['adapter_digest']}`",
        "",
        f"![Training loss in grey, validation loss in brown]({PICTURE})",
    ]
    return "\n".join(["## How training went", "", *lines])


def _settings_text(settings: Mapping[str, Any]) -> str:
    shown = [(name.replace("_", " "), settings[name]) for name in _SHOWN if settings.get(name) is not None]
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown)


def _measured(evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not evaluations:
        return "## What was measured\n\nNothing yet."
    return "\n\n".join(["## What was measured", *(_result(evaluation) for evaluation in evaluations)])


def _result(evaluation: Mapping[str, Any]) -> str:
    """One protected set: what was asked, over which weights, and the table."""
    others, diversity = list(evaluation["against"]), evaluation["diversity"]
    head = "| metric | value | 95 % interval | n | distinct answers |" + "".join(f" on {plain(other)} |" for other in others)
    rows = [head, "|---|---:|---|---:|---|" + "---|" * len(others)]
    for name, metric in evaluation["metrics"].items():
        found = diversity.get(name)
        distinct = f"{found['distinct']}, the most frequent {found['most_frequent']:.0%}" if found else ""
        row = f"| {plain(name)} | {metric['value']:.3f} | {metric['low']:.3f} to {metric['high']:.3f} | {metric['n']} | {distinct} |"
        for other in others:
            compared = evaluation["against"][other].get(name)
            row += f" {compared['difference']:+.3f}, {compared['verdict']} |" if compared else " |"
        rows.append(row)
    weights = {"nf4": "in 4 bits (NF4), which is not how merged models and vLLM serve it"}.get(
        evaluation["weights"], f"in {evaluation['weights']}, as it is served"
    )
    file = evaluation["file"]
    source = (
        f"On {plain(file['name'])} (sha256 `{file['sha256'][:16]}`), a set the training rows were screened against; base model {weights}."
    )
    return "\n".join([source, "", *rows])


def _use(done: Mapping[str, Any]) -> str:
    chat = done.get("chat") or {}
    notes = ["The tokenizer here has the chat template it was trained with."]
    if end := chat.get("end_of_turn"):
        notes.append(f"An answer ends with the token `{end['token']}` ({end['id']}); generation_config.json names it as a stop token.")
    if chat.get("system") == "merge":
        notes.append("The chat template has no system role: put the system message in front of the first user message, then an empty line.")
    return f"""## How to load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({json.dumps(done["base"]["id"])}), "this/folder")
tokenizer, settings = AutoTokenizer.from_pretrained("this/folder"), GenerationConfig.from_pretrained("this/folder")
messages = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, generation_config=settings, max_new_tokens=256)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

{" ".join(notes)} `train trace` leads from the run folder to each row."""
