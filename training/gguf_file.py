"""Write a checkpoint of a llama-type model as one GGUF file, the format of llama.cpp and Ollama, with the package `gguf`.

The conversion is that of llama.cpp's `convert_hf_to_gguf.py` for the architecture `llama`: rows of the query and key projections are
reordered, because llama.cpp rotates neighbouring dimensions and transformers rotates halves; norms are stored as float32; the tokenizer is
stored as tokens with types, merges or scores, and the name of its pre-tokenizer. Everything is read from config.json and tokenizer.json.
What llama.cpp would compute otherwise than transformers (another pre-tokenizer, a sliding window, another RoPE scaling) is refused.
Tensors are read and written one at a time, so the memory needed is that of the largest tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from training.chat import find_end_of_turn
from training.errors import TrainingError
from training.model import find_weights

FileType: TypeAlias = Literal["bf16", "f16", "f32", "q8_0"]
ARCHITECTURES = ("llama", "mistral")
"""Values of model_type that llama.cpp reads as its architecture `llama`."""
ELSEWHERE = "merge the adapter (train merge RUN --out FOLDER) and convert the folder with llama.cpp's convert_hf_to_gguf.py"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
SPLITS = {
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_END}": ("llama-bpe", "smaug-bpe"),
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_END}": ("qwen2", "qwen2"),
    rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": ("tekken", ""),
}
"""llama.cpp's name of a pre-tokenizer by its regular expression: with `ignore_merges`, and without (src/llama-vocab.cpp)."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF stores it."""

    model: str
    """gpt2 (byte-level BPE) or llama (SentencePiece)."""
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    add_space_prefix: bool | None = None


