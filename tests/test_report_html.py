"""The page of a report: whole, self-contained, escaped, and true to the figures in JSON."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import wave
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from sepprune_tp.reporting.audio import Clip, Signal, listen, spectrogram, wav
from sepprune_tp.reporting.charts import smoothed, thinned, ticks
from sepprune_tp.reporting.markup import element
from sepprune_tp.reporting.page import html_page
from sepprune_tp.reporting.summary import block_of, finite, markdown_report

RATE = 8000
NASTY = "<script>alert('x')</script>\"&"
VOID = {"img", "meta"}
EVERY = ("summary", "curve", "channels", "parts", "search", "recovery", "listen", "how")


class Page(HTMLParser):
    """Reads a page and insists that every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.exact: list[float] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), tag
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.exact.append(float(dict(attrs)["value"] or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.all("section")]


def figures(share: float, quality: float) -> dict[str, Any]:
    return {
        "si_sdri": quality,
        "sdri": quality + 0.51234,
        "params": int(1000 * share),
        "macs": int(12345678 * share),
        "latency_ms": 12.3456 * share,
        "rtf": 0.0123456 * share,
        "macs_by_part": {"encoder": 345678, "separator": int(12e6 * share)},
        "macs_by_block": {"encoder": 345678, "masker.TCN.0": int(7.5e6 * share)},
    }


def report() -> dict[str, Any]:
    """A report with everything in it."""
    searched = [
        {"loss": -8 + math.sin(step), "macs": 1.0, "macs_expected": 0.9, "macs_limit": 0.5}
        for step in range(900)
    ]
    return {
        "model": "net.safetensors",
        "dense": figures(1.0, 8.21234),
        "pruned": figures(0.5, 5.71234),
        "recovered": figures(0.5, 7.81234),
        "groups": {"masker.first": [3, 8], "masker.second": [16, 16]},
        "history": {
            "search": [{"loss": -9.0, "macs": 1.0}, *searched],
            "recovery": [{"step": 0, "si_sdr": 5.5}, {"step": 100, "si_sdr": 7.75}],
        },
        "data": "test mixtures",
        "settings": {"budget_macs": 0.25, "lr": 0.001, "budget_params": None},
        "machine": "x86_64",
        "date": "2026-01-01",
    }


def clips(name: str = "one.wav") -> list[Clip]:
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    kinds = [Signal("mixture", 0.1 * noise), Signal("pruned, estimate 1", 0.2 * noise, 9.125)]
    return [Clip(name, RATE, kinds)]


def family() -> dict[str, Any]:
    members = [
        {"file": f"{share}.safetensors", "budget": str(share), "groups": {"a": [1, 4]}}
        | figures(share, 8 * share)
        for share in (0.25, 0.5, 0.75)
    ]
    return {"dense": {"file": "dense.pth", **figures(1.0, 8.5)}, "members": members}


def test_page_is_whole_and_holds_every_section() -> None:
    page = Page(html_page(report(), clips()))
    assert page.sections == list(EVERY)
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in EVERY]
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in identifiers
    words = "".join(page.words)
    assert "50.0% of the MACs" in words and "8.21 → 7.81 dB" in words
    assert "0.25" in words and "0.001" in words and "budget_params" not in words


def test_page_is_accessible() -> None:
    page = Page(html_page(report(), clips()))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    assert page.all("img") and all(image["alt"] for image in page.all("img"))
    assert all(audio["aria-label"] and "controls" in audio for audio in page.all("audio"))
    assert len(page.all("table")) == len(page.all("caption")) == 5
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    drawings = page.all("svg")
    assert len(drawings) == 4 and all(drawing["role"] == "img" for drawing in drawings)
    assert len(page.all("desc")) == 4


def test_page_loads_nothing() -> None:
    text = html_page(report(), clips())
    page = Page(text)
    for _, attributes in page.elements:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("data:", "#"))
    without = re.sub(r'"data:[^"]*"', '""', text).replace('http-equiv="Content', "")
    assert "http" not in without and "//" not in without and "url(" not in without
    assert not page.all("script") and not page.all("link")
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


