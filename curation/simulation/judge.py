"""The stand-in as judge. It sees the request's text and the table, compares, and is sometimes wrong: it overlooks, is harsh for no reason,
and on a share of pairs prefers whichever answer stands first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from curation.simulation.code_table import Codes, squeezed
from curation.simulation.defects import chance, fraction
from curation.simulation.request_parser import Asked, answer_fields, format_fields

OVERLOOKS, HARSH, FLIPS, MISTAKEN = 0.06, 0.003, 0.012, 0.004
"""How often the judge misses a defect, marks down a sound row, follows the order of a pair, or prefers the wrong answer in both orders."""

RECKLESS = re.compile(r"for good|so that you save|no need to|twice as much|never differs|only confuses|skip the", re.IGNORECASE)
"""Turns of phrase by which careless advice is told where there is no table to hold an answer against."""


@dataclass(frozen=True)
class Judge:
    """Scores examples and compares pairs by seed and request alone."""

    codes: Codes
    seed: int

    def scores(self, asked: Asked) -> dict[str, Any]:
        """A score and a rationale for each criterion of the rubric, and an overall score."""
        example = asked.part("example", {})
        prompt, answer = _prompt(example), str(example.get("answer", ""))
        truth = self._accuracy(prompt, answer, asked)
        form, said = self._form(answer, asked)
        if form < 3 and chance(OVERLOOKS, self.seed, asked.sha, "form"):
            form, said, truth = 5, "It looks as the brief asks.", (4, truth[1])
        scores = {name: self._criterion(name, truth, (form, said), answer, asked) for name in asked.part("rubric", {})}
        mean = sum(s["score"] for s in scores.values()) / max(1, len(scores))
        overall = round(mean) if not chance(0.04, self.seed, asked.sha, "overall") else 5 if mean < 3 else 2
        more = {"difficulty": self._difficulty(prompt, asked)} if "difficulty" in (asked.schema or {}).get("properties", {}) else {}
        return {"scores": scores, "overall": min(5, max(1, overall)), **more}

    def _difficulty(self, prompt: str, asked: Asked) -> int:
        """1 to 5: longer prompts are taken for harder ones, with some noise; no opinion worth anything."""
        return min(5, max(1, round(len(prompt.split()) / 8 + 2.5 * fraction(self.seed, asked.sha, "difficulty"))))

    def choice(self, asked: Asked) -> dict[str, str]:
        """Which of two answers is better."""
        prompt = "\n".join(t.get("content", "") for t in asked.part("prompt", []) if t.get("role") == "user")
        a, b = str(asked.part("answer_a", "")), str(asked.part("answer_b", ""))
        both = sorted((a, b))
        if chance(FLIPS, self.seed, prompt, *both, "flips"):
            return {"rationale": "The first answer reads more convincingly.", "winner": "A"}
        worth = {text: self._accuracy(prompt, text, asked, noisy=False)[0] + min(2, len(answer_fields(text)) / 2) for text in both}
        if worth[both[0]] == worth[both[1]]:
            worth[both[int(chance(0.5, self.seed, prompt, *both))]] += 0.1
        winner = max(both, key=lambda text: worth[text])
        if chance(MISTAKEN, self.seed, prompt, *both, "mistaken"):
            winner = min(both, key=lambda text: worth[text])
        letter = "A" if winner == a else "B"
        code = answer_fields(winner).get("code")
        return {
            "rationale": f"Answer {letter} {f'gives {code}, which fits the wording' if code else 'answers the question better'}.",
            "winner": letter,
        }

    def _criterion(self, name: str, truth: tuple[int, str], form: tuple[int, str], answer: str, asked: Asked) -> dict[str, Any]:
        """One criterion, told apart by its name: what is true, what fits the form, and the rest from both."""
        if re.search(r"accura|correct|true|fact", name):
            score, why = truth
        elif re.search(r"brief|format|follow|fit", name):
            score, why = form
        elif re.search(r"clar|style|read|fluen", name):
            score = 5 if len(answer) < 600 and form[0] > 2 else 3
            why = "It is short and easy to read." if score == 5 else "It does not read like the answers asked for."
        else:
            score = min(truth[0], form[0]) if min(truth[0], form[0]) > 2 else min(2, truth[0])
            why = "A learner gains from it." if score > 3 else "It would teach something wrong."
        noise = fraction(self.seed, asked.sha, name)
        score += (noise > 0.96) - (noise < 0.22)
        if chance(HARSH, self.seed, asked.sha, "harsh"):
            score -= 2
        return {"rationale": why, "score": min(5, max(1, score))}

    def _accuracy(self, prompt: str, answer: str, asked: Asked, *, noisy: bool = True) -> tuple[int, str]:
        """1 to 5 for what is true, by the reference and the table."""
        fields, reference = answer_fields(answer), asked.part("reference") or {}
        if noisy and chance(OVERLOOKS, self.seed, asked.sha, "truth"):
            return 5, "Everything stated seems right."
        code = fields.get("code")
        if code is None:
            return (
                (1, "It names no code.")
                if reference.get("code") or "code" in format_fields(asked.output_format)
                else self._open(prompt, answer)
            )
        row = self.codes.rows.get(code)
        if reference.get("code") and code != reference["code"]:
            return 1, f"The reference is {reference['code']}, the answer says {code}."
        if self.codes.rows and (row is None or not row["billable"]):
            return 1, f"{code} is no billable code."
        known = reference or row or {}
        for name in ("description", "chapter"):
            if name in fields and known.get(name) and squeezed(fields[name]) != squeezed(str(known[name])):
                return 2, f"The {name} of {code} is “{known[name]}”."
        if not self._means(prompt, code, known):
            return 4, f"The text could be plainer about {code}."
        return 5, f"{code} is what the text describes."

    def _means(self, prompt: str, code: str, known: dict[str, Any]) -> bool:
        """Whether the text shares words with a name of the code."""
        said = {word[:5] for word in squeezed(prompt).split()}
        names = [*self.codes.names(code), str(known.get("description", "")), *known.get("terms", ())]
        return any(len({w[:5] for w in squeezed(n).split()} & said) >= max(1, len(n.split()) // 3) for n in names if n)

    def _open(self, prompt: str, answer: str) -> tuple[int, str]:
        if reckless := RECKLESS.search(answer):
            return 2, f"“{reckless[0]}” is careless advice."
        shared = set(squeezed(prompt).split()) & set(squeezed(answer).split())
        return (5, "It answers what was asked.") if any(len(w) > 4 for w in shared) else (3, "It hardly touches what was asked.")

    def _form(self, answer: str, asked: Asked) -> tuple[int, str]:
        wanted, lines = format_fields(asked.output_format), [line for line in answer.splitlines() if line.strip()]
        if not wanted:
            shared = set(squeezed(asked.brief).split()) & set(squeezed(f"{_prompt(asked.part('example', {}))} {answer}").split())
            return (5, "It is within the brief.") if any(len(w) > 4 for w in shared) else (1, "It has nothing to do with the brief.")
        if list(answer_fields(answer)) != wanted:
            return 1, f"The answer is not in the format {', '.join(wanted)}."
        return (5, "All lines of the format are there.") if len(lines) == len(wanted) else (3, "There are lines beside the format.")


def _prompt(example: dict[str, Any]) -> str:
    return "\n".join(turn.get("content", "") for turn in example.get("prompt", []) if turn.get("role") == "user")


SURE, DOUBTFUL = 0.6, 0.4
"""Share of the protected text's content words that the row must carry to be called the same, or to be called unclear."""

