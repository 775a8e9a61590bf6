"""An experiment as its YAML file says it; what it does not know is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sepprune_tp.files.extent import is_bounded, short

__all__ = ["FOLDER", "Choice", "ConfigError", "Experiment", "Recovery", "find", "names", "read"]

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
LOSSES = ("task", "waveform", "both", "features", "layers")
FIRST = ("", "norms", "dense inputs", "least squares", "least squares, all positions", "all")

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be run; says the file and the key."""


@dataclass(frozen=True)
class Choice:
    """A criterion of an experiment.

    Attributes:
        label: Its name in records and tables.
        name: Of ``benchmarks.criteria``.
        options: Its own.
        scope: Of the gates.
        recoveries: Names of the recoveries that it goes through; default: the experiment's.
        budgets: Those at which it is run; default: the experiment's.
        seeds: Those with which it is run; default: the experiment's.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scope: str = "separator"
    recoveries: tuple[str, ...] | None = None
    budgets: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Recovery:
    """What is done with a pruned model before it is scored.

    Attributes:
        name: In records and tables.
        first: What happens before training: ``""``, ``norms`` (statistics matched), ``least
            squares`` (the layers that lost inputs refitted to the dense model's), ``least squares,
            all positions`` (on every frame of the mixtures rather than a sample), ``dense inputs``
            (on the dense layers' inputs), ``all`` (norms and depthwise layers as well).
        fresh: New weights: the pruned shape from scratch.
        loss: ``task``, ``waveform`` (the dense model's estimates), ``both``, ``features`` (both,
            and the dense model's masks), or ``layers`` (both, and the dense model's layers where
            inputs were lost).
        steps: Of training; 0: none.
        lr: Learning rate at the start.
        batch_size: Mixtures in a step.
        seconds: Their length.
        schedule: ``cosine`` or ``plateau``.
        early_stop: Validations without improvement that end it; 0: none do.
        val_every: Steps between validations; default: a third of all.
        precision: Lightning's name.
        seeds: Those with which it is run; default: the criterion's.
    """

    name: str
    first: str = ""
    fresh: bool = False
    loss: str = "task"
    steps: int = 0
    lr: float = 1e-3
    batch_size: int = 8
    seconds: float = 2.0
    schedule: str = "cosine"
    early_stop: int = 0
    val_every: int | None = None
    precision: str = "bf16-mixed"
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.loss not in LOSSES:
            raise ConfigError(f"loss: {self.loss!r} is not one of {', '.join(LOSSES)}")
        if self.first not in FIRST:
            raise ConfigError(f"first: {self.first!r} is not one of {FIRST}")
        if self.fresh and self.first:
            raise ConfigError(f"recovery {self.name!r}: fresh weights cannot be refitted")


@dataclass(frozen=True)
class Experiment:
    """What is run, and for which table.

    Attributes:
        name: Of the file, and of its records.
        kind: What runs it; see ``benchmarks.kinds``.
        title: Of its section.
        text: Under the title.
        data: Arguments of :func:`benchmarks.harness.data.open_corpus`.
        models: Names of dense models.
        budgets: Shares of the MACs to keep.
        seeds: Of mixtures, criteria and recoveries.
        criteria: Ways to choose channels.
        recoveries: By name.
        test: ``mixtures`` and ``seconds`` of the test set; of stored mixtures None is all of them,
            whole. With ``split: validation`` of the validation set.
        options: What only its kind knows.
    """

    name: str
    kind: str
    title: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=lambda: {"name": "fsdd"})
    models: tuple[str, ...] = ()
    budgets: tuple[float, ...] = (0.5,)
    seeds: tuple[int, ...] = (0, 1, 2)
    criteria: tuple[Choice, ...] = ()
    recoveries: Mapping[str, Recovery] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=lambda: {"mixtures": 100, "seconds": 3.0})
    options: Mapping[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """Experiments that there are, as :func:`find` takes them."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in _files())


def find(name: str) -> Experiment:
    """The experiment of a name (``quality``, ``paper/libri2mix-tdanet``) or of a file's path.

    Raises:
        ConfigError: If there is none, or its file is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"There is no experiment {name!r}; there are {', '.join(names())}.")
    return read(path)


def read(path: Path) -> Experiment:
    """Read a file.

    Raises:
        ConfigError: If it is not YAML, or holds an unknown key or a value of the wrong type.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not is_bounded(loaded, 100_000, 20):
            raise ConfigError("it holds data in data beyond measure")
    except Exception as error:  # yaml's constructors raise KeyError, IndexError... on odd scalars
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(loaded).__name__}.")
    name = path.stem
    if path.is_relative_to(FOLDER):
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
    try:
        return _experiment(name, loaded)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: {short(error, 600)}") from error


def _files() -> list[Path]:
    return list(FOLDER.rglob("*.yaml"))


def _experiment(name: str, loaded: Mapping[str, Any]) -> Experiment:
    values = dict(loaded)
    recoveries = {
        key: _made(Recovery, {"name": key, **_tuples(value or {})}, f"recoveries: {key}")
        for key, value in _mapping(values.pop("recoveries", {}), "recoveries").items()
    }
    criteria = tuple(_choice(entry) for entry in values.pop("criteria", ()))
    for choice in criteria:
        for one in choice.recoveries or ():
            if one not in recoveries:
                raise ConfigError(f"criterion {choice.label!r}: there is no recovery {one!r}")
    values = _tuples(values)
    if len({choice.label for choice in criteria}) < len(criteria):
        raise ConfigError("criteria: two have the same label; give one another `label`")
    made = _made(
        Experiment, {**values, "name": name, "criteria": criteria, "recoveries": recoveries}, "it"
    )
    for choice in made.criteria:
        for key in ("budgets", "seeds"):
            asked, known = getattr(choice, key) or (), getattr(made, key)
            if any(value not in known for value in asked):
                raise ConfigError(
                    f"criterion {choice.label!r}: {key} {list(asked)} are to be among the "
                    f"experiment's, {list(known)}"
                )
    if any(not 0 < budget <= 1 for budget in made.budgets):
        raise ConfigError(f"budgets: {list(made.budgets)} are to be shares, above 0 and at most 1")
    return made


def _choice(entry: Any) -> Choice:
    if isinstance(entry, str):
        return Choice(entry, entry)
    values = _mapping(entry, "criteria")
    values = _tuples({"label": values.get("name"), **values})
    return _made(Choice, values, f"criterion {values['label']!r}")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with lists of names and numbers as tuples."""
    lists = ("models", "budgets", "seeds", "recoveries")
    return {k: tuple(v) if k in lists and isinstance(v, list) else v for k, v in values.items()}


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping, got {type(value).__name__}")
    return value


def _made(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An object of a dataclass; keys that it lacks are an error that names them."""
    known = [one.name for one in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in known]:
        raise ConfigError(f"{where} has no {unknown[0]!r}; it has {', '.join(known)}")
    return cls(**values)
