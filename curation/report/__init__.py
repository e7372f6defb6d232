"""What people read: the report of a project (one HTML page) and the dataset card of a snapshot (README.md)."""

from curation.report.attention import judge_notices
from curation.report.card import render_card
from curation.report.compare import compare_selections
from curation.report.croissant import render_croissant
from curation.report.data import CardInput, CardModels, CardReview, CardSuite, ReportData, Separation
from curation.report.judge import Apart, Judge, JudgeQuality, Odd, PairHygiene
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
from curation.report.whole import BalancedClass, ClassBalance, DifficultyCross, DifficultyLevel, DiversityFacts, DiversityOf
from curation.report.work import (
    Agreement,
    Cost,
    Dispute,
    ErrorRate,
    FailureCount,
    ModelCost,
    Review,
    Reviewer,
    RunFacts,
    SnapshotFacts,
)

__all__ = [
    "Agreement",
    "Apart",
    "BalancedClass",
    "CardInput",
    "CardModels",
    "CardReview",
    "CardSuite",
    "ClassBalance",
    "ClassCount",
    "Conflict",
    "Cost",
    "Coverage",
    "CoverageCell",
    "DifficultyCross",
    "DifficultyLevel",
    "Dispute",
    "Distribution",
    "DiversityFacts",
    "DiversityOf",
    "Drop",
    "ErrorRate",
    "FailureCount",
    "FunnelStep",
    "Judge",
    "JudgeQuality",
    "Leak",
    "ModelCost",
    "Odd",
    "PairHygiene",
    "ProtectedSuite",
    "ReportData",
    "Review",
    "Reviewer",
    "RunFacts",
    "ScoreSet",
    "Selection",
    "Separation",
    "SnapshotFacts",
    "compare_selections",
    "judge_notices",
    "render_card",
    "render_croissant",
    "render_report",
]
