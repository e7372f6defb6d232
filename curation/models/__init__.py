"""Models, over HTTP or in a folder: what they cost, how they are asked, and that nothing they answer is lost or bought twice."""

from curation.models.ask import ask
from curation.models.batches import ask_batch
from curation.models.check import ModelInfo, NotReached, check_model, same_family
from curation.models.client import ChatModel, NoReply, Reply, key_name
from curation.models.counting import count_tokens
from curation.models.opening import has_key, open_model
from curation.models.prices import Estimate, estimate_cost, family, find_rates, usd_of
from curation.models.sending import AnswerCheck, Patience
from curation.models.settling import settle_kept
from curation.models.spans import stage_span
from curation.models.terms import check_terms, find_terms
from curation.models.told import AskProgress, AskSummary

__all__ = [
    "AnswerCheck",
    "AskProgress",
    "AskSummary",
    "ChatModel",
    "Estimate",
    "ModelInfo",
    "NoReply",
    "NotReached",
    "Patience",
    "Reply",
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
