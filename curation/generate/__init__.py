"""What the teacher is asked, and what its answers become. Requests are made from plan cells; a raw answer becomes records, or
counted failures with their reasons. Nothing here sends anything.

Files: asks.py (what to ask for in one request), requests.py (how it is put), reading.py and answers.py (what came back), pairing.py
(pairs from candidates), naive.py (the same without a plan, to compare with).
"""

from __future__ import annotations

from curation.generate.baseline import naive_requests, naive_texts
from curation.generate.pairing import Candidate, Pairing, pair_candidates
from curation.generate.parsing import Made, read_answer, records_from
from curation.generate.requests import (
    APPROACHES,
    Ask,
    Neighbours,
    Parent,
    ask_requests,
    generation_digest,
    group_cells,
    planned_requests,
    requests_for,
    shorten,
    slot_of,
)
from curation.structured_output import fail, message_body, object_schema, read_json, read_rows

__all__ = [
    "APPROACHES",
    "Ask",
    "Candidate",
    "Made",
    "Neighbours",
    "Pairing",
    "Parent",
    "ask_requests",
    "fail",
    "generation_digest",
    "group_cells",
    "message_body",
    "naive_requests",
    "naive_texts",
    "object_schema",
    "pair_candidates",
    "planned_requests",
    "read_answer",
    "read_json",
    "read_rows",
    "records_from",
    "requests_for",
    "shorten",
    "slot_of",
]
