"""The run file: one YAML page that says everything a training run depends on.

Closed and versioned: a key it does not know is an error with the key's path and the nearest known one. Paths are relative to
the run file. SFT and DPO are two runs with two files, because the second starts from the adapter of the first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from curation.config.yaml import describe_error, read_yaml
from curation.errors import ProjectError, UserError
from curation.patterns import compile_pattern
from curation.records import canonical_json

Use = Literal["research", "internal", "commercial"]
DPO_LEARNING_RATE, SFT_LEARNING_RATE, BETA = 5e-6, 2e-4, 0.1
"""DPO of a LoRA (ten times the 5e-7 of full fine-tuning, since an adapter's weights start near zero), QLoRA's rate for models under
13B, and the DPO paper's beta."""
DPO_RATES, DPO_BETAS = (5e-7, 5e-5), (0.1, 0.5)
"""Outside these a DPO run warns: a factor of ten around 5e-6, and the range of beta that the DPO paper and later reports tried."""
DPO_EPOCHS = 1
RANKS = {"style": 8, "knowledge": 32}
"""The rank for a `purpose`: a tone or a format needs few directions, new facts need more."""


class RunFileError(UserError):
    """A run file that cannot be used as it is."""


class TrainingError(UserError):
    """A run that may not start or go on: something it depends on is missing, changed or of the wrong kind."""


CLOSED = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
NOT_IN_DIGEST = frozenset({"eval", "licence_answers", "logger", "purpose", "require", "trusted_keys"})
"""Settings that cannot change the weights: a run can be resumed and a finished adapter measured with other ones. `purpose` only sets
lora.r, which counts. `use` stays in the digest, because what was checked for one use was not checked for another."""


class EvalSet(BaseModel):
    """What the adapter is measured on; it must be one of the snapshot's protected sets."""

    model_config = CLOSED

    file: Path
    """JSON lines, CSV or Parquet. Codes: phrase, code, description, chapter, options (codes, the right one among them),
    descriptions. Any other task: a question and its answer, and options where it has some."""
    n: int = Field(default=120, ge=1)
    """How many lines, from the top."""
    question: str | None = None
    """The field that holds the question; default: the one the protected set was compared by, else prompt, question, instruction."""
    answer: str | None = None
    """The field that holds the reference answer; default: answer, completion, output, or the protected set's label."""
    pattern: str | None = None
    """Regular expression of what counts in an answer, '#### (.+)' say; default: the whole answer, spaces and case aside."""
    table: Path | None = None
    """Parquet with the columns code, billable, chapter; without it the share of valid codes is not measured."""
    preference_snapshot: str | None = None
    """A preference snapshot whose test split gives the preference accuracy."""
    weights: Literal["16bit", "nf4"] = "16bit"
    """The base model's weights while measuring. 16bit is what `train merge`, vLLM and the card's snippet serve; nf4 takes a quarter of the
    memory and gives other answers than the served model."""
    max_new_tokens: int = Field(default=64, ge=8)
    batch_size: int = Field(default=24, ge=1)

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        try:
            compile_pattern(pattern or "")
        except ProjectError as error:
            raise ValueError(error.fact) from error
        return pattern


class Lora(BaseModel):
    """The adapter's shape."""

    model_config = CLOSED

    r: int = Field(default=16, ge=1, le=256)
    alpha: int = Field(default=32, ge=1)
    """The adapter is scaled by alpha / r; default: twice r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of linear modules; all-linear leaves out the output head."""

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows_r(cls, value: Any) -> Any:
        if isinstance(value, dict) and "alpha" not in value and type(r := value.get("r")) is int:
            return {**value, "alpha": 2 * r}
        return value


class Quantization(BaseModel):
    """QLoRA's 4-bit NormalFloat with quantized constants."""

    model_config = CLOSED

    kind: Literal["nf4", "none"] = "nf4"
    double: bool = True


class Optimizer(BaseModel):
    """Steps, rates and batches."""

    model_config = CLOSED

    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Default: 2e-4 for sft, 5e-6 for dpo."""
    epochs: float = Field(default=3, gt=0)
    """Default: 3 for sft, 1 for dpo."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stops there, whatever the epochs say."""
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=1, ge=1)
    max_length: int = Field(default=512, ge=16)
    """Tokens of prompt and completion together; preflight names the rows above it."""
    too_long: Literal["drop", "cut"] = "drop"
    """What happens to rows above max_length: they are left out, or the ends of their answers are cut off."""
    max_left_out: float = Field(default=0.05, ge=0, le=1)
    """Largest share of a split's rows that may be left out, because they are too long or unusable with the chat template."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 rounds small updates away: at 5e-7 most weights of an adapter would not move at all."""
    packing: bool = False
    """Put several rows into one sequence of max_length, so that none is padded. A model that reads one packed row while it predicts another
    is refused. Without FlashAttention keep batch_size at 1: the attention mask grows with the square of batch_size * max_length."""
    gradient_checkpointing: bool | None = None
    """Default: on a GPU yes, on a CPU no (it costs a second forward)."""


