"""What the pages say is true: examples run, commands exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import (
    NOT_RUN,
    PAGES,
    README,
    ROOT,
    anchors_of,
    blocks_of,
    commands_of,
    inline_of,
    links_of,
)

TUTORIAL = ROOT / "docs" / "tutorial.md"  # its blocks are files, which scripts/tutorial.py runs
WITH_EXAMPLES = [p for p in PAGES if p != TUTORIAL and blocks_of(p.read_text(), "python")]
EXTRAS = ("asteroid", "safetensors", "soundfile", "lightning", "fast_bss_eval", "onnx")
OTHERS = ("--revision",)  # options of other programs that the pages name


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# -- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=named)
def test_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page's blocks share their names, as in one session."""
    for extra in EXTRAS:
        pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "example"}
    ran = 0
    for block in blocks_of(page.read_text(), "python"):
        if not block.code.startswith(NOT_RUN):
            code = "\n" * (block.line - 1) + block.code  # so that errors name the page's lines
            exec(compile(code, str(page), "exec"), names)
            ran += 1
    assert ran
    if page == README:
        assert 0 < float(capsys.readouterr().out.split()[0]) <= 0.5


def test_a_page_starts_with_what_it_imports() -> None:
    """Whoever copies the first block of a page can run it."""
    for page in WITH_EXAMPLES:
        assert re.search(r"^(import|from) ", blocks_of(page.read_text(), "python")[0].code, re.M)


# -- commands -------------------------------------------------------------------------------------


def parsed(arguments: list[str]) -> Any:
    """Read a command line as the program does, and do nothing else."""
    typer = pytest.importorskip("typer")
    from sepprune_tp.commands import app

    group = typer.main.get_command(app)
    if arguments == ["--install-completion"]:  # would write to the home folder
        assert any("--install-completion" in parameter.opts for parameter in group.params)
        return None
    with group.make_context("sepprune", list(arguments), resilient_parsing=False) as context:
        name, command, rest = group.resolve_command(context, list(arguments))
        return command.make_context(name, rest, parent=context)


def test_every_command_line_parses() -> None:
    pytest.importorskip("typer")
    count = 0
    for page in PAGES:
        for line, arguments in commands_of(page.read_text()):
            count += 1
            if "--config" in arguments:  # the file is the reader's
                place = arguments.index("--config")
                arguments = arguments[:place] + arguments[place + 2 :]
                arguments += ["--data", "data", "-o", "out.safetensors"]
            try:
                parsed(arguments)
            except Exception as error:
                what = getattr(error, "message", None) or repr(error)
                pytest.fail(f"{named(page)}:{line}: sepprune {' '.join(arguments)}: {what}")
    assert count > 20


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", "m.pth", "--data", "d", "-o", "s.safetensors", "--budget-mac", "0.5"],
        ["prune", "m.pth", "--data", "d", "-o", "s.safetensors", "--steps", "many"],
        ["shrink", "m.pth"],
        ["profile"],
    ],
)
def test_wrong_command_lines_do_not_parse(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|valid integer|missing"):
        parsed(arguments)


def options() -> set[str]:
    typer = pytest.importorskip("typer")
    from sepprune_tp.commands import app

    commands = typer.main.get_command(app).commands.values()
    held = [p for command in commands for p in command.params]
    return {name for p in held for name in (*p.opts, *p.secondary_opts)} | {"--help"}


def test_every_option_in_the_prose_exists() -> None:
    known = options()
    for page in PAGES:
        for text in inline_of(page.read_text()):
            if re.match(r"(sepprune |--|-\w )", text):
                named_here = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - set(OTHERS)
                assert named_here <= known, f"{named(page)}: {text}"


def test_the_table_of_commands_names_them_all() -> None:
    typer = pytest.importorskip("typer")
    from sepprune_tp.commands import app

    listed = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)
    assert set(typer.main.get_command(app).commands) <= set(listed)


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "benchmarks").glob("*.md")], ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page.read_text()):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors_of(target.read_text()), link


def test_a_page_without_a_link_to_it_is_lost() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve() for link in links_of(index.read_text())
    }
    assert {p.resolve() for p in (ROOT / "docs").iterdir() if p.suffix in (".md", ".ipynb")} <= (
        linked | {index.resolve()}
    )
    assert any(link.startswith("docs/") for link in links_of(README.read_text()))


def test_links_and_anchors_are_found() -> None:
    text = "# A `b` C!\n[x](y.md#a-b-c) and `[no](z)`\n```\n[no](z)\n# no\n```\n# A b C\n"
    assert links_of(text) == ["y.md#a-b-c"]
    assert anchors_of(text) == {"a-b-c", "a-b-c-1"}


@pytest.mark.slow
def test_the_readmes_commands_run(tmp_path: Path) -> None:
    """Word for word, where there are a model and mixtures of these names."""
    for extra in (*EXTRAS, "typer", "rich", "matplotlib"):
        pytest.importorskip(extra)
    from asteroid.models import ConvTasNet
    from cli_case import write_data

    sizes = {"n_filters": 16, "bn_chan": 8, "hid_chan": 16, "skip_chan": 8, "n_blocks": 2}
    torch.save(ConvTasNet(n_src=2, n_repeats=1, **sizes).serialize(), tmp_path / "model.pth")
    write_data(tmp_path / "wham/wav8k/min", "mix")
    commands = [
        line
        for block in blocks_of(README.read_text(), "sh")
        for line in block.code.splitlines()
        if line.startswith("sepprune ")
    ]
    assert len(commands) == 2
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in commands:
        run = subprocess.run(
            line, shell=True, cwd=tmp_path, env=tools, capture_output=True, text=True, timeout=900
        )
        assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "recovered.safetensors").is_file()
    assert (tmp_path / "small-report.html").is_file()


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 160


# -- the tutorial ---------------------------------------------------------------------------------


def test_the_tutorial_has_run() -> None:
    sys.path.append(str(ROOT / "scripts"))
    try:
        from tutorial import steps_of
    finally:
        sys.path.pop()
    steps = list(steps_of(TUTORIAL.read_text()))
    runs = [step for step in steps if step.kind == "run"]
    assert len(runs) >= 8 and all(step.output for step in runs)
    assert not any("Traceback" in (step.output or "") for step in runs)
    marked = {step.code for step in steps}
    for block in blocks_of(TUTORIAL.read_text(), "sh", "python"):
        assert block.code in marked, f"line {block.line} is neither run nor a file"


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_shows() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "tutorial.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1700, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
