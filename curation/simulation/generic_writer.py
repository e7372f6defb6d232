"""Mock teacher for projects without a code table: examples about words of the brief or values of a row.

The text is made up and says little; it lets people try every stage without an API key.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from curation.simulation.coding_writer import Example
from curation.simulation.defects import COPIES
from curation.simulation.paraphrase import Paraphraser, misspell
from curation.simulation.request_parser import ParsedRequest, format_fields
from curation.simulation.vocabulary import VOCABULARY

_DETAILS = ("", "", "early ", "late ", "repeated ", "unexpected ", "small-scale ", "first-time ", "seasonal ", "shared ")


@dataclass(frozen=True)
class GenericWriter:
    """Writer of examples for any brief. The output depends on the seed and the request alone."""

    paraphraser: Paraphraser
    seed: int

    def instruction(self, request: ParsedRequest, defect: str | None) -> Example:
        """Write an example about two topics, with the defect where it is possible."""
        rng = random.Random(f"{self.seed}:{request.sha}")
        seeds = [s for s in request.part("worked_examples", []) if isinstance(s, dict) and s.get("output")]
        if defect in COPIES and seeds and (copied := self._copy_seed(rng.choice(seeds), defect, rng)):
            return copied
        a, b = _choose_topics(request, rng)
        if defect == "off_brief":
            question, answer = rng.choice(VOCABULARY.off_brief)
            return Example(_fields(request, question, answer), {"how": "another subject"}, defect)
        question = rng.choice(VOCABULARY.questions).format(a=a, b=b)
        return Example(_fields(request, question, _answer(request, a, b, rng)), {"about": [a, b]})

    def pair(self, request: ParsedRequest, defect: str | None) -> Example:
        """Write a pair whose worse answer has one sentence of bad advice. `wrong_sibling` exchanges the two."""
        rng = random.Random(f"{self.seed}:{request.sha}")
        a, b = _choose_topics(request, rng)
        question = rng.choice(VOCABULARY.questions).format(a=a, b=b)
        better = _answer(request, a, b, rng)
        longest = max((part.removeprefix("- ") for part in re.split(r"(?<=[.])[ \n]", better)), key=len)
        advice = min((s.format(a=a, b=b) for s in rng.sample(VOCABULARY.bad_advice, 3)), key=lambda s: abs(len(s) - len(longest)))
        worse = better.replace(longest, advice, 1)
        if worse == better:
            worse = f"{better} {advice}"
        if defect == "wrong_sibling":
            better, worse = worse, better
        return Example({"input": question, "better": better, "worse": worse}, {"about": [a, b], "defect": advice}, defect)

    def evolve(self, request: ParsedRequest, defect: str | None) -> Example:
        """Write an example from an existing one: the same question with one more condition, or a new question."""
        parent, rng = request.part("existing_example", {}), random.Random(f"{self.seed}:{request.sha}")
        if parent.get("how") == "broader" or defect:
            return self.instruction(request, defect)
        a, b = _choose_topics(request, rng)
        question = f"{str(parent.get('prompt', '')).strip()} {rng.choice(VOCABULARY.conditions).format(a=a, b=b)}"
        source = {"about": [a, b], "grown_from": parent.get("prompt")}
        return Example(_fields(request, question, _answer(request, a, b, rng)), source)

    def answer(self, request: ParsedRequest) -> str:
        """Write one more answer to a question; half of them end with bad advice."""
        rng = random.Random(f"{self.seed}:{request.sha}")
        words = _topic_words(str(request.part("asked", "")), 5) or ["the matter"]
        a, b = rng.choice(words), rng.choice(words)
        answer = _answer(request, a, b, rng)
        return f"{answer} {rng.choice(VOCABULARY.bad_advice).format(a=a, b=b)}" if rng.random() < 0.5 else answer

    def earlier_turns(self, request: ParsedRequest, rng: random.Random, count: int) -> list[dict[str, str]]:
        """Write the first turns of a conversation.

        Args:
            request: request of the conversation.
            rng: source of the draws.
            count: number of turns.
        """
        turns = []
        for _ in range(count):
            a, b = _choose_topics(request, rng)
            question = rng.choice(VOCABULARY.questions).format(a=a, b=b)
            answer = f"{rng.choice(VOCABULARY.openings)} {rng.choice(VOCABULARY.middles)}".format(a=a, b=b)
            turns.append({"user": question, "assistant": answer})
        return turns

    def _copy_seed(self, seed: dict[str, Any], defect: str, rng: random.Random) -> Example | None:
        fields = {name: str(seed.get(name) or "") for name in ("instruction", "input", "output")}
        question = "input" if fields["input"] else "instruction"
        if defect == "light_edit":
            fields[question] = misspell(fields[question], rng)
        elif defect == "paraphrase":
            paraphrase = self.paraphraser.paraphrase(fields[question], rng=rng)
            if paraphrase is None:
                return None
            fields[question] = paraphrase
        return Example(fields, {"seed": seed.get("input") or seed.get("instruction")}, defect)


def _topic_words(text: str, least: int) -> list[str]:
    """Return the words of at least so many letters that can be a topic, in lower case."""
    return [w.lower() for w in re.findall(rf"[A-Za-z][A-Za-z-]{{{least - 1},}}", text) if w.lower() not in VOCABULARY.topic_stop_words]


def _choose_topics(request: ParsedRequest, rng: random.Random) -> tuple[str, str]:
    """Choose two topics: a value of the row, a word of the passage or the given topic first, then words of the brief."""
    words = list(dict.fromkeys(_topic_words(request.brief, 4))) or ["the task", "the result"]
    row, passage, about = request.part("row"), request.part("passage"), request.part("about")
    values = [str(v) for v in row.values() if isinstance(v, str | int | float) and str(v).strip()] if isinstance(row, dict) else []
    in_passage = _topic_words(passage, 5) if isinstance(passage, str) else []
    first = values[-1] if values else rng.choice(in_passage) if in_passage else str(about) if about else rng.choice(words)
    second = rng.choice([w for w in words if w != first] or ["the rest"])
    return first, f"{rng.choice(_DETAILS)}{second}"


def _answer(request: ParsedRequest, a: str, b: str, rng: random.Random) -> str:
    """Write four sentences in the output format of the request, as a list, or as a paragraph."""
    templates = [rng.choice(VOCABULARY.openings), *rng.sample(VOCABULARY.middles, 2), rng.choice(VOCABULARY.endings)]
    sentences = [template.format(a=a, b=b) for template in templates]
    if fields := format_fields(request.output_format):
        return "\n".join(f"{name.capitalize()}: {sentences[i % len(sentences)]}" for i, name in enumerate(fields))
    if "list" in " ".join(map(str, request.part("attributes", {}).values())):
        return "\n".join(f"- {s}" for s in sentences)
    return " ".join(sentences)


def _fields(request: ParsedRequest, question: str, answer: str) -> dict[str, str]:
    if request.system is not None:
        return {"instruction": request.system, "input": question, "output": answer}
    return {"instruction": question, "input": "", "output": answer}
