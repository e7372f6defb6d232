"""How likely a model finds rival completions of the same prompt, and what it writes itself.

The prompt is read once and its key-value cache shared by the rivals, which is most of the speed on a CPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from training.data import common_prefix

Messages = Sequence[dict[str, str]]


def score_rivals(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], rivals: Sequence[Sequence[str]], *, batch: int, a_token: bool = False
) -> list[list[float]]:
    """The log-probability of each rival completion of each prompt.

    A rival is scored as the text the trainer saw, end-of-turn token included when the text is a whole answer (no newline at its end).

    Args:
        a_token: give the probability a token instead, the geometric mean over the rival.
    """
    encoded = [_encode(tokenizer, prompt, texts) for prompt, texts in zip(prompts, rivals, strict=True)]
    # Rows of like length share a batch, so that little of it is padding; and rows with as many rivals, so that it is a rectangle.
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i][1]), len(encoded[i][0])))
    scores: list[list[float]] = [[] for _ in encoded]
    for _, alike in itertools.groupby(order, key=lambda i: len(encoded[i][1])):
        for chunk in _chunks(list(alike), batch):
            for index, row in zip(chunk, _score_batch(model, tokenizer, [encoded[i] for i in chunk]), strict=True):
                scores[index] = row
    if a_token:
        return [[math.exp(s / len(ids)) for s, ids in zip(row, rest, strict=True)] for row, (_, rest) in zip(scores, encoded, strict=True)]
    return scores


def write_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], *, max_new_tokens: int, batch: int, stop_lines: int | None
) -> list[str]:
    """Greedy answers, cut after `stop_lines` lines where that is given; a row that is done leaves its batch."""
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [""] * len(texts)
    for chunk in _chunks(order, batch):
        for index, text in zip(chunk, _generate(model, tokenizer, [texts[i] for i in chunk], max_new_tokens, stop_lines), strict=True):
            answers[index] = text
    return answers


def _generate(model: Any, tokenizer: Any, texts: list[str], max_new_tokens: int, stop_lines: int | None) -> list[str]:
    import torch

    body, head = _body_and_head(model)
    prompt, mask = _pad(tokenizer(texts, add_special_tokens=False)["input_ids"], tokenizer.pad_token_id, left=True, device=model.device)
    written: list[list[int]] = [[] for _ in texts]
    ends = _end_tokens(model, tokenizer)
    live = list(range(len(texts)))
    with torch.inference_mode():
        step = body(input_ids=prompt, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True)
        for _ in range(max_new_tokens):
            tokens = head(step.last_hidden_state[:, -1].contiguous()).argmax(-1)
            going = []
            for row, (index, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
                if token not in ends:
                    written[index].append(token)
                    if stop_lines is None or tokenizer.decode(written[index]).count("\n") < stop_lines:
                        going.append(row)
            if not going:
                break
            # Rows that are done leave the batch, so the slowest answer does not cost all of them.
            chosen = torch.tensor(going, device=model.device)
            live, cache = [live[row] for row in going], step.past_key_values
            cache.batch_select_indices(chosen)
            mask = torch.cat([mask[chosen], torch.ones_like(mask[chosen, :1])], dim=1)
            position = mask.sum(1, keepdim=True) - 1
            step = body(input_ids=tokens[chosen, None], attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: some models have one for a turn beside the tokenizer's own."""
    named = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}


def _body_and_head(model: Any) -> tuple[Any, Any]:
    """The decoder without its output head, and the head.

    Asked for the last position's logits only, transformers multiplies a strided slice, for which torch copies the head's weights
    once for each row of the batch; that was a quarter of the time.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return getattr(inner, inner.base_model_prefix), inner.get_output_embeddings()


def _encode(tokenizer: Any, prompt: Messages, rivals: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    head = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    whole = [_render(tokenizer, prompt, text, head) for text in rivals]
    ids = tokenizer([head, *whole], add_special_tokens=False)["input_ids"]
    # Tokens may merge across the boundary; the completion starts where the sequences part, as it does in training.
    cut = min(common_prefix(ids[0], row) for row in ids[1:])
    return ids[0][:cut], [row[cut:] for row in ids[1:]]


def _render(tokenizer: Any, prompt: Messages, text: str, head: str) -> str:
    if text.endswith("\n"):
        return head + text
    whole: str = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": text}], tokenize=False)
    return whole


def _score_batch(model: Any, tokenizer: Any, rows: list[tuple[list[int], list[list[int]]]]) -> list[list[float]]:
    import torch

    rivals, device = len(rows[0][1]), model.device
    body, head = _body_and_head(model)
    # The last prompt token goes with the rivals: its output is the distribution of their first token.
    heads, tails = [ids[:-1] for ids, _ in rows], [[ids[-1], *option] for ids, options in rows for option in options]
    prompt, prompt_mask = _pad(heads, tokenizer.pad_token_id, left=True, device=device)
    options, option_mask = _pad(tails, tokenizer.pad_token_id, left=False, device=device)
    with torch.inference_mode():
        position = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        cache = body(input_ids=prompt, attention_mask=prompt_mask, position_ids=position, use_cache=True).past_key_values
        cache.batch_repeat_interleave(rivals)
        mask = torch.cat([prompt_mask.repeat_interleave(rivals, 0), option_mask], dim=1)
        offset = prompt_mask.sum(1).repeat_interleave(rivals)[:, None]
        position = offset + torch.arange(options.shape[1], device=device)[None]
        states = body(
            input_ids=options, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state
        sums = [_sum_log_probability(head(row[: len(ids) - 1]), ids) for row, ids in zip(states, tails, strict=True)]
    return [sums[i : i + rivals] for i in range(0, len(sums), rivals)]


def _sum_log_probability(logits: Any, ids: list[int]) -> float:
    """Of the tokens after the first; the head is asked row by row, so that padding and a batch's logits cost nothing."""
    import torch

    scores = torch.log_softmax(logits.float(), dim=-1)
    target = torch.tensor(ids[1:], device=logits.device)
    return float(scores.gather(1, target[:, None]).sum())


def _pad(rows: list[list[int]], pad: int, *, left: bool, device: Any) -> tuple[Any, Any]:
    import torch

    width = max(len(row) for row in rows)
    filled, mask = [], []
    for row in rows:
        gap = width - len(row)
        filled.append([pad] * gap + row if left else row + [pad] * gap)
        mask.append([0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap)
    return torch.tensor(filled, device=device), torch.tensor(mask, device=device)


def _chunks(order: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
