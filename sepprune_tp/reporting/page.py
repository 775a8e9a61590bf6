"""The report as one page of HTML that needs nothing else: no network, no files, no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import curves
from .audio import RANGE, Clip, Signal, loudest, spectrogram, wav
from .markup import Markup, bar, element, join, number, section
from .style import STYLE
from .summary import SCALES, STAGES, heading, plain_text, shown_figures

__all__ = ["html_page"]

# The page can load nothing, whatever is in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
SHARED = ("params", "macs", "latency_ms")  # figures with a share of the dense model's
HOW = ("data", "mixtures", "settings", "seconds", "machine", "threads", "versions", "date")

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class _Model:
    """One model of a report: what it is called, its figures, and channels kept if it was cut."""

    name: str
    figures: Figures
    groups: Mapping[str, Sequence[int]] | None = None


def html_page(report: Mapping[str, Any], clips: Sequence[Clip] = ()) -> str:
    """The page of a report; what the report does not hold is left out.

    Args:
        report: As it is written to JSON: figures under ``dense`` and some of ``pruned`` and
            ``recovered`` with ``groups`` (channels kept and before), or ``dense`` and ``members``
            of a family with ``groups`` each; ``history`` with the records of ``search`` and
            ``recovery``; ``model``, ``settings`` and what :func:`~.summary.environment` says.
        clips: Mixtures to listen to.

    Returns:
        The text of an HTML file, the same for the same input.
    """
    models = _models(report)
    history = report.get("history", {})
    parts = {
        "summary": ("Summary", _summary(models)),
        "curve": ("Quality and cost", curves.quality([(m.name, m.figures) for m in models])),
        "channels": ("Channels kept", _channels(models)),
        "parts": ("MACs by part", _parts(models)),
        "search": ("Search", curves.search(history.get("search", ()))),
        "recovery": ("Recovery", curves.recovery(history.get("recovery", ()))),
        "listen": ("Listen", _listen(clips)),
        "how": ("How", _how(report)),
    }
    there = {name: part for name, part in parts.items() if part[1]}
    title = "One search, several budgets" if "members" in report else _TITLE
    links = [
        element("li", element("a", head, href=f"#{name}")) for name, (head, _) in there.items()
    ]
    header = (element("h1", title), *_lead(report, models))
    body = (
        element("header", *header, element("nav", element("ul", *links), aria_label="Sections")),
        element("main", *(section(name, head, *made) for name, (head, made) in there.items())),
    )
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(f"\n{STYLE}\n")),
    )
    page = (element("head", join(head, "\n")), element("body", join(body, "\n")))
    return f"<!DOCTYPE html>\n{element('html', join(page), lang='en')}\n"


_TITLE = "From a trained separator to a smaller one"


def _models(report: Mapping[str, Any]) -> list[_Model]:
    if "members" in report:
        members = (_Model(f"budget {m['budget']}", m, m.get("groups")) for m in report["members"])
        return [_Model("dense", report["dense"]), *members]
    groups = {"pruned": report.get("groups")}
    return [_Model(stage, report[stage], groups.get(stage)) for stage in STAGES if stage in report]


def _lead(report: Mapping[str, Any], models: Sequence[_Model]) -> Iterable[Markup]:
    """What was pruned to what, in a sentence."""
    if "model" in report:
        yield element("p", "Model: ", element("strong", report["model"]))
    if len(models) > 1:
        first, last = (
            models[0].figures,
            min(models, key=lambda model: model.figures["macs"]).figures,
        )
        lead = "The smallest: " if "members" in report else ""
        lead += f"{last['macs'] / first['macs']:.1%} of the MACs and "
        lead += f"{last['params'] / first['params']:.1%} of the parameters are left"
        final = models[-1].figures if "members" not in report else last
        if "si_sdri" in first and "si_sdri" in final:
            lead += f"; SI-SDRi {first['si_sdri']:.2f} → {final['si_sdri']:.2f} dB"
        unrecovered = "si_sdri" in final and "recovered" not in report
        yield element("p", f"{lead}{', before any recovery' * unrecovered}.")


def _table(kind: str, caption: str, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table that scrolls by itself where the screen is narrow; the first cells are headers."""
    lines = (
        element(
            "tr",
            element("th", first, scope="row"),
            *(element("td", cell) for cell in cells),
        )
        for first, *cells in rows
    )
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        element("tbody", join(lines, "\n")),
        class_=kind,
    )
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _summary(models: Sequence[_Model]) -> Sequence[Markup]:
    if not models:
        return ()
    shown = shown_figures(model.figures for model in models)
    head = ["Model", *map(heading, shown)]
    dense = models[0].figures
    rows = [
        [
            model.name,
            *(_figure(model.figures, dense, key, unit, form) for key, _, unit, form in shown),
        ]
        for model in models
    ]
    caption = "Figures of each model, costs with their share of the dense model's"
    return [_table("figures", caption, head, rows)]


