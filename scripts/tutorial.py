"""Run the commands of docs/tutorial.md from an empty folder and write what they print into it.

Usage: python scripts/tutorial.py [--check] [--keep FOLDER] [PAGE]

The page holds prose and blocks. A comment before a block says what to do with it:

    <!-- file: NAME -->          the block is the content of a file
    <!-- run -->                 the block is run by a shell; it has to succeed
    <!-- run: fails -->          it has to fail
    <!-- run: killed after 2 writes of PATH -->     SIGKILL once PATH was written twice
    <!-- show: 3 first, 4 last -->    after either of these: of a longer output, only these lines

A page that names ``sepprune_tp-*.whl`` finds the wheel of this checkout in its folder. Once there
is an environment ``pruning`` in the folder, its programs are run, as if it was activated.

What it printed follows between ``<!-- output: begin -->`` and ``<!-- output: end -->``. With
``--check`` nothing is written: the output has to be that of the page but for numbers.
"""

from __future__ import annotations

import argparse
import difflib
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
LIMIT = 1200  # seconds that one block may take
WHEEL = "sepprune_tp-*.whl"
WIDTH = 100  # columns of the terminal
BEGIN, END = "<!-- output: begin -->", "<!-- output: end -->"
MACHINE = re.compile(r"(<!-- machine: begin -->\n).*?(<!-- machine: end -->)", re.DOTALL)
BLOCK = re.compile(
    r"<!-- (?P<kind>file|run)(?:: (?P<how>[^\n]*?))? -->\n"
    r"(?:<!-- show: (?P<first>\d+) first, (?P<last>\d+) last -->\n)?"
    r"```\w+\n(?P<code>.*?)```\n"
    rf"(?:\n{BEGIN}\n(?P<output>.*?){END}\n)?",
    re.DOTALL,
)
BAR = re.compile(r"\d+%\|")  # a progress bar: of several lines the first and the last are kept
KILLED = re.compile(r"killed after (\d+) writes of (\S+)")


@dataclass(frozen=True)
class Step:
    """One block of the page.

    Attributes:
        kind: ``file`` or ``run``.
        how: Name of the file, or how the run ends.
        code: The block.
        shown: Lines of a long output to show, from its start and from its end; None: all.
        output: What the page shows after it; None: nothing yet.
        end: Where the block itself ends in the page.
        after: Where its output ends.
    """

    kind: str
    how: str
    code: str
    shown: tuple[int, int] | None
    output: str | None
    end: int
    after: int


class TutorialError(Exception):
    """The page cannot be run, or does not do what it says."""


def steps_of(page: str) -> Iterator[Step]:
    """The blocks of a page that are files or commands.

    Raises:
        TutorialError: If a comment is not followed by a block, or says something unknown.
    """
    found = list(BLOCK.finditer(page))
    asked = len(re.findall(r"^<!-- (?:file|run)\b", page, re.MULTILINE))
    if len(found) != asked:
        raise TutorialError(f"{asked} comments ask for a file or a run, {len(found)} have a block.")
    for match in found:
        how = match["how"] or ""
        if match["kind"] == "run" and how not in ("", "fails") and not KILLED.fullmatch(how):
            raise TutorialError(f"Unknown way to run: {how!r}.")
        shown = (int(match["first"]), int(match["last"])) if match["first"] else None
        end = match.end("code") + len("```\n")
        yield Step(match["kind"], how, match["code"], shown, match["output"], end, match.end())


def run_page(page: str, folder: Path) -> str:
    """Do everything that a page says, in order.

    Args:
        page: Its text.
        folder: An empty folder.

    Returns:
        The page with the outputs of this run.

    Raises:
        TutorialError: If a block does not end as the page says.
    """
    work, tools = folder / "tutorial", folder / "bin"
    work.mkdir()
    if WHEEL in page:
        _build_wheel(work)
    environment = _environment(work, tools)
    pieces, last, installing, began = [], 0, 0.0, time.monotonic()
    for step in steps_of(page):
        pieces.append(page[last : step.end])
        last = step.after
        if step.kind == "file":
            (work / step.how).write_text(step.code)
            continue
        start = time.monotonic()
        text = _clean(_run(step, work, environment), work)
        seconds = time.monotonic() - start
        installing += seconds if "pip install" in step.code else 0
        print(f"{seconds:5.0f} s  {step.code.splitlines()[0]}", file=sys.stderr)
        shown = _shortened(text, step.shown)
        pieces.append(f"\n{BEGIN}\n```text\n{shown}```\n{END}\n")
    took = time.monotonic() - began - installing
    print(f"{took:5.0f} s  in all, beside {installing:.0f} s for pip", file=sys.stderr)
    machine = f"This run took {took:.0f} s on a machine with {_machine()}"
    machine += f", after {installing:.0f} s of installing." if installing else "."
    return MACHINE.sub(rf"\g<1>{machine}\n\g<2>", "".join(pieces) + page[last:])


