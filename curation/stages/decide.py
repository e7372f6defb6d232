"""From all that is known to a verdict on every row. Nothing is measured here. Core: decide.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from curation import decide as rules
from curation.alarms import gate_alarms
from curation.config.project import settings_digest
from curation.store import facts, records, runs
from curation.store.database import hold_lock
from curation.views.decisions import decide_all
from curation.views.pairs import hygiene_values, pair_hygiene
from curation.views.runs import GATES
from curation.views.scores import tell_kept
from curation.views.staleness import decide_inputs, stale_values
from curation.workspace import StageResult, open_workspace

__all__ = ["decide"]

WAIT_S = 600.0
"""How long a decision waits for another one to end; one over a million rows takes minutes."""


def decide(folder: Path) -> StageResult:
    """Compute every row's verdict from the facts, the thresholds and the overrides. Nothing is measured. Core: decide.py."""
    # One after the other: of two that run at once the slower one, which has read older facts, would write last.
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "decide", wait_s=WAIT_S):
        project = workspace.project
        with runs.record_run(workspace.db, "decide", settings_digest(project.score, project.review, project.balance)) as run:
            decided = decide_all(workspace)
            decisions = decided.decisions
            facts.replace_verdicts(
                workspace.db, ((d.seq, d.verdict, d.better, rules.reasons_as_values(d.reasons)) for d in decisions), run.number
            )
            verdicts = Counter(d.verdict for d in decisions)
            counts: dict[str, Any] = {name: n for name, n in verdicts.items()}
            run.rows_in, run.rows_out = len(decisions), len(decisions) - verdicts["dropped"] - verdicts["rejected"]
            pairs = pair_hygiene(workspace, facts.verdicts_by_seq(workspace.db))
            labels = records.labels_by_seq(workspace.db)
            below = [d.verdict == "dropped" and any(reason.stage == "score" for reason in d.reasons) for d in decisions]
            alarms = [str(alarm) for alarm in gate_alarms("score", [labels.get(d.seq) for d in decisions], below)]
            counts |= {"review_sample": {k: s.as_values() for k, s in decided.samples.items()}} if decided.samples else {}
            hygiene = {"pairs": hygiene_values(pairs)} if pairs else {}
            run.detail = {**counts, "inputs": decide_inputs(workspace), "gate_alarms": alarms, **hygiene}
        reasons = Counter(f"{d.reasons[0].stage}: {d.reasons[0].kind}" for d in decisions if d.verdict == "dropped")
        _, notes = tell_kept(workspace)
        counts |= {"dropped_for": dict(reasons.most_common()), "alarms": alarms}
        samples = [f"Review sample, {kind}: {sample.sentence}." for kind, sample in decided.samples.items()]
        stale, warnings = stale_values(workspace, ("score", *GATES))
        return StageResult("decide", run.rows_in, run.rows_out, {**counts, **stale}, [*alarms, *notes, *samples, *warnings])
