"""Gather what the report shows of the work itself: review, cost, failures, snapshots, runs. Read-only. Core: report/."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from argilla_setup import forms
from curation import agreement as agreeing
from curation import report as page
from curation.decide import Opinion
from curation.pipeline.asking import count_failed
from curation.pipeline.bench import Bench
from curation.pipeline.opinions import opinions_by_seq
from curation.records import KINDS, Kind, whole_text
from curation.snapshot import find_trusted_keys, read_signer
from curation.snapshot.revoke import find_revocation
from curation.store import CallLedger, facts, reviews, runs
from curation.store.records import Row


def review_facts(
    bench: Bench, verdicts: Mapping[int, Mapping[str, Any]], by_seq: Mapping[int, Row], *, names: Mapping[str, str] | None = None
) -> page.Review:
    """Return how far the review is, how well people agree, and what they dispute.

    Args:
        bench: the project.
        verdicts: by seq.
        by_seq: every row.
        names: how the annotators appear, by user name; None for their own names.
    """
    opinions = {seq: [_renamed(o, names) for o in said] for seq, said in opinions_by_seq(bench).items() if said}
    counts = Counter(verdicts[seq]["verdict"] for seq in opinions if seq in verdicts)
    flat = [o for said in opinions.values() for o in said]
    disputed = {seq for seq in opinions if verdicts.get(seq, {}).get("verdict") == "disputed"}
    waiting = sum(v["verdict"] in ("to_review", "in_review") for v in verdicts.values())
    comments = _comments(bench, disputed, names)
    per_kind = {kind: {s: o for s, o in opinions.items() if s in by_seq and by_seq[s].kind == kind} for kind in KINDS}
    return page.Review(
        simulated=any(o.simulated for o in flat),
        overlap=bench.project.review.overlap,
        rows=len(opinions),
        answers=len(flat),
        approved=counts["approved"],
        rejected=counts["rejected"],
        edited=counts["edited"],
        disputed=len(disputed),
        waiting=waiting,
        agreements=tuple(_agreement(kind, said) for kind, said in per_kind.items() if said),
        reviewers=tuple(_reviewer(name, opinions, disputed) for name in sorted({o.user for o in flat})),
        disputes=tuple(
            page.Dispute(
                row=by_seq[seq].id,
                text=whole_text(by_seq[seq].record),
                answers={o.user: o.says for o in opinions[seq]},
                comment=comments.get(seq, ""),
            )
            for seq in sorted(disputed)
            if seq in by_seq
        ),
        error_rates=tuple(
            page.ErrorRate(name=f"each reviewer, {kind}", estimated=agreeing.estimate_error_rate(said.values()))
            for kind, said in per_kind.items()
            if said
        ),
    )


def _renamed(opinion: Opinion, names: Mapping[str, str] | None) -> Opinion:
    return opinion if names is None else replace(opinion, user=names[opinion.user])


def _comments(bench: Bench, disputed: set[int], names: Mapping[str, str] | None) -> dict[int, str]:
    """Return what people wrote for whoever settles their dispute: the reasons they ticked and their comments.

    Where annotators appear under other names, so do those that a comment mentions.
    """
    out: dict[int, str] = {}
    for seq, answers in reviews.answers_by_seq(bench.db).items() if disputed else ():
        said = [(a.user, _words(a.values)) for a in answers if seq in disputed and a.status == "submitted"]
        out[seq] = _rename_in(" · ".join(f"{user}: {words}" for user, words in said if words), names or {})
    return out


def _rename_in(text: str, names: Mapping[str, str]) -> str:
    """Replace every user name that stands in a text as a word of its own."""
    if not names:
        return text
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({longest_first})(?![\w-])", lambda found: names[found[1]], text)


def _words(values: Mapping[str, Any]) -> str:
    ticked = ", ".join(forms.REASON_LABELS.get(reason, str(reason)) for reason in values.get(forms.REASONS) or ())
    return ". ".join(part for part in (ticked, str(values.get(forms.COMMENT) or "").strip()) if part)


def _agreement(kind: Kind, said: Mapping[int, Sequence[Opinion]]) -> page.Agreement:
    question = "May this be used?" if kind == "instruction" else "Which response is better?"
    twice = sum(len(o) >= 2 for o in said.values())
    return page.Agreement(question=question, alpha=agreeing.agreement(said.values()), rows=twice, answers=sum(map(len, said.values())))


def _reviewer(name: str, opinions: Mapping[int, Sequence[Opinion]], disputed: set[int]) -> page.Reviewer:
    own = [(seq, o) for seq, said in opinions.items() for o in said if o.user == name]
    says = Counter(o.says for _, o in own)
    return page.Reviewer(
        name=name, simulated=any(o.simulated for _, o in own), answers=len(own), approved=says["approve"] + says["first"] + says["second"],
        rejected=says["reject"] + says["neither"] + says["tie"], edited=says["edit"], disputed=sum(seq in disputed for seq, _ in own),
    )  # fmt: skip


def cost_facts(bench: Bench, verdicts: Mapping[int, Mapping[str, Any]], simulated: bool) -> page.Cost | None:
    """What the calls cost, by model and stage."""
    costs = CallLedger(bench.db).costs()
    if not costs:
        return None
    return page.Cost(
        models=tuple(
            page.ModelCost(model=c.model, stage=c.stage, calls=c.calls, input_tokens=c.input_tokens, output_tokens=c.output_tokens,
                           usd=c.cost_usd + c.uncertain_usd, cached_tokens=c.cache_read_tokens)
            for c in costs
        ),
        prices_date=max((c.price_date or "" for c in costs), default=""),
        simulated=simulated,
        approved_rows=sum(v["verdict"] == "approved" for v in verdicts.values()),
        budget_usd=bench.project.budget.usd,
        uncertain_calls=sum(c.uncertain for c in costs),
    )  # fmt: skip


def failures_facts(bench: Bench) -> tuple[page.FailureCount, ...] | None:
    """What did not become a row or a score, by reason; None where nothing was asked or imported that could fail."""
    ledger = CallLedger(bench.db)
    if not any(ledger.counts().values()) and runs.latest_run(bench.db, "import") is None:
        return None
    out, examples = [], facts.failure_examples(bench.db)
    for stage in ("generate", "score", "import"):
        for reason, count in count_failed(bench, stage).items():
            category = ", ".join(f"{name} {n}" for name, n in ledger.refusals(stage).items()) if reason == "refusal" else ""
            example = examples.get((stage, reason), "")
            out.append(page.FailureCount(stage=stage, reason=reason, count=count, category=category, example=example))
    return tuple(out)


def snapshots_facts(bench: Bench) -> tuple[page.SnapshotFacts, ...]:
    """Every snapshot with its splits and its signer."""
    out = []
    for s in reviews.list_snapshots(bench.db):
        splits = Counter(split for split, _ in facts.splits_by_seq(bench.db).values())
        manifest = bench.folder / s["path"] / "manifest.json"
        if manifest.is_file():
            splits = Counter({name: part["rows"] for name, part in json.loads(manifest.read_text())["splits"].items()})
        out.append(
            page.SnapshotFacts(
                name=s["name"], version=s["version"], kind=s["kind"], splits=dict(splits), digest=s["digest"], created=s["created"],
                signed_by=read_signer(bench.folder / s["path"]), lost=_lost(bench.folder / s["path"], s["digest"]),
            )
        )  # fmt: skip
    return tuple(out)


def _lost(path: Path, digest: str) -> str:
    if not path.is_dir():
        return "its folder is gone"
    return "revoked" if find_revocation(digest, trusted_keys=find_trusted_keys(), folders=None, snapshot=path) else ""


def runs_facts(bench: Bench) -> tuple[page.RunFacts, ...]:
    """The latest runs, oldest first: `curate serve` alone makes half a million in a year."""
    return tuple(
        page.RunFacts(
            stage=r["stage"], started=r["started"], seconds=r["seconds"], state=r["state"], entered=r["rows_in"], left=r["rows_out"]
        )
        for r in runs.list_runs(bench.db, most=1_000)
        if r["stage"] not in ("status", "report")
    )