@pytest.mark.parametrize("source", [report, family])
def test_numbers_are_those_of_the_report(source: Any) -> None:
    content = source()
    exact = Page(html_page(content)).exact
    models = [content[name] for name in ("dense", "pruned", "recovered") if name in content]
    for model in [*models, *content.get("members", ())]:
        for key in ("si_sdri", "sdri", "params", "macs", "latency_ms", "rtf"):
            assert model[key] in exact
        assert model["macs_by_part"]["separator"] in exact
        assert model["macs_by_block"]["masker.TCN.0"] in exact


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("groups", {"channels"}),
        ("history", {"search", "recovery"}),
        ("settings", set()),
    ],
)
def test_what_is_unknown_is_left_out(key: str, gone: set[str]) -> None:
    content = report()
    del content[key]
    assert set(Page(html_page(content, clips())).sections) == set(EVERY) - gone


def test_blocks_are_what_a_number_in_names_stands_for() -> None:
    names = ("encoder.filterbank", "masker.bottleneck.1", "masker.TCN.0.shared_block.0", "gain")
    assert [block_of(name) for name in names] == [
        "encoder",
        "masker.bottleneck",
        "masker.TCN.0",
        "gain",
    ]


def test_costs_alone() -> None:
    content = report()
    for stage in ("dense", "pruned", "recovered"):
        for name in ("si_sdri", "sdri", "latency_ms", "rtf", "macs_by_part", "macs_by_block"):
            del content[stage][name]
    del content["recovered"]
    page = Page(html_page(content))
    assert set(page.sections) == {"summary", "channels", "search", "recovery", "how"}
    assert "SI-SDRi" not in "".join(page.words)
    assert "SI-SDRi" not in markdown_report(content)
    assert Page(html_page({})).sections == []


def test_a_family_has_a_curve_and_a_column_a_member() -> None:
    page = Page(html_page(family()))
    assert page.sections == ["summary", "curve", "channels", "parts"]
    words = "".join(page.words)
    assert all(f"budget {share}" in words for share in (0.25, 0.5, 0.75))
    assert len(page.all("circle")) == 4


