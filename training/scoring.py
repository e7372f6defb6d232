"""How likely a model finds rival completions of the same prompt, and what it writes itself.

The prompt is read once and its key-value cache shared by the rivals, which is most of the speed on a CPU. The output head is asked
only where a probability is needed, so what a family does to its logits (Gemma 2's softcapping, Granite's and Cohere's scales) is done
here too, and compared with the model's own logits before anything is measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.chat import common_prefix, find_end_of_turn

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
    reader = make_reader(model)
    for _, alike in itertools.groupby(order, key=lambda i: len(encoded[i][1])):
        for chunk in _chunks(list(alike), batch):
            for index, row in zip(chunk, _score_batch(reader, tokenizer.pad_token_id, [encoded[i] for i in chunk]), strict=True):
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
    reader, ends = make_reader(model), end_tokens(model, tokenizer)
    for chunk in _chunks(order, batch):
        written = _generate(reader, tokenizer, [texts[i] for i in chunk], ends=ends, max_new_tokens=max_new_tokens, stop_lines=stop_lines)
        for index, text in zip(chunk, written, strict=True):
            answers[index] = text
    return answers


@dataclass(frozen=True)
class Reader:
    """A causal model in two steps: hidden states and cache of all positions, then logits of the positions that are asked for."""

    states: Callable[..., tuple[Any, Any]]
    """Takes the model's inputs and returns (states, cache)."""
    logits: Callable[[Any], Any]
    device: Any


def make_reader(model: Any) -> Reader:
    """Return the two steps of a model, checked against its own logits; a family they do not fit is read whole, which is slower.

    Asked for the last position's logits only, transformers multiplies a strided slice, for which torch copies the head's weights
    once for each row of the batch; that was a quarter of the time.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    body, head, config = getattr(inner, inner.base_model_prefix, inner), inner.get_output_embeddings(), inner.config.get_text_config()
    scale, cap = logit_scale(config), getattr(config, "final_logit_softcapping", None)

    def states(**inputs: Any) -> tuple[Any, Any]:
        read = body(**inputs)
        return read.last_hidden_state, read.cache

    def logits(hidden: Any) -> Any:
        values = head(hidden).float() * scale
        return values if cap is None else torch.tanh(values / cap) * cap

    def whole(**inputs: Any) -> tuple[Any, Any]:
        read = inner(**inputs)
        return read.logits, read.cache

    if body is inner:
        return Reader(whole, lambda values: values, model.device)
    probe = torch.arange(1, 9, device=model.device)[None] % config.vocab_size
    with torch.inference_mode():
        ours, own = logits(states(input_ids=probe, use_cache=False)[0]), inner(input_ids=probe, use_cache=False).logits.float()
    if torch.allclose(ours, own, rtol=0.02, atol=0.02 * float(own.abs().max())):
        return Reader(states, logits, model.device)
    return Reader(whole, lambda values: values, model.device)


def logit_scale(config: Any) -> float:
    """Return what a family multiplies its logits by before any softcapping; 1 for most."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere; Muse; Falcon-H1
        if (value := getattr(config, name, None)) is not None:
            return float(value)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1 / float(scaling)  # Granite and MiniCPM divide


def _generate(
    reader: Reader, tokenizer: Any, texts: list[str], *, ends: set[int], max_new_tokens: int, stop_lines: int | None
) -> list[str]:
    import torch

    prompt, mask = _pad(tokenizer(texts, add_special_tokens=False)["input_ids"], tokenizer.pad_token_id, left=True, device=reader.device)
    written: list[list[int]] = [[] for _ in texts]
    live = list(range(len(texts)))
    with torch.inference_mode():
        states, cache = reader.states(input_ids=prompt, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True)
        drops = _can(cache, "batch_select_indices")
        done: set[int] = set()
        for _ in range(max_new_tokens):
            tokens = reader.logits(states[:, -1].contiguous()).argmax(-1)
            for index, token in zip(live, tokens.tolist(), strict=True):
                if index in done:
                    continue
                if token in ends:
                    done.add(index)
                    continue
                written[index].append(token)
                if stop_lines is not None and tokenizer.decode(written[index]).count("\n") >= stop_lines:
                    done.add(index)
            if len(done) == len(texts):
                break
            if drops:
                # Rows that are done leave the batch, so the slowest answer does not cost all of them.
                going = [row for row, index in enumerate(live) if index not in done]
                chosen, live = torch.tensor(going, device=reader.device), [live[row] for row in going]
                cache.batch_select_indices(chosen)
                tokens, mask = tokens[chosen], mask[chosen]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            position = mask.sum(1, keepdim=True) - 1
            states, cache = reader.states(
                input_ids=tokens[:, None], attention_mask=mask, position_ids=position, cache=cache, use_cache=True
            )
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end an answer: the tokenizer's, those of the model's generation config, and the template's end of turn."""
    named = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, find_end_of_turn(tokenizer), *(named if isinstance(named, list) else [named])} - {None}


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


def _score_batch(reader: Reader, pad: int, rows: list[tuple[list[int], list[list[int]]]]) -> list[list[float]]:
    import torch

    rivals, device = len(rows[0][1]), reader.device
    # The last prompt token goes with the rivals: its output is the distribution of their first token.
    heads, tails = [ids[:-1] for ids, _ in rows], [[ids[-1], *option] for ids, options in rows for option in options]
    starts = [0] * len(tails)
    prompt, prompt_mask = _pad(heads, pad, left=True, device=device)
    options, option_mask = _pad(tails, pad, left=False, device=device)
    with torch.inference_mode():
        position = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        _, cache = reader.states(input_ids=prompt, attention_mask=prompt_mask, position_ids=position, use_cache=True)
        if _can(cache, "batch_repeat_interleave"):
            cache.batch_repeat_interleave(rivals)
            mask = torch.cat([prompt_mask.repeat_interleave(rivals, 0), option_mask], dim=1)
            offset = prompt_mask.sum(1).repeat_interleave(rivals)[:, None]
            position = offset + torch.arange(options.shape[1], device=device)[None]
            states, _ = reader.states(input_ids=options, attention_mask=mask, position_ids=position, cache=cache, use_cache=True)
        else:
            whole = [head + tail for head, tail in zip([head for head in heads for _ in range(rivals)], tails, strict=True)]
            starts = [len(ids) - len(tail) for ids, tail in zip(whole, tails, strict=True)]
            ids, mask = _pad(whole, pad, left=False, device=device)
            states, _ = reader.states(input_ids=ids, attention_mask=mask, use_cache=False)
        sums = [
            _sum_log_probability(reader.logits(row[start : start + len(ids) - 1]), ids)
            for row, start, ids in zip(states, starts, tails, strict=True)
        ]
    return [sums[i : i + rivals] for i in range(0, len(sums), rivals)]


def _can(cache: Any, method: str) -> bool:
    """Whether every layer of a cache has this method: recurrent layers (Qwen 3.5's linear attention) cannot repeat or drop rows."""
    return all(hasattr(layer, method) for layer in cache.layers)


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
