"""Configuration: TOML into frozen, checked records; the resolved one is printed and saved."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from math import inf
from pathlib import Path
from types import GenericAlias
from typing import Any, Self, get_args, get_origin

import tomli_w

from glacier.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which samples are seen, and how."""

    store: str = ""
    """Folder or address of the store; empty: the only *.zarr in the working folder."""
    patch: int = 256
    """Side of a window, px, a multiple of 32."""
    bands: tuple[str, ...] = ()
    """Names of the bands to use, in order; empty: all."""
    target: dict[str, float] = field(default_factory=dict)
    """Class -> share of the pixels that training sees; empty: all windows are equally likely."""
    repeats: float = 8.0
    """How often a window may come in an epoch, at most, for the sake of the target."""
    min_labelled: float = 0.05
    """Share of a window's area that must be labelled."""
    anneal: float = 0.0
    """Share of the training over which the mix goes back to the natural one, at its end."""
    augment: str = "d4"
    """none; d4, the eight symmetries of a square; affine, these with rotation, scale and shift"""
    rotate: float = 45.0
    """Most rotation of affine, degrees either way."""
    scale: float = 0.2
    """Most change of affine in the side of what is seen, as a share of it."""
    shift: float = 0.1
    """Most shift of affine, as a share of the window's side."""
    brightness: float = 0.2
    """Most that is added to optical bands, in their standard deviations; not with none."""
    contrast: float = 0.2
    """Most change of an optical band's distance from its mean, as a share of it; not with none."""
    seed: int = 0
    """Of order and augmentation."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _at_least("data.patch", self.patch, 32)
        _check_seed("data.seed", self.seed)
        if not 0 <= self.anneal <= 1:
            raise UsageError(f"data.anneal: {self.anneal}, expected 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsConfig:
    """What the network sees of the bands."""

    log: bool = False
    """Optical bands by their logarithm, the others as they are."""
    validity: bool = False
    """One more channel: 1 where any band has data, else 0."""
    contrast: tuple[str, ...] = ()
    """Bands that are also given as the difference from their surroundings."""
    sigma: float = 10.0
    """Of the Gaussian mean of these surroundings, px."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.sigma <= 100:
            raise UsageError(f"inputs.sigma: {self.sigma}, expected more than 0 and at most 100 px")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network."""

    arch: str = "unet"
    """glavitu, or an architecture of segmentation_models_pytorch."""
    encoder: str = "resnet34"
    """Of the latter; glavitu has its own."""
    decoder_channels: tuple[int, ...] = ()
    """Widths of the five stages of their decoder; empty: the architecture's own."""
    location: bool = False
    """Tell the network where tiles, or a map's windows, lie: longitude and latitude; with glavitu."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """What is made small: a weighted sum of terms."""

    terms: dict[str, float] = field(default_factory=lambda: {"focal": 0.6, "dice": 0.4})
    """Term -> weight: cross_entropy, focal, dice, mcc, boundary_error, boundary_f1."""
    alpha: dict[str, float] = field(default_factory=dict)
    """Class -> weight of its pixels in focal, 1 for those not named: rarity counts once, here or in
    data.target."""
    ramp: dict[str, int] = field(default_factory=dict)
    """Term -> epochs over which its weight rises to the full one."""
    ramp_from: float = 0.05
    """Share of the weight that a ramp begins with."""
    auxiliary: float = 0.5
    """Weight of the same loss of a further head, where the network has one in training, as glavitu has."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, epochs in self.ramp.items():
            _at_least(f"loss.ramp.{name}", epochs, 1)
        for name, weight in self.alpha.items():
            _at_least(f"loss.alpha.{name}", weight, 0)
        _at_least("loss.auxiliary", self.auxiliary, 0)
        if not 0 <= self.ramp_from <= 1:
            raise UsageError(f"loss.ramp_from: {self.ramp_from}, expected 0 to 1")


PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The training."""

    epochs: int = 60
    batch: int = 48
    """Samples per micro-step, over all ranks."""
    accumulate: int = 1
    """Micro-steps to an optimiser step."""
    lr: float = 5e-4
    weight_decay: float = 1e-4
    clip: float = 1.0
    """Longest gradient, by its norm; 0: any."""
    factor: float = 0.5
    """Of lr, when validation MCC has not risen for more than `patience` epochs."""
    patience: int = 5
    """Epochs; 0: lr stays."""
    ema: float = 0.999
    """Decay, per optimiser step, of the moving average of the weights, which is what is validated and kept;
    less in the first steps; 0: no average."""
    samples_per_epoch: int = 0
    """Over all ranks; 0: as many windows as cover the training tiles once."""
    fold: int = 0
    """The fold held out for validation."""
    seed: int = 0
    """Of the network's first weights and its dropout."""
    correct_prior: bool = True
    """Undo the shift of prior that data.target brings, in validation and maps."""
    thresholds: bool = True
    """Choose, at the end, the offset of each class's score that gives the highest validation MCC."""
    freeze_norm: bool = False
    """Keep batch norm in evaluation mode: its statistics stay as they were initialised or loaded."""
    freeze_encoder: int = 0
    """Epochs at the start in which the encoder stays as it is."""
    sync_norm: bool = False
    """Batch norm over all ranks; on GPUs."""
    precision: str = "auto"
    """float32, bfloat16, float16; auto: float32 on CPUs, bfloat16 where a GPU has it, else float16."""
    compile: bool = False
    """torch.compile the network."""
    save_steps: int = 200
    """Optimiser steps between checkpoints; there is one at each epoch's end anyway."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("epochs", "batch", "accumulate", "save_steps"):
            _at_least(f"train.{key}", getattr(self, key), 1)
        for key in ("weight_decay", "samples_per_epoch", "fold", "clip", "patience", "freeze_encoder"):
            _at_least(f"train.{key}", getattr(self, key), 0)
        _check_seed("train.seed", self.seed)
        if not 0 < self.lr < inf:
            raise UsageError(f"train.lr: {self.lr}, expected more than 0")
        if not 0 <= self.ema < 1:
            raise UsageError(f"train.ema: {self.ema}, expected 0 to less than 1")
        if not 0 < self.factor < 1:
            raise UsageError(
                f"train.factor: {self.factor}, expected between 0 and 1; train.patience=0 keeps lr"
            )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"train.precision: {self.precision!r}, expected one of {', '.join(PRECISIONS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole run's settings."""

    data: DataConfig = field(default_factory=DataConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], where: str = "configuration") -> Self:
        """Read nested tables.

        Raises:
            UsageError: an unknown key (the nearest known one is named), a wrong type or value.
        """
        sections = {f.name: f.default_factory for f in fields(cls)}
        made = {}
        for name, table in tables.items():
            if name not in sections:
                raise UsageError(f"{where}: no section [{name}]{_nearest(name, sections)}")
            if not isinstance(table, Mapping):
                raise UsageError(f"{where}: {name} is a value, expected a section [{name}]")
            made[name] = _section(sections[name], name, table, where)  # type: ignore[arg-type]
        return cls(**made)

    @classmethod
    def load(cls, path: Path, settings: Iterable[str] = ()) -> Self:
        """Read a TOML file, then `section.key=value` settings over it."""
        try:
            tables = tomllib.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not TOML ({error})") from error
        for section, table in parse_settings(settings).items():
            tables.setdefault(section, {})
            if isinstance(tables[section], dict):
                tables[section] |= table
        return cls.from_dict(tables, path.name)

    def replaced(self, section: str, **values: Any) -> Self:
        """The same, but for some values of one section."""
        return replace(self, **{section: replace(getattr(self, section), **values)})

    def to_dict(self) -> dict[str, Any]:
        """Nested tables of plain values."""
        return asdict(self)

    def to_toml(self) -> str:
        """The same, as TOML."""
        return tomli_w.dumps(self.to_dict())


def shipped(name: str) -> Path:
    """A configuration that comes with the package: demo, finetune or hkh_pretrain."""
    return Path(str(files("glacier") / "configs" / f"{name}.toml"))


def parse_settings(settings: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`section.key=value` settings as nested tables; a value is TOML, or else a bare string.

    Raises:
        UsageError: a setting of another form.
    """
    tables: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and section and key):
            raise UsageError(f"--set {setting}: expected section.key=value, e.g. train.epochs=10")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        tables.setdefault(section, {})[key] = value
    return tables


def _section(cls: type, name: str, table: Mapping[str, Any], where: str) -> Any:
    types = {f.name: f.type for f in fields(cls)}
    for key in table:
        if key not in types:
            raise UsageError(f"{where}: no key {name}.{key}{_nearest(key, types)}")
    return cls(**{k: _checked(v, types[k], f"{where}: {name}.{k}") for k, v in table.items()})


def _checked(value: Any, kind: Any, where: str) -> Any:
    """`value` if it is of the annotated `kind`; a whole number may stand for a float."""
    if get_origin(kind) is tuple:
        (inner, _) = get_args(kind)
        if isinstance(value, list | tuple):
            return tuple(_checked(item, inner, where) for item in value)
    elif get_origin(kind) is dict:
        (_, inner) = get_args(kind)
        if isinstance(value, Mapping):
            return {str(name): _checked(item, inner, f"{where}.{name}") for name, item in value.items()}
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
        return value
    shown = kind if isinstance(kind, GenericAlias) else kind.__name__
    raise UsageError(f"{where}: {value!r}, expected {shown}")


def _nearest(word: str, known: Iterable[str]) -> str:
    options = list(known)
    close = difflib.get_close_matches(word, options, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(options)}"


def _check_seed(key: str, value: int) -> None:
    if not 0 <= value < 2**63:
        raise UsageError(f"{key}: {value}, expected 0 to 2**63 - 1")


def _at_least(key: str, value: float, least: float) -> None:
    if not least <= value < inf:
        raise UsageError(f"{key}: {value}, expected at least {least}")
