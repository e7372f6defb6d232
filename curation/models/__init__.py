"""Calls to models, over HTTP or in a local folder: prices, terms, checks, and a ledger in which no response is lost or bought twice."""

from curation.models.access import has_key, key_name
from curation.models.availability import check_model, check_terms, find_terms, same_family
from curation.models.base import ChatModel, ModelInfo, NoResponse, NotReached, Response, open_model
from curation.models.batches import ask, ask_batch
from curation.models.context import AnswerCheck, AskProgress, AskSummary, CallContext, RetryPolicy
from curation.models.ledger import settle_kept
from curation.models.pricing import Estimate, count_tokens, estimate_cost, family, find_rates, usd_of
from curation.models.tracing import stage_span

__all__ = [
    "AnswerCheck",
    "AskProgress",
    "AskSummary",
    "CallContext",
    "ChatModel",
    "Estimate",
    "ModelInfo",
    "NoResponse",
    "NotReached",
    "Response",
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
