"""Odds ratio preference optimization (Hong et al. 2024): what `training.train` does only for ORPO.

ORPO learns an answer and its preference in one stage, from the base model and without a reference: the negative log-likelihood of the
chosen answer plus beta times the log of the odds ratio of both. TRL 1.16 has a trainer for it that adds begin and end tokens of its own to
rendered rows and computes the likelihood over the prompt too. So rows and batches are DPOTrainer's, which preflight shows, and the loss is
the one here, over the completions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue

from training.chat import Row
from training.config import Lora, RunFile
from training.dpo import REFERENCE
from training.errors import TrainingError
from training.model import lora_config
from training.records import MethodFields, PreflightReport

BETA = 0.1
"""Weight of the odds ratio (lambda in the paper), the default of TRL and the paper's value for its 7B models."""
USUAL_RATES, USUAL_BETAS = (1e-6, 1e-3), (0.05, 1.0)
"""Outside these a run warns: a fifth of the paper's rate for all weights to five times QLoRA's, and the betas that the paper compares."""


def find_warnings(run: RunFile) -> list[str]:
    """Return a sentence for each setting that is allowed but far from the usual range."""
    found, beta, rate = [], beta_of(run), run.learning_rate
    if not USUAL_BETAS[0] <= beta <= USUAL_BETAS[1]:
        effect = "the rejected answers hardly count" if beta < USUAL_BETAS[0] else "the chosen answers are hardly learned"
        found.append(f"orpo.beta {beta:g} is outside {USUAL_BETAS[0]:g} to {USUAL_BETAS[1]:g}, the usual range of ORPO: {effect}")
    if not USUAL_RATES[0] <= rate <= USUAL_RATES[1]:
        effect = "a LoRA hardly changes at it" if rate < USUAL_RATES[0] else "the training may diverge"
        found.append(f"orpo.learning_rate {rate:g} is outside 1e-6 to 1e-3, the usual range of ORPO: {effect}")
    return found


def beta_of(run: RunFile) -> float:
    """Return the run's beta, by default TRL's."""
    assert run.orpo is not None
    return run.orpo.beta or BETA


def trainer_arguments(run: RunFile, base: Any, tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the base model and PEFT's configuration of a new adapter on it.

    Args:
        run: the run file.
        base: the loaded base model.
        tokenizer: the base model's.
        rows: the pairs to train on.
    """
    return {"model": base, "peft_config": lora_config(run.lora or Lora(), base)}


def config_arguments(run: RunFile) -> dict[str, Any]:
    """Return DPOConfig's own arguments."""
    return {"beta": beta_of(run)}


def config_settings(run: RunFile) -> dict[str, JsonValue]:
    """Return the settings for run.json beyond the shared ones."""
    return {"beta": beta_of(run)}


def adjust_trainer(trainer: Any) -> None:
    """Replace DPO's loss by ORPO's."""
    import torch

    def loss_of_pairs(model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        mask = inputs["completion_mask"]
        given = {name: value for name, value in inputs.items() if name != "completion_mask"}
        if trainer.aux_loss_enabled:
            given["output_router_logits"] = True
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        output = model(**given, use_cache=False, labels=labels, fused_lm_head=True)
        scores, tokens = output.log_probs.float(), mask[:, 1:].sum(dim=1).clamp(min=1)
        # The first half of a batch are the chosen answers.
        chosen, rejected = (scores.sum(dim=1) / tokens).chunk(2)
        # By rows and not by tokens, as the paper normalizes it, so that the loss of a step does not depend on how its rows are divided.
        likelihood = -chosen.mean()
        ratios = odds_ratios(chosen, rejected)
        loss = likelihood - trainer.beta * torch.nn.functional.logsigmoid(ratios).mean()
        routing = output.aux_loss if trainer.aux_loss_enabled else None
        log_metrics(trainer, {"nll_loss": likelihood, "log_odds_ratio": ratios, "logps/chosen": chosen, "logps/rejected": rejected})
        log_metrics(trainer, {"rewards/margins": chosen - rejected, "rewards/accuracies": (chosen > rejected).float()})
        if trainer.model.training:
            trainer._total_train_tokens += int(trainer.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum())
        trainer._metrics["train" if trainer.model.training else "eval"]["num_tokens"] = [trainer._total_train_tokens]
        if routing is not None:
            loss = loss + trainer.router_aux_loss_coef * routing
        return (loss, output) if return_outputs else loss

    trainer._compute_loss = loss_of_pairs


def odds_ratios(chosen: Any, rejected: Any) -> Any:
    """Return the log odds of each chosen answer over the rejected one.

    Args:
        chosen: mean log-probability of a token of each chosen answer.
        rejected: the same of the rejected answers.
    """
    import torch

    def log_of_rest(logps: Any) -> Any:
        # log(1 - p). Below 0, because an answer of probability 1 has infinite odds.
        logps = logps.clamp(max=-1e-6)
        return torch.where(logps > -0.693, torch.log(-torch.expm1(logps)), torch.log1p(-torch.exp(logps)))

    return (chosen - rejected) - (log_of_rest(chosen) - log_of_rest(rejected))


def log_metrics(trainer: Any, values: dict[str, Any]) -> None:
    """Add the means of a batch over all processes to the trainer's next log entry."""
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    for name, value in values.items():
        metrics[name].append(trainer.accelerator.gather(value.detach()).mean().item())


def check_before(model: Any, run: RunFile, report: PreflightReport) -> None:
    """Refuse a reference adapter: ORPO has none, and the loss here would ignore it."""
    if REFERENCE in model.peft_config:
        raise TrainingError("reference", "an adapter named 'ref' exists, and ORPO has no reference", "report this")


def describe_result(trainer: Any, run: RunFile, report: PreflightReport) -> MethodFields:
    """Return the first and the last margin: how much likelier a token of the chosen answer is, in nats.

    Args:
        trainer: the trainer after the training.
        run: the run file.
        report: preflight.json.
    """
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    return {"first_margin": margins[0], "last_margin": margins[-1]}
