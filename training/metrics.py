"""Metrics of a model on evaluation items, by likelihood and by generation.

Each metric gives one value an item, so that differences can be paired:

choice                 the correct option is likelier than each rival (likelihood, nothing is generated)
preference             the correct answer, written out, is likelier than an incorrect one
preference_test        chosen is likelier than rejected, on the test split of the preference snapshot
chapter, exact_code    codes: lines of the generated answer
valid_code             codes: share of generated codes that exist and are billable
likelihood             answers: probability per token of the reference answer, geometric mean
exact_answer           answers: the generated answer equals the reference

The number of distinct generated answers is counted too, because a model that gives one answer to every question can score well. The prompt
is read once and its key-value cache is shared by the rivals, which is most of the speed on a CPU. The output head is applied only where a
probability is needed, so what a family does to its logits (Gemma 2's softcapping, Granite's and Cohere's scales) is repeated here, and the
result is compared with the model's own logits before anything is measured.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.chat import Row, common_prefix, end_tokens, merge_system
from training.errors import TrainingError
from training.eval_items import EvalItem, extract
from training.results import Diversity

Values = dict[str, list[float]]
Messages = Sequence[Mapping[str, str]]
_CODE, _CHAPTER = re.compile(r"^Code:[ \t]*(\S+)", re.M), re.compile(r"^Chapter:[ \t]*(.+?)[ \t]*$", re.M)
ANSWER_LINES = 3
"""Lines of a code answer that are read: Code, Description, Chapter. The Reason after them is not generated."""
LEAST_DIVERSITY = 0.5
"""Below this ratio of distinct answers to distinct references a difference gets no verdict: 120 phrases that are answered with 12 codes
measure little, however many of those codes exist."""
MOST_FREQUENT, MOST_OVER_REFERENCE = 0.5, 1.5
"""It also gets none if one answer is given to more than half of the items, unless the references repeat about as much."""


class Subject:
    """A loaded model with its tokenizer and the prompt format of its training rows."""

    def __init__(self, model: Any, tokenizer: Any, *, system: str | None, batch: int, merge: bool = False) -> None:
        """Keep the model.

        Args:
            model: the base model, with an adapter or without.
            tokenizer: the base model's.
            system: the system message of the training rows.
            batch: items in a batch.
            merge: put the system message in front of the first user message.
        """
        self.model, self.tokenizer, self.batch, self.merge = model, tokenizer, batch, merge
        self.system = [{"role": "system", "content": system}] if system is not None else []

    def prompt(self, item: EvalItem) -> list[dict[str, str]]:
        """Return the question as a prompt like those of the training rows, or the item's own conversation."""
        messages = list(item.messages) or [*self.system, {"role": "user", "content": item.question}]
        return merge_system(messages) if self.merge else messages

    def score(
        self, prompts: Sequence[Messages], rivals: Sequence[Sequence[str]], *, batch: int, a_token: bool = False
    ) -> list[list[float]]:
        """Return the log-probability of each rival completion of each prompt.

        Args:
            prompts: conversations.
            rivals: completions of each prompt.
            batch: prompts in a batch.
            a_token: return the probability per token instead.
        """
        return score_rivals(self.model, self.tokenizer, prompts, rivals, batch=batch, a_token=a_token)


