"""Chat with a run's adapter and its base model at the same time: `train chat`.

The model is loaded once, and the base model's answer is computed with the adapter switched off. Both answers grow token by token in two
columns, and each model continues its own conversation. An answer ends at the tokens that the training taught (`chat.end_tokens`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from argilla_setup.shown import visible
from training.adapter import ADAPTER
from training.callbacks import Say
from training.chat import end_tokens, merge_system
from training.config import Quantization, RunFile
from training.errors import TrainingError
from training.model import load_for_inference, load_tokenizer
from training.release import verify_adapter
from training.run_folder import require_finished

TUNED, BASE = "tuned", "base"
HELP = """/reset         forget the conversation
/system TEXT   set the system message and forget the conversation; without TEXT show it
/help          show this
/quit          end (also Ctrl-D); Ctrl-C stops an answer"""


@dataclass
class ChatSession:
    """A loaded model and the conversations with it."""

    model: Any
    tokenizer: Any
    system: str | None
    """System message; by default that of the training rows."""
    merges_system: bool
    """Whether the system message is put in front of the first question, as in the training."""
    sides: tuple[str, ...]
    most: int
    """Tokens of an answer."""
    temperature: float
    """0 takes the most likely token, as `train eval` does."""
    title: str
    turns: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The conversation of each side, without the system message."""

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns = {side: [] for side in self.sides}

    def ask(self, question: str) -> Iterator[Mapping[str, str]]:
        """Yield the answers of all sides as they grow; the last ones are kept in the conversation.

        Raises:
            TrainingError: the conversation is longer than the model's context, or its template refuses it.
        """
        asked = {"role": "user", "content": question}
        streams = {side: self._write([*self.turns[side], asked], adapter=side == TUNED) for side in self.sides}
        texts, open_sides = dict.fromkeys(self.sides, ""), list(self.sides)
        try:
            while open_sides:
                for side in list(open_sides):  # in turns, so that both columns grow together
                    try:
                        texts[side] = next(streams[side])
                    except StopIteration:
                        open_sides.remove(side)
                yield texts
        finally:  # also when Ctrl-C stops an answer
            if any(texts.values()):
                for side in self.sides:
                    self.turns[side] += [asked, {"role": "assistant", "content": texts[side]}]

    def _write(self, turns: Sequence[Mapping[str, str]], *, adapter: bool) -> Iterator[str]:
        """Yield the answer to a conversation as it grows."""
        import torch
        from jinja2 import TemplateError

        messages = [*([{"role": "system", "content": self.system}] if self.system else []), *turns]
        try:
            text = self.tokenizer.apply_chat_template(
                merge_system(messages) if self.merges_system else messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise TrainingError("chat template", f"refuses this conversation ({error})", "/reset, or /system without a text") from error
        prompt = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        context = self.model.config.get_text_config().max_position_embeddings
        if len(prompt) >= context:
            raise TrainingError("conversation", f"has {len(prompt)} tokens and the model reads {context}", "/reset")
        ends, written = end_tokens(self.model, self.tokenizer), []
        inputs, cache = torch.tensor([prompt], device=self.model.device), None
        for _ in range(min(self.most, context - len(prompt))):
            # Neither context may stay open between two tokens: the other side computes in between.
            with torch.inference_mode(), contextlib.nullcontext() if adapter else self.model.disable_adapter():
                read = self.model(input_ids=inputs, cache=cache, use_cache=True, logits_to_keep=1)
            logits, cache = read.logits[0, -1].float(), read.cache
            if self.temperature:
                token = int(torch.multinomial(torch.softmax(logits / self.temperature, dim=-1), 1))
            else:
                token = int(logits.argmax())
            if token in ends:
                return
            written.append(token)
            inputs = torch.tensor([[token]], device=self.model.device)
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            # A character of several bytes can be spread over tokens.
            yield text.removesuffix("\ufffd")


def open_chat(
    run: RunFile, *, system: str | None = None, base: bool = True, most: int = 256, temperature: float = 0.0, say: Say = print
) -> ChatSession:
    """Verify a run's adapter and load it for a chat.

    Args:
        run: the finished run.
        system: system message; None takes that of the training rows, an empty text none.
        base: also ask the base model.
        most: tokens of an answer.
        temperature: 0 takes the most likely token.
        say: prints progress.

    Raises:
        TrainingError: the run is not finished, or base model, adapter or a snapshot was changed.
        SnapshotError: a snapshot behind the adapter was revoked or is not validly signed.
    """
    import torch

    done = require_finished(run)
    sources = verify_adapter(run, done)
    if run.threads:
        torch.set_num_threads(run.threads)
    say(f"Loading {done.base.id} with adapter {done.adapter_digest[:12]}")
    session = ChatSession(
        model=load_for_inference(run.base_model, Quantization(kind="none"), adapter=run.output / ADAPTER),
        tokenizer=load_tokenizer(run.base_model, run.chat_template_kwargs),
        system=sources[-1].first_system() if system is None else system or None,
        merges_system=run.system == "merge",
        sides=(TUNED, BASE) if base else (TUNED,),
        most=most,
        temperature=temperature,
        title=f"{done.base.id} with {done.kind} adapter {done.adapter_digest[:12]}, use: {done.use}",
    )
    session.reset()
    return session


def run_chat(session: ChatSession, *, read: Callable[[], str], show: Callable[[str], None], columns: bool) -> None:
    """Answer questions until the input ends.

    Args:
        session: the loaded model.
        read: returns a line of input; raises EOFError at the end.
        show: prints a text.
        columns: draw growing columns on a terminal; without, each answer is printed when it is complete.
    """
    show(f"{session.title}\n{_describe_system(session)}\n/help lists the commands.")
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            return
        name, _, rest = line.partition(" ")
        if not line:
            continue
        if name in ("/quit", "/exit"):
            return
        if name == "/reset":
            session.reset()
            show("The conversation was reset.")
        elif name == "/system":
            if rest.strip():
                session.system = rest.strip()
                session.reset()
            show(_describe_system(session))
        elif name.startswith("/"):
            show(HELP if name == "/help" else f"{name}: is not a command.\n{HELP}")
        else:
            try:
                draw_columns(session, line) if columns else print_answers(session, line, show)
            except TrainingError as error:
                show(str(error))
            except KeyboardInterrupt:
                show("Stopped.")


def print_answers(session: ChatSession, question: str, show: Callable[[str], None]) -> None:
    """Print each side's complete answer."""
    *_, texts = [{}, *session.ask(question)]
    for side in session.sides:
        show(f"{side}: {texts.get(side, '')}")


def draw_columns(session: ChatSession, question: str) -> None:
    """Draw the answers on the terminal while they grow, one column a side."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def table(texts: Mapping[str, str]) -> Table:
        drawn = Table(*session.sides, expand=True, box=None, padding=(0, 2, 0, 0))
        # Text and not a string: what a model writes must not be read as rich's markup.
        drawn.add_row(*(Text(visible(texts.get(side, ""))) for side in session.sides))
        return drawn

    with Live(table({}), console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
        for texts in session.ask(question):
            live.update(table(texts), refresh=True)


def _describe_system(session: ChatSession) -> str:
    return f"System message: {session.system}" if session.system else "No system message."
