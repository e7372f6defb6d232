"""What people read: the report of a project (one HTML page) and the dataset card of a snapshot (README.md)."""

from curation.report.card import render_card
from curation.report.compare import compare_selections
from curation.report.data import CardInput, CardModels, CardReview, CardSuite, ReportData
from curation.report.page import render_report
from curation.report.rows import (
    ClassCount,
    Conflict,
    Coverage,
    CoverageCell,
    Distribution,
    Drop,
    FunnelStep,
    Leak,
    ProtectedSuite,
    ScoreSet,
    Selection,
)
from curation.report.work import (
    Agreement,
    Cost,
    Dispute,
    ErrorRate,
    FailureCount,
    JudgeQuality,
    ModelCost,
    Review,
    Reviewer,
    RunFacts,
    SnapshotFacts,
)

__all__ = [
    "Agreement",
    "CardInput",
    "CardModels",
    "CardReview",
    "CardSuite",
    "ClassCount",
    "Conflict",
    "Cost",
    "Coverage",
    "CoverageCell",
    "Dispute",
    "Distribution",
    "Drop",
    "ErrorRate",
    "FailureCount",
    "FunnelStep",
    "JudgeQuality",
    "Leak",
    "ModelCost",
    "ProtectedSuite",
    "ReportData",
    "Review",
    "Reviewer",
    "RunFacts",
    "ScoreSet",
    "Selection",
    "SnapshotFacts",
    "compare_selections",
    "render_card",
    "render_report",
]