def measure_likelihoods(subject: Subject, items: Sequence[EvalItem]) -> Values:
    """Return choice, preference and likelihood of the items that have options, rivals or neither."""
    values: Values = {}
    chosen = [item for item in items if item.options]
    if chosen:
        scores = subject.score([subject.prompt(i) for i in chosen], [i.options for i in chosen], batch=subject.batch)
        values["choice"] = [float(row.index(max(row)) == item.right) for item, row in zip(chosen, scores, strict=True)]
    half = max(1, subject.batch // 2)  # whole answers are longer than options
    rivals = [(item, item.rivals) for item in items if item.rivals is not None]
    if rivals:
        scores = subject.score([subject.prompt(i) for i, _ in rivals], [pair for _, pair in rivals], batch=half)
        values["preference"] = [float(right > wrong) for right, wrong in scores]
    plain = [item for item in items if item.rivals is None]
    if plain:
        # Without a newline at its end a text is a whole answer, and is scored with its end-of-turn token.
        answers = [(item.answer.rstrip("\n"),) for item in plain]
        scores = subject.score([subject.prompt(i) for i in plain], answers, batch=half, a_token=True)
        values["likelihood"] = [float(score) for (score,) in scores]
    return values


def measure_pairs(subject: Subject, rows: Sequence[Row]) -> Values:
    """Return preference_test: 1 if the chosen completion is likelier than the rejected one."""
    if not rows:
        return {}
    rivals = [[row["chosen"][0]["content"].rstrip("\n"), row["rejected"][0]["content"].rstrip("\n")] for row in rows]
    scores = subject.score([row["prompt"] for row in rows], rivals, batch=max(1, subject.batch // 2))
    return {"preference_test": [float(chosen > rejected) for chosen, rejected in scores]}


def generate_answers(subject: Subject, items: Sequence[EvalItem], *, max_new_tokens: int) -> list[str]:
    """Return the model's greedy answers; of codes only the lines that are read.

    Args:
        subject: the model.
        items: the evaluation items.
        max_new_tokens: largest length of an answer.
    """
    return write_answers(
        subject.model,
        subject.tokenizer,
        [subject.prompt(item) for item in items],
        max_new_tokens=max_new_tokens,
        batch=subject.batch * 5,
        stop_lines=ANSWER_LINES if items[0].chapter is not None else None,
    )


def measure_diversity(answers: Sequence[str], items: Sequence[EvalItem], *, pattern: str | None = None) -> dict[str, Diversity]:
    """Return the diversity of the generated answers by metric of `read_answers`.

    Args:
        answers: the generated answers.
        items: the evaluation items, in the same order.
        pattern: the run file's `eval.pattern`.
    """
    if items[0].chapter is None:
        return {"exact_answer": _diversity([extract(text, pattern) for text in answers], [extract(i.answer, pattern) for i in items])}
    codes = _diversity([_find(_CODE, text) for text in answers], [item.answer for item in items])
    written = [extract(_find(_CHAPTER, text), None) for text in answers]
    chapters = _diversity(written, [extract(item.chapter or "", None) for item in items])
    return {"chapter": chapters, "exact_code": codes, "valid_code": codes}


def _diversity(written: Sequence[str], references: Sequence[str]) -> Diversity:
    counted, expected = Counter(written), Counter(references)
    share, reference = (round(max(counts.values()) / len(written), 4) for counts in (counted, expected))
    distinct = len(counted.keys() - {""})
    repeats = share > max(MOST_FREQUENT, MOST_OVER_REFERENCE * reference)
    return Diversity(
        distinct=distinct,
        references=len(expected),
        most_frequent=share,
        most_frequent_reference=reference,
        items=len(written),
        is_low=distinct < LEAST_DIVERSITY * len(expected) or repeats,
    )


def _find(line: re.Pattern[str], text: str) -> str:
    return match[1] if (match := line.search(text)) else ""


def read_answers(
    answers: Sequence[str], items: Sequence[EvalItem], *, billable: frozenset[str] | None, pattern: str | None = None
) -> Values:
    """Return 1 for each correct generated answer; an answer without the line or the pattern counts as incorrect.

    Args:
        answers: the generated answers.
        items: the evaluation items, in the same order.
        billable: the codes that exist and are billable; None leaves valid_code out.
        pattern: the run file's `eval.pattern`.
    """
    pairs = list(zip(answers, items, strict=True))
    if items[0].chapter is None:
        found = [(extract(text, pattern), extract(item.answer, pattern)) for text, item in pairs]
        return {"exact_answer": [float(answer == reference != "") for answer, reference in found]}
    codes, chapters = [_find(_CODE, text) for text in answers], [_find(_CHAPTER, text) for text in answers]
    values = {
        "chapter": [
            float(extract(chapter, None) == extract(item.chapter or "", None)) for chapter, item in zip(chapters, items, strict=True)
        ],
        "exact_code": [float(code == item.answer) for code, item in zip(codes, items, strict=True)],
    }
    return values if billable is None else values | {"valid_code": [float(code in billable) for code in codes]}


def read_labels(answers: Sequence[str], items: Sequence[EvalItem], *, pattern: str | None = None) -> tuple[list[str], list[str], str]:
    """Return reference and answer of each item as labels, and the metric that compares them: of codes the chapter, else the answer.

    Args:
        answers: the generated answers.
        items: the evaluation items, in the same order.
        pattern: the run file's `eval.pattern`.
    """
    if items[0].chapter is None:
        return [extract(item.answer, pattern) for item in items], [extract(text, pattern) for text in answers], "exact_answer"
    return [extract(item.chapter or "", None) for item in items], [extract(_find(_CHAPTER, text), None) for text in answers], "chapter"


def read_billable(table: Path | None) -> frozenset[str] | None:
    """Return the codes that exist and are billable, or None without a table."""
    if table is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(table, columns=["code", "billable"], use_threads=False).to_pydict()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        fact = f"{table} cannot be read ({' '.join(str(error).split())})"
        raise TrainingError("eval.table", fact, "name a Parquet file with the columns code and billable") from error
    if not {"code", "billable"} <= set(rows):
        raise TrainingError("eval.table", f"{table} lacks the column code or billable", "name a table that has them")
    return frozenset(code for code, billable in zip(rows["code"], rows["billable"], strict=True) if billable)


def score_rivals(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], rivals: Sequence[Sequence[str]], *, batch: int, a_token: bool = False
) -> list[list[float]]:
    """Return the log-probability of each rival completion of each prompt.

    A rival is scored as in training: with the end-of-turn token if the text is a whole answer (without a newline at its end).

    Args:
        model: the causal language model.
        tokenizer: its tokenizer.
        prompts: conversations.
        rivals: completions of each prompt.
        batch: prompts in a batch.
        a_token: return the probability per token instead, the geometric mean over the rival.

    Returns:
        One list per prompt with one value per rival.
    """
    encoded = [_encode(tokenizer, prompt, texts) for prompt, texts in zip(prompts, rivals, strict=True)]
    # A batch holds prompts of similar length, for little padding, and with an equal number of rivals, so that it is a rectangle.
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i][1]), len(encoded[i][0])))
    scores: list[list[float]] = [[] for _ in encoded]
    reader = make_reader(model)
    for _, group in itertools.groupby(order, key=lambda i: len(encoded[i][1])):
        for chunk in _chunks(list(group), batch):
            for index, row in zip(chunk, _score_batch(reader, tokenizer.pad_token_id, [encoded[i] for i in chunk]), strict=True):
                scores[index] = row
    if a_token:
        return [[math.exp(s / len(ids)) for s, ids in zip(row, rest, strict=True)] for row, (_, rest) in zip(scores, encoded, strict=True)]
    return scores


