"""The stand-in as teacher for a project without a code table: it writes about the words of any brief, or the values of any row. The text is
made up and says little; it is there so that every stage can be tried before a key is bought.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from curation.simulation import vocabulary
from curation.simulation.coding_writer import Written
from curation.simulation.paraphrase import Reworder, slip
from curation.simulation.request_parser import Asked, format_fields

_STOP = frozenset(
    [
        "about",
        "above",
        "after",
        "again",
        "their",
        "there",
        "these",
        "those",
        "which",
        "while",
        "where",
        "would",
        "could",
        "should",
        "other",
        "answer",
        "answers",
        "question",
        "questions",
        "write",
        "given",
        "assign",
        "every",
        "from",
        "have",
        "into",
        "more",
        "most",
        "must",
        "only",
        "over",
        "same",
        "some",
        "such",
        "than",
        "that",
        "them",
        "then",
        "they",
        "this",
        "through",
        "under",
        "very",
        "what",
        "when",
        "with",
        "your",
        "short",
        "sentence",
        "sentences",
        "should",
        "model",
        "user",
        "users",
        "people",
        "being",
        "does",
        "doing",
        "each",
        "make",
        "makes",
        "made",
        "many",
        "much",
        "using",
        "used",
    ]
)
_QUESTIONS = (
    "How does {a} change when {b} is involved?",
    "What should I know about {a} before I deal with {b}?",
    "Can you compare {a} and {b} for me?",
    "Why does {a} matter so much for {b}?",
    "Which mistake with {a} do people make most often, and does {b} play a part?",
    "I have a problem with {a}, and {b} made it worse. Where do I start?",
    "Please explain {a} in plain words and give one example with {b}.",
    "When is {a} the better choice, and when is {b}?",
    "My colleague says {a} is enough without {b}. Is that so?",
    "List what I need for {a}; I already have {b}.",
    "Is there a quick test that tells {a} from {b}?",
    "What happens to {b} if I leave {a} for a week?",
    "Who decides on {a} where {b} is shared?",
    "Rewrite this so that a newcomer follows it: {a} depends on {b}.",
)
_OPENINGS = (
    "Start with {a}.",
    "The short answer is that {a} comes first.",
    "It depends on {b} more than on {a}.",
    "Both matter, but not at the same time.",
    "Look at {a} on its own before anything else.",
    "Most trouble with {a} begins with {b}.",
    "In general {a} sets the limits.",
    "Treat {a} and {b} as two separate tasks.",
)
_MIDDLES = (
    "Write down what you see, change one thing, and look again after a day.",
    "Once {a} is settled, {b} usually needs only a small adjustment.",
    "A small trial tells you more about {b} than any table.",
    "Keep {b} steady while you work on {a}, or you will not know which one helped.",
    "If {b} gets worse, go one step back and take half as much.",
    "Ask someone who sees {a} every day to look over your notes.",
    "Check {b} twice: first by eye, then by measure.",
    "Where they conflict, give way on {b}, since {a} is harder to repair.",
)
_ENDINGS = (
    "That is enough for a first attempt.",
    "Leave the rest for later.",
    "You will notice the difference within a week.",
    "If in doubt, do less.",
    "After that {a} looks after itself.",
    "Note the date, so that you can compare.",
)
_CONDITIONS = (
    "It has to work without {b}.",
    "Assume that {a} has already failed once.",
    "Give the reason for each step, and say where {b} changes it.",
    "There is only half the usual time, and {b} cannot be moved.",
    "Compare it with the case in which {a} comes last.",
)
_DEFECTS = (
    "Once {a} is settled, {b} can be ignored for good.",
    "Change {a} and {b} together, so that you save a step.",
    "There is no need to look again afterwards.",
    "If {b} gets worse, carry on and take twice as much.",
    "Skip the trial, since {b} never differs from case to case.",
    "Trust the first reading of {b}, for a second one only confuses.",
)


@dataclass(frozen=True)
class OpenWriter:
    """Writes about any brief. What it writes depends on the seed and the request alone."""

    reworder: Reworder
    seed: int

    def instruction(self, asked: Asked, flaw: str | None) -> Written:
        """One example about two words of the brief, with the flaw asked for where it can be had."""
        random_ = random.Random(f"{self.seed}:{asked.sha}")
        seeds = [s for s in asked.part("worked_examples", []) if isinstance(s, dict) and s.get("output")]
        copies = flaw in ("exact_copy", "light_edit", "paraphrase") and seeds
        if flaw and copies and (copied := self._copy_seed(random_.choice(seeds), flaw, random_)):
            return copied
        a, b = _two_things(asked, random_)
        if flaw == "off_brief":
            question, answer = random_.choice(vocabulary.OFF_BRIEF)
            return Written(_example(asked, question, answer), {"how": "another subject"}, flaw)
        question = random_.choice(_QUESTIONS).format(a=a, b=b)
        return Written(_example(asked, question, _answer(asked, a, b, random_)), {"about": [a, b]}, None)

    def pair(self, asked: Asked, flaw: str | None) -> Written:
        """One pair whose worse answer gives one piece of bad advice; with `wrong_sibling` the two change places."""
        random_ = random.Random(f"{self.seed}:{asked.sha}")
        a, b = _two_things(asked, random_)
        question = random_.choice(_QUESTIONS).format(a=a, b=b)
        better = _answer(asked, a, b, random_)
        middle = max((part.removeprefix("- ") for part in re.split(r"(?<=[.])[ \n]", better)), key=len)
        defect = min((d.format(a=a, b=b) for d in random_.sample(_DEFECTS, 3)), key=lambda d: abs(len(d) - len(middle)))
        worse = better.replace(middle, defect, 1)
        if worse == better:
            worse = f"{better} {defect}"
        if flaw == "wrong_sibling":
            better, worse = worse, better
        return Written({"input": question, "better": better, "worse": worse}, {"about": [a, b], "defect": defect}, flaw)

    def grow(self, asked: Asked, flaw: str | None) -> Written:
        """An example that grows from another: the same question with a condition more, or a question about something else."""
        parent, random_ = asked.part("existing_example", {}), random.Random(f"{self.seed}:{asked.sha}")
        if parent.get("how") == "broader" or flaw:
            return self.instruction(asked, flaw)
        a, b = _two_things(asked, random_)
        question = f"{str(parent.get('prompt', '')).strip()} {random_.choice(_CONDITIONS).format(a=a, b=b)}"
        return Written(
            _example(asked, question, _answer(asked, a, b, random_)), {"about": [a, b], "grown_from": parent.get("prompt")}, None
        )

    def answer(self, asked: Asked) -> str:
        """One more answer to a question; in every other approach it holds a piece of bad advice."""
        random_ = random.Random(f"{self.seed}:{asked.sha}")
        told = f"{asked.part('asked', '')}"
        words = [w.lower() for w in re.findall(r"[A-Za-z][A-Za-z-]{4,}", told) if w.lower() not in _STOP] or ["the matter"]
        a, b = random_.choice(words), random_.choice(words)
        said = _answer(asked, a, b, random_)
        return f"{said} {random_.choice(_DEFECTS).format(a=a, b=b)}" if random_.random() < 0.5 else said

    def small_turns(self, asked: Asked, random_: random.Random, count: int) -> list[dict[str, str]]:
        """Earlier turns of a conversation."""
        turns = []
        for _ in range(count):
            a, b = _two_things(asked, random_)
            question = random_.choice(_QUESTIONS).format(a=a, b=b)
            turns.append({"user": question, "assistant": f"{random_.choice(_OPENINGS)} {random_.choice(_MIDDLES)}".format(a=a, b=b)})
        return turns

    def _copy_seed(self, seed: dict[str, Any], flaw: str, random_: random.Random) -> Written | None:
        fields = {name: str(seed.get(name) or "") for name in ("instruction", "input", "output")}
        asked_in = "input" if fields["input"] else "instruction"
        if flaw == "light_edit":
            fields[asked_in] = slip(fields[asked_in], random_)
        elif flaw == "paraphrase":
            reworded = self.reworder.reword(fields[asked_in], random_=random_)
            if reworded is None:
                return None
            fields[asked_in] = reworded
        return Written(fields, {"seed": seed.get("input") or seed.get("instruction")}, flaw)


def _two_things(asked: Asked, random_: random.Random) -> tuple[str, str]:
    """What the example is about: values of the row and words of the brief, taken by the request's number so that they vary."""
    words = [w for w in re.findall(r"[A-Za-z][A-Za-z-]{3,}", asked.brief) if w.lower() not in _STOP]
    words = list(dict.fromkeys(w.lower() for w in words)) or ["the task", "the result"]
    row, passage, about = asked.part("row"), asked.part("passage"), asked.part("about")
    values = [str(v) for v in row.values() if isinstance(v, str | int | float) and str(v).strip()] if isinstance(row, dict) else []
    told = [w.lower() for w in re.findall(r"[A-Za-z][A-Za-z-]{4,}", passage) if w.lower() not in _STOP] if isinstance(passage, str) else []
    first = values[-1] if values else random_.choice(told) if told else str(about) if about else random_.choice(words)
    second = random_.choice([w for w in words if w != first] or ["the rest"])
    detail = random_.choice(("", "", "early ", "late ", "repeated ", "unexpected ", "small-scale ", "first-time ", "seasonal ", "shared "))
    return first, f"{detail}{second}"


def _answer(asked: Asked, a: str, b: str, random_: random.Random) -> str:
    fields = format_fields(asked.output_format)
    sentences = [random_.choice(_OPENINGS), *random_.sample(_MIDDLES, 2), random_.choice(_ENDINGS)]
    said = [s.format(a=a, b=b) for s in sentences]
    if fields:
        return "\n".join(f"{name.capitalize()}: {said[i % len(said)]}" for i, name in enumerate(fields))
    if "list" in " ".join(map(str, asked.part("attributes", {}).values())):
        return "\n".join(f"- {s}" for s in said)
    return " ".join(said)


def _example(asked: Asked, question: str, answer: str) -> dict[str, str]:
    if asked.standing is not None:
        return {"instruction": asked.standing, "input": question, "output": answer}
    return {"instruction": question, "input": "", "output": answer}