class Stopping(BaseModel):
    """How often the validation split is evaluated and a checkpoint saved, and when to stop."""

    model_config = CLOSED

    every_steps: int = Field(default=20, ge=1)
    patience: int = Field(default=3, ge=1)
    """Evaluations without a better validation loss before the run stops; the best checkpoint is kept."""


class Require(BaseModel):
    """What the snapshot must be able to show."""

    model_config = CLOSED

    review: Literal["none", "sample", "all"] = "all"
    """The least review that is accepted: `all` (people approved every row), `sample` (people checked a random sample of them) or
    `none`."""


class LicenceAnswers(BaseModel):
    """Your answers to what the licences ask. `train preflight` stops with the question where one is missing."""

    model_config = CLOSED

    users_above_700m: bool | None = None
    """Llama: do the products you offer it in have more than 700 million monthly users?"""
    users_above_100m: bool | None = None
    """Qwen: the same with 100 million."""
    based_in_eu: bool | None = None
    """Llama 4: is the user domiciled, or the company's principal place of business, in the European Union?"""
    hosted_service: bool | None = None
    """Falcon: will others use the model over a hosted service (an API, a web site)?"""
    terms_read: dict[str, str] = {}
    """By licence that is not in our table: who read its terms, when, and what they allow ('ann, 2026-11-25: any use')."""