def _build_wheel(folder: Path) -> None:
    """Put the wheel of this checkout into a folder."""
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, timeout=LIMIT)


def _environment(work: Path, tools: Path) -> dict[str, str]:
    """A shell without packages, in which ``python3`` is the interpreter behind this one."""
    tools.mkdir()
    (tools / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **inherited,
        "PATH": f"{work / 'pruning' / 'bin'}:{tools}:{os.environ['PATH']}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONWARNINGS": "ignore",
        "COLUMNS": str(WIDTH),
        "TERM": "dumb",
        "OMP_WAIT_POLICY": "passive",
    }


def _run(step: Step, work: Path, environment: dict[str, str]) -> str:
    """What a block printed, on both streams."""
    killing = KILLED.fullmatch(step.how)
    command = ["bash", "-c", f"{'' if killing else 'set -e; '}{step.code}"]
    log = work.parent / "output"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            if killing:
                _wait_for_writes(work / killing[2], int(killing[1]), process)
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(timeout=LIMIT)
        except BaseException:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    text = log.read_bytes().decode(errors="replace")
    if killing:
        return f"{text}\n[ended by signal {-code}]\n"
    if (code != 0) != (step.how == "fails"):
        raise TutorialError(f"Ended with {code}:\n{step.code}\n{text[-4000:]}")
    return text


def _wait_for_writes(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file was written so many times (it is renamed into place each time)."""
    seen: set[int] = set()
    deadline = time.monotonic() + LIMIT
    while len(seen) < count:
        if process.poll() is not None:
            raise TutorialError(f"It ended with {process.returncode} before {path.name} was there.")
        if time.monotonic() > deadline:
            raise TutorialError(f"{path.name} was not written {count} times in {LIMIT} s.")
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        time.sleep(0.02)


def _clean(text: str, work: Path) -> str:
    """An output without colours, long paths and the times that a progress bar is redrawn."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rstrip() for line in re.split(r"\r?\n|\r", text)]
    bars = [n for n, line in enumerate(lines) if BAR.search(line)]
    between = set(bars[1:-1])
    lines = [line for n, line in enumerate(lines) if n not in between]
    kept = [line for n, line in enumerate(lines) if line or (n and lines[n - 1])]
    return "\n".join(kept).strip("\n").replace(str(work), "~/tutorial") + "\n"


def _shortened(text: str, shown: tuple[int, int] | None) -> str:
    """The lines to show of an output."""
    lines = text.splitlines(keepends=True)
    if shown is None or len(lines) <= sum(shown) + 1:
        return text
    first, last = shown
    left_out = f"... ({len(lines) - first - last} more lines)\n"
    return "".join([*lines[:first], left_out, *lines[len(lines) - last :]])


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*: (.*)", info)
    return f"{found[1] if found else platform.machine()}, {cores} core(s)"


def words_of(page: str) -> list[str]:
    """The outputs of a page without what differs between runs and machines: all numbers."""
    outputs = "\n".join(step.output or "" for step in steps_of(page))
    numbers = re.compile(r"-?\d[\d,.]*(?:e[-+]?\d+)?%?")
    lines = (numbers.sub("#", s) for s in outputs.splitlines() if not BAR.search(s))
    plain = (re.sub(r"[─━╭╮╰╯┏┓┗┛┡┩└┘├┤┼┬┴╇╈]+", "-", line) for line in lines)
    return [re.sub(r"\s+", " ", line).strip() for line in plain]


def main() -> int:
    """Run the page; 1 if it failed, or differs with ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--keep", type=Path, help="folder to work in; it is not removed")
    options = parser.parse_args()
    page = options.page.read_text()
    try:
        if options.keep:
            options.keep.mkdir(parents=True)
            new = run_page(page, options.keep.resolve())
        else:
            with tempfile.TemporaryDirectory() as folder:
                new = run_page(page, Path(folder))
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        difference = list(difflib.unified_diff(words_of(page), words_of(new), "page", "run", n=1))
        print("\n".join(difference))
        return int(bool(difference))
    temporary = options.page.with_suffix(".tmp")
    temporary.write_text(new)
    os.replace(temporary, options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
