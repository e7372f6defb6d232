"""What the teacher is asked, and what its answers become. Requests are made from plan cells; a raw answer becomes records, or
counted failures with their reasons. Nothing here sends anything.

Files: asks.py (what to ask for in one request), requests.py (how it is put), reading.py and answers.py (what came back), pairing.py
(pairs from candidates), naive.py (the same without a plan, to compare with).
"""

from __future__ import annotations

from curation.generate.answers import Made, read_answer, records_from
from curation.generate.asks import APPROACHES, Ask, Neighbours, Parent, group_cells, shorten, slot_of
from curation.generate.naive import naive_requests, naive_texts
from curation.generate.pairing import Candidate, Pairing, pair_candidates
from curation.generate.reading import fail, read_json, read_rows
from curation.generate.requests import ask_requests, generation_digest, message_body, object_schema, planned_requests, requests_for

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