class RunFile(BaseModel):
    """One training run."""

    model_config = CLOSED

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["sft", "dpo"]
    snapshot: str
    """Folder of a signed snapshot, or PATH/NAME@latest for the newest version of that name."""
    base_model: Path
    """A local checkpoint folder; `train prepare-model` makes the demo's."""
    sft_adapter: Path | None = None
    """dpo only: the run folder of the SFT run it starts from; that adapter is also the frozen reference."""
    output: Path
    """The run folder to make."""
    use: Use = "research"
    """What the adapter is for; checked against the licences of the base model and the snapshot."""
    base_licence: str | None = None
    """SPDX id you have checked yourself, for a base model folder that records none."""
    licence_answers: LicenceAnswers = LicenceAnswers()
    """What you answered to the questions of the licences; recorded in run.json and on the card."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys whose snapshots are accepted, beside those in your trust store."""
    allow_simulated_review: bool = False
    """A snapshot whose review was simulated is refused unless this says so."""
    require: Require = Require()
    """What the snapshot must be able to show."""
    eval: EvalSet
    purpose: Literal["style", "knowledge"] | None = None
    """sft only: what the adapter shall learn; sets `lora.r` to 8 or 32 unless it is given (16 without a purpose)."""
    system: Literal["keep", "merge"] = "keep"
    """merge: put the system message in front of the first user message, for a chat template without a system role."""
    lora: Lora | None = None
    """sft only; dpo goes on with the SFT adapter's shape."""
    beta: float | None = Field(default=None, gt=0)
    """dpo only: how hard the policy is held to the reference (default 0.1)."""
    quantization: Quantization = Quantization()
    optimizer: Optimizer = Optimizer()
    stopping: Stopping = Stopping()
    seed: int = Field(default=7, ge=0)
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; default: what torch finds."""
    logger: Literal["tensorboard", "wandb", "trackio", "none"] = "none"
    """Beside metrics.jsonl, which is always written; the package must be installed."""
    _digest: str = PrivateAttr("")
    _source: Path = PrivateAttr(Path())

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """Put the defaults that depend on another key into the lora and optimizer sections."""
        if not isinstance(value, dict):
            return value
        filled, purpose = dict(value), value.get("purpose")
        lora, optimizer = filled.get("lora", {}), filled.get("optimizer", {})
        if filled.get("kind") == "sft" and isinstance(purpose, str) and purpose in RANKS and (lora is None or isinstance(lora, dict)):
            filled["lora"] = {"r": RANKS[purpose], **(lora or {})}
        if filled.get("kind") == "dpo" and isinstance(optimizer, dict):
            filled["optimizer"] = {"epochs": DPO_EPOCHS, **optimizer}
        return filled

    @model_validator(mode="after")
    def _is_one_kind(self) -> RunFile:
        if self.kind == "dpo" and self.sft_adapter is None:
            raise ValueError("kind dpo needs sft_adapter, the run folder of a finished SFT run")
        if self.kind == "dpo" and self.lora is not None:
            raise ValueError("lora belongs to kind sft; dpo goes on with the SFT adapter's shape")
        if self.kind == "dpo" and self.purpose is not None:
            raise ValueError("purpose belongs to kind sft; dpo continues with the SFT adapter's shape")
        for key, value in (("sft_adapter", self.sft_adapter), ("beta", self.beta)):
            if self.kind == "sft" and value is not None:
                raise ValueError(f"{key} belongs to kind dpo; SFT and DPO are two runs with two run files")
        if self.optimizer.adapter_dtype == "bfloat16" and self.kind == "dpo":
            raise ValueError("optimizer.adapter_dtype bfloat16 is for kind sft; it would round DPO's small updates and the reference")
        if self.optimizer.packing and self.kind == "dpo":
            raise ValueError("optimizer.packing is for kind sft; DPO compares whole completions")
        return self

    @property
    def digest(self) -> str:
        """sha256 over what was written (paths as written, so a project can move; comments and layout do not count)."""
        return self._digest

    @property
    def source(self) -> Path:
        """The file this was read from."""
        return self._source

    @property
    def learning_rate(self) -> float:
        """The learning rate, defaults filled in."""
        return self.optimizer.learning_rate or (SFT_LEARNING_RATE if self.kind == "sft" else DPO_LEARNING_RATE)


def find_warnings(run: RunFile) -> list[str]:
    """Return a sentence for each setting that is allowed but far from what is usual; none of them stops a run."""
    if run.kind != "dpo":
        return []
    found, beta = [], run.beta or BETA
    if not DPO_BETAS[0] <= beta <= DPO_BETAS[1]:
        effect = "the policy may leave the reference quickly" if beta < DPO_BETAS[0] else "the policy will hardly leave the reference"
        found.append(f"beta {beta:g} is outside {DPO_BETAS[0]} to {DPO_BETAS[1]}, the usual range of DPO: {effect}")
    rate = run.learning_rate
    if not DPO_RATES[0] <= rate <= DPO_RATES[1]:
        effect = "a LoRA hardly moves at it" if rate < DPO_RATES[0] else "the answers' form may be lost"
        usual = f"{DPO_LEARNING_RATE:.0e}".replace("e-0", "e-")
        found.append(
            f"optimizer.learning_rate {rate:g} is far from {usual}, the usual rate for DPO of a LoRA (5e-7 for all weights): {effect}"
        )
    return found


def load_run_file(path: Path, *, folder: Path | None = None) -> RunFile:
    """Read a run file; every path in the answer is absolute. Raises RunFileError with the key path and the fact.

    Args:
        folder: what relative paths are relative to; by default the run file's folder.
    """
    if not path.is_file():
        fact = "is a folder; a run file is needed here" if path.is_dir() else "does not exist"
        raise RunFileError(str(path), fact, "name a run file (train init writes them)")
    try:
        value = read_yaml(path)
    except ProjectError as error:
        raise RunFileError(error.what, error.fact, error.next_step) from error
    if not isinstance(value, dict):
        raise RunFileError(str(path), "is not a mapping of keys", f"edit {path.name}")
    _refuse_both(path, value)
    try:
        run = RunFile.model_validate(value)
    except ValidationError as error:
        raise RunFileError(*describe_error(error, RunFile, path)) from error
    try:
        canonical_json(run.model_dump(mode="json", by_alias=True))
        digest = hashlib.sha256(canonical_json(run.model_dump(mode="json", by_alias=True, exclude=set(NOT_IN_DIGEST)))).hexdigest()
    except TypeError as error:  # orjson writes integers of 64 bit, and pydantic makes one of 1e30
        raise RunFileError(str(path), f"holds a value that cannot be recorded ({error})", "use smaller numbers") from error
    anchored = _anchor(run, (folder or path.parent).resolve())
    anchored._digest, anchored._source = digest, path.absolute()
    return anchored


def _refuse_both(path: Path, value: dict[str, Any]) -> None:
    kind = value.get("kind")
    if (isinstance(kind, list) and len(kind) > 1) or ("sft" in value and "dpo" in value):
        raise RunFileError(
            f"{path.name}: kind",
            "asks for SFT and DPO in one run; DPO starts from a finished SFT adapter and takes it as its reference",
            "write two run files, one with kind: sft and one with kind: dpo",
        )


def _anchor(run: RunFile, folder: Path) -> RunFile:
    def at(value: Path | None) -> Path | None:
        return value if value is None else (folder / value.expanduser()).absolute()

    def snapshot_at(value: str | None) -> str | None:
        return value if value is None else str((folder / Path(value).expanduser()).absolute())

    evaluation = run.eval.model_copy(
        update={
            "file": at(run.eval.file),
            "table": at(run.eval.table),
            "preference_snapshot": snapshot_at(run.eval.preference_snapshot),
        }
    )
    paths = {key: at(getattr(run, key)) for key in ("base_model", "sft_adapter", "output")}
    keys = tuple(at(key) for key in run.trusted_keys)
    return run.model_copy(update={**paths, "snapshot": snapshot_at(run.snapshot), "trusted_keys": keys, "eval": evaluation})
