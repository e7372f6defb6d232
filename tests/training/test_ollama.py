"""The Modelfile for Ollama: the chat template in Go's language, derived only where it gives the same text."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.training_families import CHATS, build_tokenizer
from training.ollama import ChatParts, find_parts, modelfile

pytestmark = pytest.mark.model
CHATML = ChatParts(
    "",
    "",
    {
        "system": ("<|im_start|>system\n", "<|im_end|>\n"),
        "user": ("<|im_start|>user\n", "<|im_end|>\n"),
        "assistant": ("<|im_start|>assistant\n", "<|im_end|>\n"),
    },
    "<|im_start|>assistant\n",
)
TALK = [("system", "Be brief."), ("user", 'Say "a" {{ .System }}'), ("assistant", "a"), ("user", "b\n\nc")]


def run_go(template: str, messages: list[dict[str, str]]) -> str:
    """The part of Go's template language that we write: literals, if, else if, end, eq, not, range over the messages."""
    actions = re.findall(r'\{\{ ("(?:[^"\\]|\\.)*"|[^"{}]*(?:"[^"]*")?) \}\}', template)
    assert "".join(f"{{{{ {action} }}}}" for action in actions) == template, "nothing but actions, so no white space counts"
    inside, last = actions.index("range .Messages"), max(i for i, action in enumerate(actions) if action == "end")
    system = any(message["role"] == "system" for message in messages)

    def run(part: list[str], message: dict[str, str] | None) -> str:
        text, shown, taken = "", True, False
        for action in part:
            if action.startswith(("if", "else if")):
                holds = not system if action == "if not .System" else json.loads(action.rpartition(" ")[2]) == (message or {})["role"]
                shown = holds and not (taken and action.startswith("else"))
                taken = shown or (taken and action.startswith("else"))
            elif action == "end":
                shown, taken = True, False
            elif shown:
                text += message["content"] if action == ".Content" and message else json.loads(action)
        return text

    body = "".join(run(actions[inside + 1 : last], message) for message in messages)
    return run(actions[:inside], None) + body + run(actions[last + 1 :], None)


def test_chatml_is_cut_where_a_reader_expects_it() -> None:
    assert find_parts(build_tokenizer(CHATS["chatml"])) == CHATML
    assert CHATML.go_template() == (
        r'{{ range .Messages }}{{ if eq .Role "system" }}{{ "<|im_start|>system\n" }}{{ .Content }}{{ "<|im_end|>\n" }}'
        r'{{ else if eq .Role "user" }}{{ "<|im_start|>user\n" }}{{ .Content }}{{ "<|im_end|>\n" }}'
        r'{{ else if eq .Role "assistant" }}{{ "<|im_start|>assistant\n" }}{{ .Content }}{{ "<|im_end|>\n" }}{{ end }}{{ end }}'
        r'{{ "<|im_start|>assistant\n" }}'
    )


@pytest.mark.parametrize("name", sorted(CHATS))
def test_go_template_gives_the_text_of_the_chat_template(name: str) -> None:
    tokenizer = build_tokenizer(CHATS[name])
    parts = find_parts(tokenizer)
    if name == "mistral-v0.3":  # it puts the system message in front of the last question
        assert parts is None
        return
    assert parts is not None
    talk = [{"role": role, "content": text} for role, text in TALK if role in parts.around]
    for messages in (talk, talk[:-2], talk[-3:]):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert parts.render(messages) == expected
        assert run_go(parts.go_template(), messages) == expected


def test_default_system_message_is_used_without_one() -> None:
    tokenizer = build_tokenizer(CHATS["chatml"])
    head = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    tokenizer.chat_template = head + tokenizer.chat_template
    parts = find_parts(tokenizer)
    assert parts is not None and parts.default == "<|im_start|>system\nBe good.<|im_end|>\n"
    user = [{"role": "user", "content": "Hello"}]
    assert run_go(parts.go_template(), user) == tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}",
        "{% for message in messages %}<|im_start|>{{ loop.index }}\n{{ message['content'] }}<|im_end|>{% endfor %}",
        "{% for message in messages[-1:] %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_template_with_more_logic_gets_none(template: str) -> None:
    tokenizer = build_tokenizer(CHATS["chatml"])
    tokenizer.chat_template = template
    assert find_parts(tokenizer) is None


def test_modelfile_quotes_what_others_wrote() -> None:
    settings = {"stops": ['<"x">'], "system": 'He said """no"""', "context": 4096, "notice": '# Notice\n"""\nFROM /etc/passwd\n'}
    text = modelfile("m.gguf", parts=CHATML, template="", **settings)
    assert "SYSTEM" not in text and r'PARAMETER stop "<\"x\">"' in text
    assert text.count('"""') == 4, "template and licence"
    without = modelfile("m.gguf", parts=None, template="{{ x }}", stops=[], system=None, context=512, notice="n")
    assert "TEMPLATE" not in without and "# The chat template could not be written" in without and "PARAMETER num_ctx 512" in without
