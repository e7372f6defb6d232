"""`train chat`: both sides answer as they are measured, keep their own conversations, and obey the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.training_samples import SYSTEM, phrase
from training.chat_session import BASE, TUNED, ChatSession, open_chat, run_chat
from training.errors import TrainingError
from training.run_folder import open_run

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def loaded(trained: Path) -> ChatSession:
    return open_chat(open_run(trained / "runs" / "sft"), most=12)


@pytest.fixture
def session(loaded: ChatSession) -> Iterator[ChatSession]:
    loaded.system, loaded.most, loaded.temperature = SYSTEM, 12, 0.0
    loaded.reset()
    yield loaded
    loaded.model.config.max_position_embeddings = 2048


def talk(session: ChatSession, *lines: str) -> list[str]:
    """What a chat with these lines of input prints."""
    given, shown = iter(lines), []

    def read() -> str:
        if (line := next(given, None)) is None:
            raise EOFError
        return line

    run_chat(session, read=read, show=shown.append, columns=False)
    return shown


def test_both_sides_answer_as_evaluation_measures_them(session: ChatSession) -> None:
    from training.metrics import write_answers

    prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": phrase(210)}]
    *_, texts = session.ask(phrase(210))
    found = dict(texts)
    expected = {}
    for side in (TUNED, BASE):
        settings = {"max_new_tokens": 12, "batch": 1, "stop_lines": None}
        if side == TUNED:
            [expected[side]] = write_answers(session.model, session.tokenizer, [prompt], **settings)
        else:
            with session.model.disable_adapter():
                [expected[side]] = write_answers(session.model, session.tokenizer, [prompt], **settings)
    assert {side: text.strip() for side, text in found.items()} == {side: text.strip() for side, text in expected.items()}


def test_each_side_continues_its_own_conversation(session: ChatSession) -> None:
    shown = talk(session, phrase(1), phrase(2))
    assert [line.partition(":")[0] for line in shown[1:]] == [TUNED, BASE, TUNED, BASE]
    for side in (TUNED, BASE):
        assert [turn["role"] for turn in session.turns[side]] == ["user", "assistant"] * 2
        assert session.turns[side][1]["content"] == next(line for line in shown[1:] if line.startswith(side)).removeprefix(f"{side}: ")


def test_commands_reset_show_and_set(session: ChatSession) -> None:
    shown = talk(session, "", phrase(1), "/reset", "/system", "/system Be brief.", "/bogus", "/help", "/quit", "never read")
    assert shown[0].endswith(f"System message: {SYSTEM}\n/help lists the commands.")
    assert shown[3:6] == ["The conversation was reset.", f"System message: {SYSTEM}", "System message: Be brief."]
    assert shown[6].startswith("/bogus: is not a command.\n/reset") and shown[7].startswith("/reset") and len(shown) == 8
    assert session.system == "Be brief." and session.turns == {TUNED: [], BASE: []}


def test_stopped_answer_is_kept_and_the_chat_continues(session: ChatSession) -> None:
    answer = session.ask(phrase(1))
    next(answer)
    answer.close()  # what Ctrl-C does
    assert session.turns[TUNED][1]["content"] and len(session.turns[TUNED]) == 2
    assert [line.partition(":")[0] for line in talk(session, phrase(2))[1:]] == [TUNED, BASE]


def test_conversation_that_does_not_fit_or_render_is_a_sentence(session: ChatSession) -> None:
    session.model.config.max_position_embeddings = 8
    assert "tokens and the model reads 8. Next: /reset" in talk(session, phrase(1))[1]
    session.model.config.max_position_embeddings = 2048
    kept = session.tokenizer.chat_template
    try:
        session.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
        assert "chat template: refuses this conversation (no system role)" in talk(session, phrase(1))[1]
    finally:
        session.tokenizer.chat_template = kept
    assert session.turns == {TUNED: [], BASE: []}


def test_sampling_differs_from_the_most_likely_token(session: ChatSession) -> None:
    import torch

    torch.manual_seed(3)
    session.temperature = 2.0
    *_, texts = session.ask(phrase(210))
    warm = dict(texts)
    session.reset()
    session.temperature = 0.0
    *_, texts = session.ask(phrase(210))
    assert warm != texts


def test_changed_adapter_is_not_loaded(project: Path) -> None:
    run = open_run(project / "runs" / "sft")
    (run.output / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(TrainingError, match="is not the adapter"):
        open_chat(run)
