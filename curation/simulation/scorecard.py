"""The demo's summary: what was planted beside what was caught. The only reader of the stand-in's log of planted flaws, and it runs
after the last gate.

    python -m curation.simulation.scorecard build/demo

Refuses to sum up a demo in which a step is missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curation.cli import quiet_libraries
from curation.errors import ProjectError, UserError
from curation.simulation.annotators import true_error_rates
from curation.snapshot import find_trusted_keys, verify_snapshot
from curation.store import facts, reviews, runs
from curation.store.database import CallLedger
from curation.store.records import repeated_sources, sources_by_seq
from curation.views.annotations import review_counts
from curation.workspace import Workspace, open_workspace

INSTRUCTION_KINDS = (
    "wrong_code",
    "truncated_json",
    "refusal",
    "exact_copy",
    "light_edit",
    "paraphrase",
    "leak_verbatim",
    "leak_reworded",
    "off_brief",
)

KINDS = (*INSTRUCTION_KINDS, "wrong_sibling")

DUPLICATES = ("exact_copy", "light_edit", "paraphrase")

LEAKS = ("leak_verbatim", "leak_reworded")


def score_gates(workspace: Workspace, log: Path) -> dict[str, Any]:
    """Planted and caught by kind, and clean rows that were flagged.

    A copy, an edit or a paraphrase counts as caught only when dedup saw it, a leak only when the leak screen did, a failed
    answer when it was counted as a failure, and any other flaw when a score or a check took the row out. A clean row counts
    as flagged when anything at all took it out.
    """
    planted, clean = _truth(log)
    row_of, failed = _rows_by_message(workspace), _failed_messages(workspace)
    findings: dict[int, set[str]] = defaultdict(set)
    for f in filter(
        lambda f: f.drops, facts.latest_findings(workspace.db, ("dedup", "screen"))
    ):  # what the leak judge cleared is not caught
        findings[f.seq].add(f.stage if f.stage == "dedup" else f.kind.split("_")[0])
    dropped = {seq for seq, v in facts.verdicts_by_seq(workspace.db).items() if v["verdict"] == "dropped"}
    copies = _second_origins(workspace)

    def is_caught(kind: str, message: str, item: int) -> bool:
        if kind in ("truncated_json", "refusal"):
            return message in failed
        seq = row_of.get((message, item))
        if seq is None:
            return message in failed
        if kind in DUPLICATES:
            return "dedup" in findings[seq] or (message, item) in copies
        return "leak" in findings[seq] if kind in LEAKS else seq in dropped

    gates: dict[str, Any] = {}
    for kind in KINDS:
        hits = [is_caught(kind, message, item) for message, item in planted[kind]]
        gates[kind] = {"planted": len(hits), "caught": sum(hits)}
    rows = [row_of[key] for key in clean if key in row_of]
    gates["false_alarms"] = {"flagged": sum(seq in dropped for seq in rows), "clean": len(rows)}
    return gates


def _truth(log: Path) -> tuple[dict[str, list[tuple[str, int]]], list[tuple[str, int]]]:
    planted: dict[str, list[tuple[str, int]]] = defaultdict(list)
    clean = []
    seen = set()
    for line in (log / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        key = (entry["message_id"], entry["item"])
        if key in seen:
            continue
        seen.add(key)
        if entry["flaw"]:
            planted[entry["flaw"]].append(key)
        else:
            clean.append(key)
    return planted, clean


def _messages(workspace: Workspace) -> Iterator[tuple[str, str]]:
    for answer in CallLedger(workspace.db).answers("generate"):
        yield answer.request.key, str(answer.message["id"])


def _rows_by_message(workspace: Workspace) -> dict[tuple[str, int], int]:
    message_of = dict(_messages(workspace))
    return {(message_of[key], item): seq for seq, key, item in sources_by_seq(workspace.db, "generated") if key in message_of}


def _failed_messages(workspace: Workspace) -> set[str]:
    failed = facts.failed_calls(workspace.db, "generate")
    return {message for key, message in _messages(workspace) if key in failed}


def _second_origins(workspace: Workspace) -> set[tuple[str, int]]:
    """Answers that only repeated a record which was there already."""
    message_of = dict(_messages(workspace))
    return {(message_of[key], item) for key, item in repeated_sources(workspace.db) if key in message_of}


CURATE_STEPS = (
    "plan", "import", "generate", "score", "dedup", "screen", "push", "pull", "decide", "snapshot", "sign", "verify", "export",
    "report", "status",
)  # fmt: skip

OTHER_STEPS = (
    "argilla-setup up", "argilla-setup users", "curate init", "curate standin start", "curate standin review", "curate trace",
    "train prepare-model", "train init", "train preflight", "train sft", "train eval", "train dpo", "train trace",
)  # fmt: skip

PACKAGES = (
    "seedcorn", "argilla", "anthropic", "datasets", "datasketch", "faiss-cpu", "sentence-transformers", "torch", "transformers",
    "peft", "trl", "bitsandbytes",
)  # fmt: skip


def write_summary(demo: Path) -> dict[str, Any]:
    """Sum up a finished demo and write summary.json into its folder.

    Raises:
        ProjectError: a step did not run, or what it should have left is not there.
    """
    steps = _steps(demo)
    with open_workspace(demo / "project") as workspace:
        summary = {
            "stages": _stages(workspace, steps),
            "gates": score_gates(workspace, demo / "standin"),
            "review": _review(workspace, demo / "standin"),
            "snapshots": {kind: _snapshot(workspace, kind) for kind in ("instruction", "preference")},
            **{kind: _training(demo, kind) for kind in ("sft", "dpo")},
            **_evaluation(demo),
            "cost_usd": round(CallLedger(workspace.db).spent_usd(), 6),
            "cost_simulated": True,
            "seconds": round(sum(step["seconds"] for step in steps), 1),
            "calibration_seconds": calibrate(),
            "versions": {"python": sys.version.split()[0], **{package: importlib.metadata.version(package) for package in PACKAGES}},
        }
    aside = demo / ".summary.json"
    aside.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(demo / "summary.json")
    return summary


def calibrate() -> float:
    """Seconds for a fixed piece of work, best of three: 20 products of 1024 x 1024 float32 matrices, and ten forward and
    backward steps of 32 rows through a 1024 x 1024 NF4 layer. Lets the demo's times be compared between machines."""
    import bitsandbytes
    import torch

    modules: Any = bitsandbytes.nn
    torch.manual_seed(0)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    layer = modules.LinearNF4(1024, 1024, compute_dtype=torch.bfloat16).to("cpu")
    rows = torch.randn(32, 1024, dtype=torch.bfloat16, requires_grad=True)

    def once() -> float:
        start = time.perf_counter()
        for _ in range(20):
            a @ b
        for _ in range(10):
            layer(rows).float().square().mean().backward()
        return time.perf_counter() - start

    return round(min(once() for _ in range(3)), 3)