def write_gguf(folder: Path, file: Path, *, tokenizer: Any, dtype: FileType, name: str, licence: str, base: str) -> int:
    """Write a checkpoint folder as a GGUF file and return the number of tensors.

    Args:
        folder: the checkpoint, with safetensors weights.
        file: the file to write.
        tokenizer: the checkpoint's tokenizer.
        dtype: type of the matrices; norms are always f32.
        name: the model's name.
        licence: the licence's identifier.
        base: the base model's name.

    Raises:
        TrainingError: the architecture, the tokenizer or a setting cannot be expressed, or a weight does not fit into f16.
    """
    import gguf
    import numpy as np

    config = json.loads((folder / "config.json").read_text())
    check_architecture(config)
    vocabulary = read_vocabulary(json.loads((folder / "tokenizer.json").read_text()), size=config["vocab_size"])
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_license(licence.lower())
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base)
    writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    shape = _add_shape(writer, config)
    _add_vocabulary(writer, vocabulary, tokenizer)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    rope = rope_settings(config)
    extra = {"rope_freqs.weight": np.array(rope_factors(rope, shape.head_dim), dtype=np.float32)} if rope["rope_type"] == "llama3" else {}
    # GGUF has the description of every tensor before the first one's data, so the shapes are read first.
    planned = []
    for old, size in _read_shapes(folder):
        new = names.get_name(old, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise TrainingError(f"{folder.name}: {old}", "is a tensor that llama.cpp's architecture llama does not have", ELSEWHERE)
        kind = _tensor_type(size, dtype)
        planned.append((old, new, kind))
        writer.add_tensor_info(new, *_description(size, kind), raw_dtype=kind)
    for new, values in extra.items():
        writer.add_tensor_info(new, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (old, new, kind), tensor in zip(planned, _read_tensors(folder, [old for old, _, _ in planned]), strict=True):
        part = new.split(".")[-2]
        if part in ("attn_q", "attn_k"):
            tensor = reorder_rows(tensor, shape.heads if part == "attn_q" else shape.kv_heads)
        writer.write_tensor_data(_encode(tensor, kind, name=old))
    for values in extra.values():
        writer.write_tensor_data(values)
    writer.close()
    return len(planned) + len(extra)


@dataclass(frozen=True)
class Shape:
    """Numbers of a configuration that the tensors depend on."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int


def _add_shape(writer: Any, config: Mapping[str, Any]) -> Shape:
    """Add the configuration under llama.cpp's names and return its shape."""
    import gguf

    heads = config["num_attention_heads"]
    kv_heads, head_dim = config.get("num_key_value_heads") or heads, config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    rope = rope_settings(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    return Shape(config["num_hidden_layers"], heads, kv_heads, head_dim)


def check_architecture(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that llama.cpp's architecture `llama` would compute otherwise than transformers."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise TrainingError(f"model type {kind}", f"is not one that is exported here ({', '.join(ARCHITECTURES)})", ELSEWHERE)
    window = config.get("sliding_window")
    faults = {
        f"hidden_act {config.get('hidden_act')}": config.get("hidden_act") != "silu",
        f"sliding_window {window}": window is not None and window < config["max_position_embeddings"],
        f"RoPE scaling {rope_settings(config)['rope_type']}": rope_settings(config)["rope_type"] not in ("default", "linear", "llama3"),
    }
    for name, is_fault in faults.items():
        if is_fault:
            raise TrainingError(f"config.json: {name}", "is not what llama.cpp computes for a llama-type model", ELSEWHERE)


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE settings of a configuration of transformers 5 (rope_parameters) or 4 (rope_theta, rope_scaling)."""
    found = {
        "rope_theta": config.get("rope_theta", 10_000.0),
        **(config.get("rope_scaling") or {}),
        **(config.get("rope_parameters") or {}),
    }
    return {**found, "rope_type": found.get("rope_type") or found.get("type") or "default"}


def rope_factors(rope: Mapping[str, Any], head_dim: int) -> list[float]:
    """Return llama.cpp's divisor of each RoPE frequency for Llama 3.1's scaling: 1 for short wavelengths, `factor` for long ones."""
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(float(rope["factor"]))
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return factors


def reorder_rows(tensor: Any, heads: int) -> Any:
    """Return a query or key projection (or its bias) with the two halves of each head interleaved."""
    return tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def read_vocabulary(read: Mapping[str, Any], *, size: int) -> Vocabulary:
    """Return the tokenizer of a tokenizer.json as GGUF stores it.

    Args:
        read: the content of tokenizer.json.
        size: rows of the embedding matrix, which can exceed the number of tokens.

    Raises:
        TrainingError: llama.cpp would split text otherwise.
    """
    from gguf import TokenType

    model = read["model"]
    if model.get("type") != "BPE":
        raise TrainingError(f"tokenizer.json: model {model.get('type')}", "is not BPE", ELSEWHERE)
    by_id = {index: token for token, index in model["vocab"].items()}
    types = dict.fromkeys(by_id, int(TokenType.NORMAL))
    for added in read.get("added_tokens") or ():
        by_id[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if (most := max(by_id)) >= size:
        raise TrainingError("tokenizer.json", f"has token {most} and the model has {size} embeddings", "use the base model's own tokenizer")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    scores: list[float] = []
    add_space = None
    if model.get("byte_fallback"):
        kind, pre = "llama", "default"
        for index, token in by_id.items():
            if len(token) == 6 and token.startswith("<0x"):
                types[index] = int(TokenType.BYTE)
            elif token == model.get("unk_token"):
                types[index] = int(TokenType.UNKNOWN)
        scores, add_space = _scores(model, by_id, size=size), _adds_space(read)
        merges = []
    else:
        kind, pre = "gpt2", _find_pre_tokenizer(read)
    # Rows of the embedding matrix without a token.
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    return Vocabulary(kind, pre, tokens, [types.get(index, int(TokenType.UNUSED)) for index in range(size)], merges, scores, add_space)


def _find_pre_tokenizer(read: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of a byte-level BPE tokenizer's pre-tokenizer."""
    normalizer, pre = read.get("normalizer"), read.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    ignores = bool(read["model"].get("ignore_merges"))
    found = ""
    *first, last = steps
    # NFC changes only text that is not composed; llama.cpp leaves it out for Qwen's tokenizer too.
    plain = (normalizer is None or normalizer.get("type") == "NFC") and last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    if plain and last.get("use_regex", True) and not ignores:
        if not first:
            found = "gpt-2"
        elif [step.get("type") for step in first] == ["Digits"] and first[0].get("individual_digits"):
            found = "smollm"
    elif plain and not last.get("use_regex", True) and len(first) == 1:
        split = {key: first[0].get(key) for key in ("type", "behavior", "invert")}
        if split == {"type": "Split", "behavior": "Isolated", "invert": False}:
            found = SPLITS.get(first[0].get("pattern", {}).get("Regex", ""), ("", ""))[0 if ignores else 1]
    if not found:
        raise TrainingError("tokenizer.json: pre_tokenizer", "is none that is known here by llama.cpp's name", ELSEWHERE)
    return found


def _scores(model: Mapping[str, Any], by_id: Mapping[int, str], *, size: int) -> list[float]:
    """Return SentencePiece's score of each token, from the order of the merges.

    llama.cpp merges the pair whose result has the highest score, tokenizers the pair whose merge comes first. Both orders are the same if
    all merges with one result follow each other.
    """
    ranks: dict[str, int] = {}
    last = ""
    for rank, merge in enumerate(model["merges"]):
        result = merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
        if result in ranks and result != last:
            raise TrainingError("tokenizer.json: merges", "are in an order that SentencePiece's scores cannot express", ELSEWHERE)
        ranks.setdefault(result, rank)
        last = result
    worst = float(-len(ranks) - 1)
    return [float(-ranks[by_id[i]]) if i in by_id and by_id[i] in ranks else worst for i in range(size)]


def _adds_space(read: Mapping[str, Any]) -> bool:
    """Return whether a SentencePiece tokenizer puts a space in front of a text."""
    normalizer, pre = read.get("normalizer") or {}, read.get("pre_tokenizer") or {}
    steps = [*normalizer.get("normalizers", [normalizer]), *pre.get("pretokenizers", [pre])]
    return any(
        step.get("type") == "Prepend" or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never") for step in steps
    )


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, tokenizer: Any) -> None:
    """Add the tokenizer with its special tokens and the chat template."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    # llama.cpp stops at this token too; it need not be the end of sequence (Gemma, ChatML on a base model).
    ids["eot"] = find_end_of_turn(tokenizer)
    for name, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(bool(ids["bos"] is not None and tokenizer("a")["input_ids"][:1] == [ids["bos"]]))
    writer.add_chat_template(tokenizer.get_chat_template())


def _read_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import safe_open

    for file in find_weights(folder):
        with safe_open(file, framework="pt") as held:
            for name in sorted(held.keys()):
                if not name.endswith("rotary_emb.inv_freq"):  # older checkpoints hold what the configuration already says
                    yield name, tuple(held.get_slice(name).get_shape())


def _read_tensors(folder: Path, names: list[str]) -> Iterator[Any]:
    """Yield the tensors in this order; the names of one file follow each other."""
    from safetensors import safe_open

    wanted = set(names)
    for file in find_weights(folder):
        with safe_open(file, framework="pt") as held:
            for name in sorted(held.keys()):
                if name in wanted:
                    yield held.get_tensor(name)


def _tensor_type(shape: tuple[int, ...], dtype: FileType) -> Any:
    """Return the type that a tensor is stored in: norms and biases in f32, and f16 where q8_0's blocks of 32 do not fit."""
    import gguf

    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    if dtype == "q8_0" and shape[-1] % 32:
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType[dtype.upper()]


def _description(shape: tuple[int, ...], kind: Any) -> tuple[tuple[int, ...], Any, int]:
    """Return shape, numpy type and bytes of a tensor as GGUFWriter.add_tensor_info takes them."""
    import gguf
    import numpy as np

    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = math.prod(shape) // block * size
    if kind is gguf.GGMLQuantizationType.Q8_0:
        return gguf.quant_shape_to_byte_shape(shape, kind), np.dtype(np.uint8), count
    return shape, np.dtype({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[kind.name]), count


def _encode(tensor: Any, kind: Any, *, name: str) -> Any:
    """Return a tensor as the array that is stored."""
    import gguf
    import torch

    if kind.name == "BF16":
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
    if kind.name == "F16":
        half = tensor.to(torch.float16)
        if not torch.isfinite(half).all():
            raise TrainingError(name, "has weights that are too large for f16", "export it with --type bf16")
        return half.contiguous().numpy()
    values = tensor.float().contiguous().numpy()
    return values if kind.name == "F32" else gguf.quantize(values, kind)
