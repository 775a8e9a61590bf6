"""``python -m benchmarks``: what there is, how far it is, something to hear."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import blocks_of, commands_of

pytest.importorskip("asteroid", reason="the benchmarks need the extra 'asteroid'")
pytest.importorskip("matplotlib", reason="plots need the extra 'cli'")
pytest.importorskip("typer", reason="the entry needs the extra 'cli'")
pytest.importorskip("benchmarks.harness", reason="benchmarks/ is not installed")

import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.harness import config
from benchmarks.harness.cells import NO_CHOICE, Cell
from benchmarks.harness.config import Choice, ConfigError, Recovery, names
from benchmarks.harness.data import FSDD
from benchmarks.kinds import audible, script
from benchmarks.pages import spectrograms

RATE = 8000
TONES = torch.sin(6.28 * torch.tensor([[300.0], [900.0]]) * torch.arange(RATE) / RATE)


def entry(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_list_names_every_experiment() -> None:
    done = entry("list")
    assert done.exit_code == 0
    assert all(any(line.startswith(f"{n} ") for line in done.output.splitlines()) for n in names())


def test_an_unknown_experiment_is_an_error_of_ours() -> None:
    done = entry("run", "qualities")
    assert isinstance(done.exception, ConfigError) and "quality" in str(done.exception)


README = Path(__file__).parents[1] / "benchmarks" / "README.md"


def own_experiment(path: Path, **changed: str) -> str:
    """The example of benchmarks/README.md, with parts of it replaced."""
    (example,) = blocks_of(README.read_text(), "yaml")
    text = example.code
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return str(path)


def test_an_experiment_of_ones_own(tmp_path: Path) -> None:
    if not FSDD.is_dir():
        pytest.skip(f"no speech recordings in {FSDD}")
    done = entry("status", own_experiment(tmp_path / "longer.yaml"))
    assert done.exit_code == 0 and "0 of 25 cells" in done.output


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 2000", "stepz: 2000", "criterion 'sepprune, 2000 steps'.*no option stepz"),
        ("name: sepprune", "name: seprune", "no criterion is called 'seprune'"),
        ("batch_size: 4", "batches: 4", "recoveries: recovered.*batches"),
        ("kind: quality", "kind: qualities", "kind 'qualities' is not one of ablation"),
    ],
)
def test_a_wrong_experiment_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    for command in ("run", "status"):
        done = entry(command, own_experiment(tmp_path / "longer.yaml", **{old: new}))
        assert isinstance(done.exception, ConfigError)
        assert re.search(message, str(done.exception)), done.exception


def test_the_commands_of_the_readme_parse() -> None:
    program = typer.main.get_command(app)
    calls = [words[2:] for _, words in commands_of(README.read_text(), "python")]
    assert len(calls) > 6
    for command, *rest in calls:
        context = program.commands[command].make_context(command, rest)
        for name in context.params.get("experiment") or ():
            assert name in names()


def test_a_script_is_run_and_its_page_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    page = tmp_path / "results" / "page.md"
    program = f"from pathlib import Path; Path({str(page)!r}).write_text('# T\\n\\n## A\\n\\nb\\n')"
    (tmp_path / "tool.py").write_text(program)
    (tmp_path / "own.yaml").write_text(
        f"kind: script\ntitle: Own\noptions: {{commands: ['{tmp_path}/tool.py'], page: page.md}}\n"
    )
    monkeypatch.setattr(script, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(config, "FOLDER", tmp_path)
    assert "missing" in entry("status", "own").output
    assert entry("run", "own").exit_code == 0
    assert "there" in entry("status", "own").output
    assert script.KIND.section(config.find("own")) == ["", "### A", "", "b"]


def test_what_is_heard_is_in_the_order_of_the_sources(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    heard = audible._heard(lambda x: TONES.flip(0)[None], TONES.sum(0), TONES)
    assert torch.equal(heard[2], TONES)
    digests = audible._written("tried_0", "dense", *heard, RATE, tmp_path)
    assert set(digests) == {path.name for path in tmp_path.iterdir()} and len(digests) == 5
    samples, rate = soundfile.read(tmp_path / "tried_0_dense_estimate2.wav")
    assert rate == RATE and abs(float(abs(samples).max()) - audible.LEVEL) < 1e-3
    spectrum = abs(torch.fft.rfft(torch.from_numpy(samples)))
    assert int(spectrum.argmax()) == 900


def test_a_mixture_is_drawn_once_all_models_were_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("soundfile")
    monkeypatch.setattr(spectrograms, "FOLDER", tmp_path)
    ours = Cell(Choice("sepprune/lookahead", "sepprune"), 0.5, 0, Recovery("pruned"))
    cells = [Cell(NO_CHOICE, 1.0, 0, Recovery("pruned")), ours]
    drawn = tmp_path / "heard_tried_0.png"
    for cell in cells:
        audible._drawn("tried_0", cells, tmp_path)
        assert not drawn.exists()
        audible._written("tried_0", audible._slug(cell), TONES.sum(0), TONES, TONES, RATE, tmp_path)
    audible._drawn("tried_0", cells, tmp_path)
    with Image.open(drawn) as image:
        assert image.height > image.width / 2  # four rows of two panels
        assert len(image.getcolors() or []) > 8


def test_perceived_quality_falls_with_noise() -> None:
    pytest.importorskip("pesq", reason="needs the extra 'benchmark'")
    pytest.importorskip("pystoi", reason="needs the extra 'benchmark'")
    generator = torch.Generator().manual_seed(0)
    envelope = (torch.sin(6.28 * 3 * torch.arange(3 * RATE) / RATE) > 0).float()
    sources = torch.randn(2, 3 * RATE, generator=generator) * envelope * 0.1
    noise = 0.1 * torch.randn(2, 3 * RATE, generator=generator)
    clean = audible._perceived(sources.sum(0), sources, sources + 0.01 * noise, RATE)
    noisy = audible._perceived(sources.sum(0), sources, sources + noise, RATE)
    assert clean[0] > noisy[0] and clean[1] > noisy[1] + 0.05