def summary_table(summary: Mapping[str, Any]) -> str:
    """What the demo ends with, for people."""
    lines = ["", "What was planted, and what was caught"]
    for kind, found in summary["gates"].items():
        if kind != "false_alarms":
            lines.append(f"  {kind:<16}{found['caught']:>4} of {found['planted']}")
    alarms = summary["gates"]["false_alarms"]
    lines.append(f"  false alarms    {alarms['flagged']:>4} of {alarms['clean']} clean rows")
    review = summary["review"]
    agreement = "not defined" if review["agreement"] is None else f"{review['agreement']:.2f}"
    lines += [
        "",
        f"Review (simulated): {review['answers']} answers on {review['records']} rows, {review['disputed']} disputed, "
        f"agreement {agreement}",
    ]
    for name in ("wrong_approvals", "wrong_rejections", "errors"):
        pair = review["error_rates"][name]
        estimated, true = ("-" if pair[key] is None else f"{pair[key]:.3f}" for key in ("estimated", "true"))
        lines.append(f"  {name.replace('_', ' '):<18} estimated {estimated}, true {true}")
    lines.append("")
    for kind, snap in summary["snapshots"].items():
        lines.append(
            f"Snapshot {kind}: {snap['rows']} rows, {snap['digest'][:12]}, signature {'verified' if snap['signature_verified'] else 'BAD'}"
        )
    for kind in ("sft", "dpo"):
        run = summary[kind]
        lines.append(
            f"{kind.upper()}: {run['steps']} steps, loss {run['first_loss']:.3f} to {run['last_loss']:.3f}, "
            f"adapter {run['adapter_digest'][:12]}"
        )
    lines += ["", f"  {'on held-out phrases':<18}" + "".join(f"{name:>24}" for name in summary["eval"])]
    for metric in summary["eval"]["base"]:
        cells = [summary["eval"][name].get(metric) for name in summary["eval"]]
        shown = [f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "-" for c in cells]
        lines.append(f"  {metric:<18}" + "".join(f"{text:>24}" for text in shown))
    distinct = [summary["eval_diversity"][name].get("exact_code") for name in summary["eval"]]
    lines.append(f"  {'distinct codes':<18}" + "".join(f"{found['distinct'] if found else '-':>24}" for found in distinct))
    lines += [f"  {change}" for change in summary["eval_changes"]]
    lines += [
        "",
        f"At list prices this would have cost ${summary['cost_usd']:.2f}; the stand-in costs nothing. {summary['seconds']:.0f} seconds.",
    ]
    return "\n".join(lines)


