"""Models, over HTTP or in a folder: what they cost, how they are asked, and that nothing they answer is lost or bought twice."""

from curation.models.availability import ModelInfo, NotReached, check_model, same_family
from curation.models.base import ChatModel, NoReply, Reply, key_name
from curation.models.batch_runner import ask_batch
from curation.models.factory import has_key, open_model
from curation.models.pricing import Estimate, count_tokens, estimate_cost, family, find_rates, usd_of
from curation.models.runner import AskProgress, AskSummary
from curation.models.sender import AnswerCheck, RetryPolicy
from curation.models.settlement import settle_kept
from curation.models.submit import ask
from curation.models.tracing import stage_span
from curation.models.usage_terms import check_terms, find_terms

__all__ = [
    "AnswerCheck",
    "AskProgress",
    "AskSummary",
    "ChatModel",
    "Estimate",
    "ModelInfo",
    "NoReply",
    "NotReached",
    "Reply",
    "RetryPolicy",
    "ask",
    "ask_batch",
    "check_model",
    "check_terms",
    "count_tokens",
    "estimate_cost",
    "family",
    "find_rates",
    "find_terms",
    "has_key",
    "key_name",
    "open_model",
    "same_family",
    "settle_kept",
    "stage_span",
    "usd_of",
]
