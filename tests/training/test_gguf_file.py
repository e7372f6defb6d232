"""A GGUF file: read back it gives the merged model's logits and tokens; what llama.cpp would compute otherwise is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.training_samples import TEMPLATE, build_model, phrase
from training.errors import TrainingError
from training.gguf_file import SPLITS, check_architecture, read_vocabulary, rope_factors, write_gguf
from training.run_folder import open_run

pytestmark = pytest.mark.model
NAMES = {"name": "tiny", "licence": "Apache-2.0", "base": "tiny"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("gguf") / "model")


def load(folder: Path, **more: Any) -> tuple[Any, Any]:
    """A model in fp32 and its tokenizer, from a checkpoint or from a GGUF file in it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    settings = {"quantization_config": GgufConfig(dequantize=True)} if more else {}
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings, **more).eval()
    return loaded, AutoTokenizer.from_pretrained(folder, **more)


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 1e-6), ("f32", 1e-6), ("f16", 1e-4), ("q8_0", 0.05)])
def test_file_gives_the_models_logits_and_tokens(model: Path, tmp_path: Path, dtype: Any, most: float) -> None:
    import torch

    before, tokenizer = load(model)
    write_gguf(model, tmp_path / "m.gguf", tokenizer=tokenizer, dtype=dtype, **NAMES)
    after, read = load(tmp_path, gguf_file="m.gguf")
    ids = torch.arange(5, 105).reshape(4, 25)
    with torch.inference_mode():
        expected, found = before(input_ids=ids).logits, after(input_ids=ids).logits
    assert (expected - found).abs().max() < most
    text = f"<|im_start|>user\n{phrase(7)} é 1234<|im_end|>\n"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"] and read.chat_template == TEMPLATE
    assert (read.eos_token, read.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_export_of_a_run_has_all_that_goes_with_it(project: Path, tmp_path: Path) -> None:
    from training.export import export_run, exported_text
    from training.license import read_gguf_licence

    out = tmp_path / "gg"
    found = export_run(open_run(project / "runs" / "dpo"), out=out, key=project / "keys" / "signing.pem")
    assert found.check == found.merge and found.template
    assert {file.name for file in out.iterdir()} == {
        *(found.file, "Modelfile", "README.md", "LICENSE-NOTICE.md", "SHA256SUMS", "release.json", "loss.svg", "model.sig")
    }
    assert read_gguf_licence(out / found.file) == "apache-2.0"
    text = (out / "Modelfile").read_text()
    assert f"FROM ./{found.file}\n" in text and 'PARAMETER stop "<|im_end|>"\n' in text and 'SYSTEM """Assign the code."""\n' in text
    assert f"ollama create NAME -f Modelfile, or llama-server --jinja -m {found.file}" in exported_text(found)
    with pytest.raises(TrainingError, match="exists already"):
        export_run(open_run(project / "runs" / "dpo"), out=out)


def test_weight_that_does_not_fit_is_named(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _, tokenizer = load(model)
    large = Path(shutil.copytree(model, tmp_path / "large"))
    weights = load_file(large / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingError, match=r"layers\.1\.mlp\.up_proj\.weight: has weights that are too large for f16.*--type bf16"):
        write_gguf(large, tmp_path / "m.gguf", tokenizer=tokenizer, dtype="f16", **NAMES)


CONFIG = {"model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"model_type": "qwen2"}, r"model type qwen2: is not one that is exported here \(llama, mistral\).*convert_hf_to_gguf\.py"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"model_type": "mistral", "sliding_window": 1024}, "sliding_window 1024"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "RoPE scaling yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "RoPE scaling dynamic"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change: dict[str, Any], fact: str) -> None:
    check_architecture({**CONFIG, "model_type": "mistral", "sliding_window": None})
    with pytest.raises(TrainingError, match=fact):
        check_architecture(CONFIG | change)


def test_rope_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        **{"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope, max_position_embeddings=131_072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = [500_000.0 ** -(i / 128) for i in range(0, 128, 2)]
    found = [frequency / factor for frequency, factor in zip(plain, rope_factors(rope, 128), strict=True)]
    assert found == pytest.approx(scaled.tolist(), rel=1e-5)


def tokenizer_json(pre: Any, **model: Any) -> dict[str, Any]:
    return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], **model}, "pre_tokenizer": pre}


BYTES = {"type": "ByteLevel", "add_prefix_space": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(pattern: str, **more: Any) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **more}
    return {"type": "Sequence", "pretokenizers": [step, BYTES | {"use_regex": False}]}


def test_pre_tokenizers_have_the_names_of_llama_cpp() -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS as THEIRS

    def name(pre: Any, **model: Any) -> str:
        return read_vocabulary(tokenizer_json(pre, **model), size=4).pre

    assert name(BYTES) == "gpt-2"
    assert name({"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}) == "smollm"
    assert name(split(THEIRS["llama-bpe"]), ignore_merges=True) == "llama-bpe"
    assert name(split(THEIRS["smaug-bpe"])) == "smaug-bpe"
    assert name(split(THEIRS["qwen2"])) == "qwen2"
    assert name(split(THEIRS["tekken"]), ignore_merges=True) == "tekken"
    assert {THEIRS[known] for known in ("llama-bpe", "qwen2", "tekken")} == set(SPLITS)
    for pre in (split("x+"), split(THEIRS["qwen2"], behavior="Removed"), BYTES | {"add_prefix_space": True}, None, {"type": "Whitespace"}):
        with pytest.raises(TrainingError, match=r"pre_tokenizer: is none that is known here by llama\.cpp's name"):
            name(pre)
    with pytest.raises(TrainingError, match="model Unigram: is not BPE"):
        name(BYTES, type="Unigram")
    with pytest.raises(TrainingError, match="has token 2 and the model has 2 embeddings"):
        read_vocabulary(tokenizer_json(BYTES), size=2)
    assert read_vocabulary(tokenizer_json(BYTES), size=4).tokens == ["a", "b", "ab", "[PAD3]"]


def test_sentencepiece_tokenizer_is_read_back_alike(model: Path, tmp_path: Path) -> None:
    """Llama 2 and Mistral 7B: byte fallback, merges by score, and a space in front of the text."""
    import sentencepiece
    from transformers import LlamaTokenizer

    text = tmp_path / "text.txt"
    text.write_text("\n".join(phrase(number) for number in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), vocab_size=340, model_type="bpe", byte_fallback=True, minloglevel=2
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    pieces = {processor.id_to_piece(i): (i, processor.get_score(i)) for i in range(processor.get_piece_size())}
    merges = sorted(
        (-score, index, piece[:cut], piece[cut:])
        for piece, (index, score) in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces and not piece.startswith("<")
    )
    tokenizer = LlamaTokenizer(vocab={piece: i for piece, (i, _) in pieces.items()}, merges=[(a, b) for _, _, a, b in merges])
    tokenizer.chat_template = TEMPLATE
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tokenizer.save_pretrained(folder)
    sample = f"{phrase(9)} knee é 世"
    assert tokenizer(sample, add_special_tokens=False)["input_ids"] == processor.encode(sample), "the test's own tokenizer is right"
    found = read_vocabulary(json.loads((folder / "tokenizer.json").read_text()), size=512)
    assert (found.model, found.merges, found.add_space_prefix) == ("llama", [], True)
    write_gguf(folder, tmp_path / "m.gguf", tokenizer=tokenizer, dtype="bf16", **NAMES)
    _, read = load(tmp_path, gguf_file="m.gguf")
    assert read(sample, add_special_tokens=False)["input_ids"] == tokenizer(sample, add_special_tokens=False)["input_ids"]