def _steps(demo: Path) -> list[dict[str, Any]]:
    path = demo / "steps.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {step["verb"] for step in steps if step["exit"] == 0}
    missing = [name for name in (*(f"curate {s}" for s in CURATE_STEPS if s != "decide"), *OTHER_STEPS) if name not in done]
    if missing:
        raise ProjectError("the demo", f"is not complete: `{missing[0]}` has not run", "make demo")
    return steps


def _stages(workspace: Workspace, steps: list[dict[str, Any]]) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    for run in runs.list_runs(workspace.db):
        if run["state"] != "done":
            continue
        known = stages.setdefault(run["stage"], {"in": 0, "out": 0, "seconds": 0.0})
        if (run["rows_in"] or 0) >= known["in"]:
            known["in"], known["out"] = run["rows_in"] or 0, run["rows_out"] or 0
        known["seconds"] = round(known["seconds"] + (run["seconds"] or 0), 3)
    missing = [stage for stage in CURATE_STEPS if stage not in stages]
    if missing:
        raise ProjectError("the demo", f"is not complete: no finished run of `{missing[0]}` is recorded", "make demo")
    for step in steps:
        if step["verb"] in OTHER_STEPS:
            known = stages.setdefault(step["verb"], {"in": 1, "out": 1, "seconds": 0.0})
            known["seconds"] = round(known["seconds"] + step["seconds"], 3)
    return stages


def _review(workspace: Workspace, log: Path) -> dict[str, Any]:
    counts = review_counts(workspace)
    true = true_error_rates(log)
    # Two reviewers' disagreement tells how often they err, not in which direction.
    estimated = {"errors": counts["estimated_error_rate"]}
    return {
        "records": counts["records"],
        "answers": counts["opinions"],
        "disputed": counts["disputed"],
        "agreement": counts["agreement"],
        "simulated": counts["simulated"],
        "error_rates": {
            name: {"estimated": estimated.get(name), "true": true[name]} for name in ("wrong_approvals", "wrong_rejections", "errors")
        },
    }


def _snapshot(workspace: Workspace, kind: str) -> dict[str, Any]:
    found = [s for s in reviews.list_snapshots(workspace.db) if s["kind"] == kind]
    if not found:
        raise ProjectError("the demo", f"has no {kind} snapshot", "make demo")
    path = workspace.folder / found[-1]["path"]
    result = verify_snapshot(path, trusted_keys=find_trusted_keys(), deep=True)
    return {"path": str(path), "digest": found[-1]["digest"], "rows": found[-1]["rows"], "signature_verified": result.is_verified}


def _training(demo: Path, kind: str) -> dict[str, Any]:
    path = demo / "project" / "runs" / kind / "run.json"
    if not path.is_file():
        raise ProjectError("the demo", f"has no finished {kind} run ({path} is missing)", "make demo")
    run = json.loads(path.read_text())
    keys = ("steps", "first_loss", "last_loss", "best_eval_loss", "adapter", "adapter_digest")
    extra = ("reference_digest", "first_margin") if kind == "dpo" else ()
    return {key: run[key] for key in (*keys, *extra)} | {"adapter": str(path.parent / run["adapter"])}


def _evaluation(demo: Path) -> dict[str, Any]:
    folder = demo / "project" / "runs"
    files = {"base": max(folder.glob("base-eval-*.json"), key=lambda file: file.stat().st_mtime, default=folder / "base-eval.json"),
             "sft": folder / "sft" / "eval.json", "dpo": folder / "dpo" / "eval.json"}  # fmt: skip
    for name, file in files.items():
        if not file.is_file():
            raise ProjectError("the demo", f"has no evaluation of {name}", "make demo")
    results = {name: json.loads(file.read_text()) for name, file in files.items()}
    changes = [
        f"{metric}: {found['difference']:+.3f} from {other} to {name}, {found['verdict']}"
        + (f" ({found['reason']})" if "reason" in found else "")
        for name, other in (("sft", "base"), ("dpo", "sft"))
        for metric, found in results[name]["against"].get(other, {}).items()
    ]
    return {
        "eval": {name: result["metrics"] for name, result in results.items()},
        "eval_changes": changes,
        "eval_weights": {name: result["weights"] for name, result in results.items()},
        "eval_diversity": {name: result["diversity"] for name, result in results.items()},
    }


def main() -> None:
    """Write summary.json and print the table."""
    quiet_libraries()
    try:
        summary = write_summary(Path(sys.argv[1]))
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
    print(summary_table(summary))


if __name__ == "__main__":
    main()
