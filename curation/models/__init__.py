"""Models, over HTTP or in a folder: what they cost, how they are asked, and that nothing they answer is lost or bought twice."""

from curation.models.ask import ask
from curation.models.batches import ask_batch
from curation.models.check import ModelInfo, check_model, same_family
from curation.models.client import ChatModel, NoReply, Reply
from curation.models.opening import has_key, open_model
from curation.models.prices import Estimate, estimate_cost, family, find_rates
from curation.models.sending import Patience
from curation.models.told import AskProgress, AskSummary

__all__ = [
    "AskProgress",
    "AskSummary",
    "ChatModel",
    "Estimate",
    "ModelInfo",
    "NoReply",
    "Patience",
    "Reply",
    "ask",
    "ask_batch",
    "check_model",
    "estimate_cost",
    "family",
    "find_rates",
    "has_key",
    "open_model",
    "same_family",
]
