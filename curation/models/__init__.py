"""Models over HTTP: what they cost, how they are asked, and that nothing they answer is lost or bought twice."""

from curation.models.ask import AskProgress, AskSummary, ask
from curation.models.client import AnthropicModel, ChatModel, NoReply, Reply, open_model
from curation.models.prices import Estimate, estimate_cost, family, find_rates
from curation.models.sending import Patience

__all__ = [
    "AnthropicModel",
    "AskProgress",
    "AskSummary",
    "ChatModel",
    "Estimate",
    "NoReply",
    "Patience",
    "Reply",
    "ask",
    "estimate_cost",
    "family",
    "find_rates",
    "open_model",
]