def _figure(figures: Figures, dense: Figures, key: str, unit: str, form: str) -> Markup:
    value = figures[key]
    shown = number(value, form.format(value / SCALES.get(unit, 1)))
    if key in SHARED and figures is not dense and dense.get(key):
        return join((shown, f" ({value / dense[key]:.0%})"))
    return shown


def _channels(models: Sequence[_Model]) -> Sequence[Markup]:
    cut = [model for model in models if model.groups]
    if not cut:
        return ()
    assert cut[0].groups is not None
    most = max(before for _, before in cut[0].groups.values())
    rows = [
        [name, *(_kept(model.groups[name], most) for model in cut if model.groups)]
        for name in cut[0].groups
    ]
    caption = "Channels kept of each group of coupled channels (named after its first layer)"
    note = element("p", "Filled: kept. Outline: the dense model.", class_="quiet")
    return [note, _table("wide", caption, ["Group", *(model.name for model in cut)], rows)]


def _kept(sizes: Sequence[int], most: int) -> Markup:
    kept, before = sizes
    return join((bar(kept, before, most), number(kept, str(kept)), f" of {before}"))


def _parts(models: Sequence[_Model]) -> Sequence[Markup]:
    tables = (
        ("macs_by_part", "Part", "MACs (M) of encoder, separator and decoder"),
        ("macs_by_block", "Block", "MACs (M) of each block, named after what its layers share"),
    )
    return [table for args in tables for table in _costs(models, *args)]


def _costs(models: Sequence[_Model], key: str, what: str, caption: str) -> Sequence[Markup]:
    """A table of the MACs of some parts, a column a model that differs from the one before."""
    found: list[tuple[_Model, Mapping[str, int]]] = []
    for model in models:
        macs: Mapping[str, int] = model.figures.get(key) or {}
        if macs and (not found or macs != found[-1][1]):  # recovery changes no MACs
            found.append((model, macs))
    if not found:
        return ()
    dense = found[0][1]
    most = max(dense.values())
    rows = [
        [name, *(_spent(macs.get(name, 0), dense[name], most) for _, macs in found)]
        for name in dense
        if dense[name]
    ]
    return [_table("wide", caption, [what, *(model.name for model, _ in found)], rows)]


def _spent(macs: int, before: int, most: int) -> Markup:
    shown = number(macs, f"{macs / 1e6:,.2f}")
    return join((bar(macs, before, most), shown, f" ({macs / before:.0%})"))


def _listen(clips: Sequence[Clip]) -> Sequence[Markup]:
    note = (
        "The beginning of mixtures that the figures above are of. An estimate is made as loud as "
        "its source; its SI-SDR is that of the whole mixture. Spectrograms: time from left to "
        f"right, frequency from bottom to top, {RANGE:.0f} dB from dark to bright."
    )
    return [element("p", note, class_="quiet"), *map(_clip, clips)] if clips else ()


def _clip(clip: Clip) -> Markup:
    level = loudest(clip.signals[0].samples)
    seconds = len(clip.signals[0].samples) / clip.rate
    extent = f"{seconds:.1f} s, 0 to {clip.rate / 2000:g} kHz"
    return join(
        (
            element("h3", clip.name),
            element("p", extent, class_="quiet"),
            element(
                "div", *(_signal(s, clip, extent, level) for s in clip.signals), class_="clips"
            ),
        )
    )


def _signal(signal: Signal, clip: Clip, extent: str, level: float) -> Markup:
    words = [element("strong", signal.name)]
    if signal.si_sdr is not None:
        words += [Markup("SI-SDR "), number(signal.si_sdr, f"{signal.si_sdr:.1f}"), Markup(" dB")]
    what = f"{signal.name} of {clip.name}"
    return element(
        "figure",
        element("figcaption", *words),
        element(
            "img", src=spectrogram(signal.samples, level), alt=f"Spectrogram: {what}, {extent}"
        ),
        element(
            "audio",
            controls=True,
            preload="none",
            src=wav(signal.samples, clip.rate),
            aria_label=f"Listen to {what}",
        ),
    )


def _how(report: Mapping[str, Any]) -> Sequence[Markup]:
    rows = []
    for key in (key for key in HOW if key in report):
        value = report[key]
        if isinstance(value, Mapping):
            rows += [[f"{key}: {k}", plain_text(v)] for k, v in value.items() if v is not None]
        else:
            rows.append([key, plain_text(value)])
    caption = "Settings, times, versions and machine"
    return [_table("words", caption, ["What", "Value"], rows)] if rows else ()
