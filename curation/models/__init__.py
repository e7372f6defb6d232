"""Models over HTTP: what they cost, how they are asked, and that nothing they answer is lost or bought twice."""

from curation.models.ask import ask
from curation.models.batches import ask_batch
from curation.models.check import ModelInfo, check_model, same_family
from curation.models.client import AnthropicModel, ChatModel, NoReply, Reply, open_model
from curation.models.prices import Estimate, estimate_cost, family, find_rates
from curation.models.sending import Patience
from curation.models.told import AskProgress, AskSummary

__all__ = [
    "AnthropicModel",
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
    "open_model",
    "same_family",
]