LONGEST = 14
"""Words of the longest name that is looked for in a row."""

MISTAKEN_LEAK_JUDGE = 0.03
"""How often the judge says the opposite of what it sees."""

SMALL = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "due",
        "for",
        "from",
        "in",
        "into",
        "is",
        "it",
        "nos",
        "of",
        "on",
        "or",
        "other",
        "the",
        "to",
        "unspecified",
        "with",
        "his",
        "her",
        "their",
        "was",
    ]
)

RIVALS = (
    {"first", "second", "third", "fourth", "1", "2", "3", "4", "i", "ii", "iii", "iv"},
    {"left", "right", "bilateral", "unilateral"},
    {"acute", "chronic", "subacute"},
    {"upper", "lower"},
    {"initial", "subsequent", "sequela"},
    {"with", "without"},
)
"""Words of which one excludes the others: a single one of them may make it another thing."""


@dataclass(frozen=True)
class LeakJudge:
    """Compares a row with a protected item by seed and request alone."""

    codes: Codes
    seed: int

    def answer(self, asked: Asked) -> dict[str, str]:
        """Whether the two say the same: yes, no or unsure, with the words it rests on."""
        row, item = texts_of(asked)
        same, why = self._compare(row, item)
        if same != "unsure" and chance(MISTAKEN_LEAK_JUDGE, self.seed, asked.sha, "leak"):
            same = "no" if same == "yes" else "yes"
        return {"rationale": why, "same": same}

    def _compare(self, row: str, item: str) -> tuple[str, str]:
        ours, theirs = squeezed(row), squeezed(item)
        if not theirs:
            return "unsure", "There is nothing to compare."
        if f" {theirs} " in f" {ours} ":
            return "yes", "The text stands in the row as it is."
        if other := self._other_name(ours, theirs):
            return "no", f"The row says “{other}”, which is a name of its own."
        if rival := _rivals(ours, theirs):
            return "no", f"One says {rival[0]}, the other {rival[1]}."
        wanted = _stems(theirs)
        shared = wanted & _stems(ours)
        share = len(shared) / len(wanted) if wanted else 0.0
        said = ", ".join(sorted(shared)) or "nothing"
        verdict = "yes" if share >= SURE else "unsure" if share >= DOUBTFUL else "no"
        return verdict, f"They share {said}: {share:.0%} of the words that matter."

    def _other_name(self, ours: str, theirs: str) -> str | None:
        """The longest official name in the row, word for word, of about the protected text's length or more and not that text."""
        words, least = ours.split(), max(2, round(0.8 * len(theirs.split())))
        spans = (" ".join(words[i : i + n]) for n in range(min(LONGEST, len(words)), least - 1, -1) for i in range(len(words) - n + 1))
        return next((span for span in spans if span != theirs and self.codes.called(span)), None)


def texts_of(asked: Asked) -> tuple[str, str]:
    """The row and the protected item of a request: the tagged part whose name speaks of what is protected, and the other one."""
    parts = {name: _text(value) for name, value in asked.parts.items() if name not in ("rubric", "brief", "output_format")}
    item = next((name for name in parts if re.search(r"protect|item|eval|held", name)), None)
    rows = [name for name in parts if name != item]
    row = next((name for name in rows if re.search(r"row|train|example|text|candidate", name)), rows[0] if rows else None)
    return parts.get(row or "", ""), parts.get(item or "", "")


def _text(value: Any) -> str:
    """All texts of a part, whatever its shape."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(map(_text, value.values()))
    return "\n".join(map(_text, value)) if isinstance(value, list) else ""


def _stems(text: str) -> set[str]:
    return {word[:5] for word in text.split() if word not in SMALL}


def _rivals(ours: str, theirs: str) -> tuple[str, str] | None:
    """A pair of words that exclude each other, one in each text and neither in both."""
    here, there = set(ours.split()), set(theirs.split())
    for group in RIVALS:
        a, b = here & group, there & group
        if a and b and not a & b:
            return min(a), min(b)
    return None