def test_names_are_text() -> None:
    content = report() | {"model": NASTY, "data": NASTY, "machine": NASTY}
    content["groups"] = {NASTY: [1, 2]}
    content["settings"] = {NASTY: NASTY}
    page = Page(html_page(content, [Clip(NASTY, RATE, [Signal(NASTY, torch.zeros(300), 1.0)])]))
    assert not page.all("script")
    assert "".join(page.words).count(NASTY) >= 7
    assert page.all("img")[0]["alt"].count(NASTY) == 2  # type: ignore[union-attr]
    members = [m | {"budget": NASTY, "file": NASTY} for m in family()["members"]]
    assert not Page(html_page(family() | {"members": members})).all("script")
    assert element("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'


def test_same_input_same_bytes() -> None:
    assert html_page(report(), clips()) == html_page(report(), clips())


def test_audio_is_what_was_given() -> None:
    samples = torch.linspace(-1.5, 1.0, 500)
    kind, content = wav(samples, RATE).split(";base64,")
    with wave.open(io.BytesIO(base64.b64decode(content))) as file:
        shape = (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes())
        found = torch.frombuffer(bytearray(file.readframes(500)), dtype=torch.int16)
    assert kind == "data:audio/wav" and shape == (1, 2, RATE, 500)
    assert torch.allclose(found / 32767, samples.clamp(-1, 1), atol=1e-4)
    png = base64.b64decode(spectrogram(samples, 1.0).partition(",")[2])
    assert png.startswith(b"\x89PNG")


class Halves(nn.Module):
    """Gives the sources back, in the wrong order and 10 times as loud."""

    sources = torch.randn(2, 5 * RATE, generator=torch.Generator().manual_seed(1))

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return 10 * self.sources.flip(0)[None]


def test_estimates_are_aligned_with_their_sources() -> None:
    sources = Halves.sources
    mixtures = [(f"{i}", sources.sum(0), sources) for i in range(5)]
    found = listen({"dense": Halves(), "pruned": Halves()}, mixtures, RATE)
    assert len(found) == 3, "no more than three"
    names = [signal.name for signal in found[0].signals]
    assert names[:3] == ["mixture", "source 1", "source 2"]
    assert names[3:] == [f"{model}, estimate {i}" for model in ("dense", "pruned") for i in (1, 2)]
    _, *rest = (signal.samples for signal in found[0].signals)
    assert all(torch.allclose(rest[i], rest[i % 2], atol=1e-2) for i in range(6))
    assert all((signal.si_sdr or 0) > 40 for signal in found[0].signals[3:])
    assert max(float(samples.abs().max()) for samples in rest) <= 0.9
    assert len(rest[0]) == 4 * RATE


def test_many_loud_signals_stay_within_a_few_megabytes() -> None:
    sources = Halves.sources
    models = {str(number): Halves() for number in range(6)}
    found = listen(models, [("long", sources.sum(0), sources)] * 3, 48_000)
    assert len(html_page({}, found)) < 6_000_000


def test_charts_have_round_ticks_and_few_points() -> None:
    assert [label for _, label in ticks(0, 105)] == ["0", "20", "40", "60", "80", "100"]
    assert next(label for _, label in ticks(-0.03, 0.04)) == "-0.02"
    for low, high in ((0, 1e-6), (5.4, 5.6), (-1e4, 3e5), (1, 2)):
        assert 2 <= len(ticks(low, high)) <= 7
    points = [(float(x), 1.0) for x in range(5001)]
    assert len(thinned(points)) <= 402 and thinned(points)[-1] == points[-1]
    assert smoothed([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]
    assert finite([{"loss": math.nan, "macs": 0.5}]) == [{"loss": None, "macs": 0.5}]


def test_prune_writes_its_report(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    pytest.importorskip("fast_bss_eval")
    soundfile = pytest.importorskip("soundfile")
    models = pytest.importorskip("asteroid.models")
    from sepprune_tp.checkpoint import save_pruned
    from sepprune_tp.cli import main

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
        )
    save_pruned(net, tmp_path / "dense.safetensors")
    generator = torch.Generator().manual_seed(0)
    for index in range(10):
        sources = 0.05 * torch.randn(2, RATE, generator=generator)
        parts = {"mix": sources.sum(0), "s1": sources[0], "s2": sources[1]}
        for name, signal in parts.items():
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "data" / name / f"{index}.wav", signal.numpy(), RATE)
    out = tmp_path / "small.safetensors"
    options = ["--steps", "6", "--batch-size", "1", "--seconds", "0.25"]
    command = ["prune", str(tmp_path / "dense.safetensors"), "--data", str(tmp_path / "data")]
    assert main([*command, "-o", str(out), *options]) == 0
    content = json.loads((tmp_path / "small-report.json").read_text())
    text = (tmp_path / "small-report.html").read_text()
    page = Page(text)
    assert set(page.sections) == set(EVERY) - {"recovery"}
    assert content["pruned"]["macs"] in page.exact and content["dense"]["si_sdri"] in page.exact
    assert len(content["history"]["search"]) == 6
    limits = [record.get("macs_limit") for record in content["history"]["search"]]
    assert limits[0] is None and limits[-1] == pytest.approx(0.5)
    assert "| pruned |" in (tmp_path / "small-report.md").read_text()
    assert len(page.all("audio")) == 1 + 2 + 2 * 2
    assert len(text) < 4_000_000

    bare = tmp_path / "bare.safetensors"
    assert main([*command, "-o", str(bare), *options, "--no-report"]) == 0
    assert sorted(p.name for p in tmp_path.glob("bare*")) == ["bare.safetensors"]
    family = [*options, "--budgets", "0.5,0.8", "--curve-mixtures", "0"]
    assert main([*command, "-o", str(bare), *family]) == 0
    page = Page((tmp_path / "bare-family.html").read_text())
    assert page.sections == ["summary", "channels", "parts", "search", "how"]
    assert not list(tmp_path.glob(".*.tmp"))
