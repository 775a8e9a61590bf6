"""The page of a pruned model on a hub: what it is, its figures before and after, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from sepprune_tp.checkpoint import Header
from sepprune_tp.errors import InputError
from sepprune_tp.files.extent import short

__all__ = ["figures_of", "model_card"]

STAGES = ("dense", "pruned", "recovered")
# Key, heading, scale and format of each figure; those that no stage has are left out.
FIGURES: tuple[tuple[str, str, float, str], ...] = (
    ("params", "Parameters", 1, "{:,.0f}"),
    ("macs", "MACs (M)", 1e6, "{:,.1f}"),
    ("si_sdri", "SI-SDRi (dB)", 1, "{:.2f}"),
    ("sdri", "SDRi (dB)", 1, "{:.2f}"),
    ("latency_ms", "Latency (ms)", 1, "{:.1f}"),
    ("rtf", "RTF", 1, "{:.4f}"),
)
COSTS = ("params", "macs", "latency_ms")
TAGS = ("audio", "audio-to-audio", "speech-separation", "pruning", "sepprune-tp")


def model_card(
    header: Header,
    repo_id: str,
    figures: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    license: str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
) -> str:
    """Markdown with the YAML front matter that the Hugging Face hub reads.

    Args:
        header: What the model's file says; see ``read_header``.
        repo_id: Where it will be, ``owner/name``.
        figures: Figures by stage, as ``figures_of`` gives them.
        license: Its identifier on the hub, such as ``cc-by-sa-4.0``. A pruned model is a derivative
            of the dense one: that one's licence holds.
        base_model: The dense model's name on the hub.
        dataset: What it was trained on, as the hub names it.

    Returns:
        The text of ``README.md``.
    """
    name, asteroid = _name_of(header), header.architecture.get("family") == "asteroid"
    front = {"library_name": "sepprune-tp", "pipeline_tag": "audio-to-audio"}
    named = {"license": license, "base_model": base_model}
    lines = ["---"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in {**front, **named}.items() if value]
    lines += ["tags:", *(f"- {tag}" for tag in (*TAGS, *(["asteroid", name] if asteroid else [])))]
    lines += ["datasets:", f"- {json.dumps(dataset)}"] if dataset else []
    lines += ["---", "", f"# {repo_id.rpartition('/')[2]}", ""]
    dense = f", from [{base_model}](https://huggingface.co/{base_model})" if base_model else ""
    lines += [f"{name} with fewer channels{dense}, made with sepprune-tp (learned channel gates, "]
    lines[-1] += "[SepPrune](https://arxiv.org/abs/2505.12079), on torch-pruning)."
    if figures:
        lines += ["", *_table(figures)]
    lines += [
        "",
        "## Use",
        "",
        *(_use_asteroid(repo_id) if asteroid else _use_other(name, repo_id)),
    ]
    lines += ["", "The file holds tensors and JSON, no pickle: loading it executes nothing in it."]
    lines += _origin(header)
    return "\n".join(lines) + "\n"


def figures_of(
    report: Mapping[str, Any] | None, header: Header, file_name: str, params: int | None = None
) -> dict[str, Mapping[str, Any]]:
    """Figures of the dense model and of this one, by stage.

    Args:
        report: What is in ``report.json`` (``dense``, ``pruned``, ``recovered``), in the report of
            a family (``dense``, ``members``), or None: what the file itself tells.
        header: What the model's file says.
        file_name: Its name, by which it is found among the members of a family.
        params: Its number of parameters, if known: a report of another model is refused.

    Raises:
        InputError: If the report is of another kind, or of another model.
    """
    if report is None:
        report = header.metadata
        if not {"dense", "pruned"} <= report.keys():
            return {}
    found = {stage: report[stage] for stage in STAGES if isinstance(report.get(stage), Mapping)}
    members = [m for m in _listed(report.get("members")) if isinstance(m, Mapping)]
    if members:
        fitting = [m for m in members if m.get("file") == file_name]
        fitting = fitting or [m for m in members if m.get("params") == params]
        if not fitting:
            listed = short(", ".join(str(m.get("file")) for m in members[:20]))
            raise InputError(f"The report is of {listed}, and {file_name} is none of these.")
        found["pruned"] = fitting[0]
    if not found.keys() - {"dense"}:
        raise InputError(
            "The report has neither 'pruned' nor 'recovered' nor 'members'. Give the "
            "report.json of a job, or the NAME-family.json of `sepprune prune --budgets`."
        )
    told = {stage: figures.get("params") for stage, figures in found.items() if stage != "dense"}
    if params is not None and params not in told.values() and any(told.values()):
        raise InputError(
            f"The report is of another model: {file_name} has {params:,} parameters, and those in "
            f"the report have {', '.join(f'{p:,}' for p in told.values() if _is_number(p))}."
        )
    return found


def _name_of(header: Header) -> str:
    return short(str(header.architecture.get("name", "model")).rpartition(".")[2])


def _table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    shown = [f for f in FIGURES if any(_is_number(s.get(f[0])) for s in figures.values())]
    lines = [_row(["", *(heading for _, heading, _, _ in shown)])]
    lines += [_row(["---", *["---:"] * len(shown)])]
    for stage, values in figures.items():
        dense = figures.get("dense", {}) if stage != "dense" else {}
        cells = [_cell(values.get(f[0]), dense.get(f[0]), f) for f in shown]
        lines.append(_row([stage, *cells]))
    return lines


def _cell(value: Any, dense: Any, figure: tuple[str, str, float, str]) -> str:
    """A figure, and of a cost its share of the dense model's."""
    key, _, scale, pattern = figure
    if not _is_number(value):
        return ""
    text = pattern.format(value / scale)
    return f"{text} ({value / dense:.0%})" if key in COSTS and _is_number(dense) and dense else text


def _use_asteroid(repo_id: str) -> list[str]:
    return [
        "```sh",
        "pip install 'sepprune-tp[asteroid,files]'",
        "```",
        "",
        "```python",
        "from sepprune_tp.loading import load_model",
        f'model = load_model("{repo_id}")    # an Asteroid model like any other',
        "sources = model.separate(mixture)  # (B, T) -> (B, S, T)",
        "```",
    ]


def _use_other(name: str, repo_id: str) -> list[str]:
    return [
        "```python",
        "from huggingface_hub import hf_hub_download",
        "from sepprune_tp import load_pruned",
        f'file = hf_hub_download("{repo_id}", "model.safetensors")',
        f"model = load_pruned(file, model={name}(...))  # built as it was before pruning",
        "```",
    ]


def _origin(header: Header) -> list[str]:
    """How the model came about, as far as its file tells."""
    told = {"versions": header.versions, **header.metadata}
    keys = ("settings", "recovery", "machine", "date", "versions")
    lines = [f"- {key}: {_plain(told[key])}" for key in keys if told.get(key)]
    return ["", "## How it was made", "", *lines] if lines else []


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        items = [f"{key} {_plain(item)}" for key, item in value.items() if item is not None]
        return ", ".join(items)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return re.sub(r"\s+", " ", text)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a figure can be shown."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e18 < value < 1e18


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