def write_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Messages], *, max_new_tokens: int, batch: int, stop_lines: int | None
) -> list[str]:
    """Return greedy answers; a finished row leaves its batch.

    Args:
        model: the causal language model.
        tokenizer: its tokenizer.
        prompts: conversations.
        max_new_tokens: largest length of an answer.
        batch: prompts in a batch.
        stop_lines: number of lines after which an answer is cut; None for whole answers.
    """
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # similar lengths share a batch, for little padding
    answers = [""] * len(texts)
    reader, ends = make_reader(model), end_tokens(model, tokenizer)
    for chunk in _chunks(order, batch):
        written = _generate(reader, tokenizer, [texts[i] for i in chunk], ends=ends, max_new_tokens=max_new_tokens, stop_lines=stop_lines)
        for index, text in zip(chunk, written, strict=True):
            answers[index] = text
    return answers


@dataclass(frozen=True)
class Reader:
    """A causal model in two steps: hidden states and cache of all positions, then logits of selected positions."""

    states: Callable[..., tuple[Any, Any]]
    """Takes the model's inputs and returns (states, cache)."""
    logits: Callable[[Any], Any]
    device: Any


def make_reader(model: Any) -> Reader:
    """Return the two steps of a model, compared with its own logits; a family that differs is read whole, which is slower.

    If only the last position's logits are requested, transformers multiplies a strided slice, for which torch copies the head's weights
    once per row of the batch; that was a quarter of the time.
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
    # Eight tokens are enough: scaling and softcapping change every logit.
    probe = torch.arange(1, 9, device=model.device)[None] % config.vocab_size
    with torch.inference_mode():
        ours, own = logits(states(input_ids=probe, use_cache=False)[0]), inner(input_ids=probe, use_cache=False).logits.float()
    if torch.allclose(ours, own, rtol=0.02, atol=0.02 * float(own.abs().max())):
        return Reader(states, logits, model.device)
    return Reader(whole, lambda values: values, model.device)


def logit_scale(config: Any) -> float:
    """Return the factor that a family applies to its logits before softcapping; 1 for most."""
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
    """Return the greedy answers of one batch of rendered prompts."""
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
                # Decoding all tokens again is exact; one token alone may be a part of a character.
                if stop_lines is not None and tokenizer.decode(written[index]).count("\n") >= stop_lines:
                    done.add(index)
            if len(done) == len(texts):
                break
            if drops:
                # Finished rows leave the batch, so the longest answer does not cost all of them.
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


def _encode(tokenizer: Any, prompt: Messages, rivals: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Return the tokens of the prompt and of each rival after it."""
    head = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    conversation = [[*prompt, {"role": "assistant", "content": text}] for text in rivals]
    whole = [
        head + text if text.endswith("\n") else tokenizer.apply_chat_template(messages, tokenize=False)
        for text, messages in zip(rivals, conversation, strict=True)
    ]
    ids = tokenizer([head, *whole], add_special_tokens=False)["input_ids"]
    # Tokens may merge across the boundary; the completion starts where the sequences differ, as in training.
    cut = min(common_prefix(ids[0], row) for row in ids[1:])
    return ids[0][:cut], [row[cut:] for row in ids[1:]]


def _score_batch(reader: Reader, pad: int, rows: list[tuple[list[int], list[list[int]]]]) -> list[list[float]]:
    """Return the log-probabilities of one batch of (prompt, rivals), each prompt with an equal number of rivals."""
    import torch

    rivals, device = len(rows[0][1]), reader.device
    # The last prompt token is read with the rivals: its output is the distribution of their first token.
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
    """Return whether every layer of a cache has a method: recurrent layers (Qwen 3.5's linear attention) cannot repeat or drop rows."""
    return all(hasattr(layer, method) for layer in cache.layers)


def _sum_log_probability(logits: Any, ids: list[int]) -> float:
    """Return the log-probability of the tokens after the first; row by row, so that padding and a batch's logits cost nothing."""
    import torch

    scores = torch.log_softmax(logits.float(), dim=-1)
    target = torch.tensor(ids[1:], device=logits.device)
    return float(scores.gather(1, target[:, None]).sum())


def _pad(rows: list[list[int]], pad: int, *, left: bool, device: Any) -> tuple[Any, Any]:
    """Return rows of tokens as a rectangle, and its attention mask."""
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
