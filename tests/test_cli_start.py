"""The program itself: how fast it starts, its help, completion, exit codes, and terminals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("soundfile")
pytest.importorskip("asteroid")

from cli_case import ROOT, process, run, write_data, write_model

from sepprune_tp import _starting

HEAVY = ("torch", "torch_pruning", "asteroid", "lightning", "numpy", "matplotlib")
# As the console script does it: its name is what tells the package that it may wait.
PROGRAM = "import sys\nfrom sepprune_tp.cli import main\n{before}\ncode = main()\n{after}\n"


def program(folder: Path, *arguments: object, before: str = "", after: str = "") -> str:
    """Output of a console script with code around the call."""
    script = folder / "sepprune"
    script.write_text(PROGRAM.format(before=before, after=after))
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_needs_no_torch(tmp_path: Path) -> None:
    loaded = f"print([name for name in {HEAVY} if name in sys.modules])"
    assert program(tmp_path, "--help", after=loaded).splitlines()[-1] == "[]"
    assert program(tmp_path, "prune", "--help", after=loaded).splitlines()[-1] == "[]"
    wrong = program(tmp_path, "profile", "--nosuch", after=f"{loaded}\nassert code == 2")
    assert wrong.splitlines()[-1] == "[]"


def test_a_command_has_the_whole_package(tmp_path: Path) -> None:
    """What importing it does elsewhere is done before a model is opened."""
    (tmp_path / "built.py").write_text(
        "import sys\n"
        "from torch import nn\n"
        "import sepprune_tp\n"
        "from sepprune_tp.gates.resources import _BUILDERS\n"
        "assert {'memory', 'latency'} <= set(_BUILDERS)\n"
        "assert sepprune_tp.GateSet and sepprune_tp.profile.__name__ == 'profile'\n"
        "assert callable(sepprune_tp.profile)\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 2, 3, padding=1))\n"
        "    net.sample_rate = 8000\n"
        "    return net\n"
    )
    before = "assert 'torch' not in sys.modules\nsys.path.insert(0, '.')"
    before = before.replace("'.'", repr(str(tmp_path)))
    out = program(tmp_path, "profile", "built:build", "--json", before=before)
    assert json.loads(out)["params"] == 8


def test_other_processes_do_not_wait() -> None:
    assert not _starting.is_put_off()  # pytest's
    code = "import sepprune_tp, sys; print('torch' in sys.modules, sepprune_tp.GateSet.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True GateSet\n"


@pytest.mark.slow
def test_processes_on_several_devices_have_it_too(tmp_path: Path) -> None:
    """They are started from the program that waits, under its name."""
    pytest.importorskip("lightning")
    model, data = write_model(tmp_path / "m.safetensors"), write_data(tmp_path / "data")
    options = ("--steps", 2, "--batch-size", 2, "--seconds", 0.25, "--no-report")
    where = ("--devices", 2, "--accelerator", "cpu", "--budget-memory", "99%", "--scope", "all")
    command = ("prune", model, "--data", data, "-o", tmp_path / "o.safetensors", *options, *where)
    script = tmp_path / "sepprune"
    script.write_text(
        "import sys\nfrom sepprune_tp.cli import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, script, *map(str, command), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["budget"]["memory"]["asked"] == "'99%'"


def test_names_that_are_put_off_load_the_package(tmp_path: Path) -> None:
    before = (
        "import sepprune_tp\nassert 'torch' not in sys.modules\n"
        "assert sepprune_tp.Budget(macs=0.5).macs == 0.5 and 'torch' in sys.modules\n"
        "assert not hasattr(sepprune_tp, 'nothing')"
    )
    assert "sepprune 0." in program(tmp_path, "--version", before=before)


def test_help_fits_a_screen() -> None:
    done = process("prune", "--help")
    lines = done.stdout.rstrip().splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 80
    assert lines[-1].strip().startswith("Example: sepprune prune model.pth --data")
    for flag in ("--budget-macs", "--dry-run", "--config", "--json", "--[no-]report", "--steps"):
        assert sum(flag + " " in line for line in lines) >= 1, flag
    assert "…" not in done.stdout


def test_exit_codes_are_told() -> None:
    told = " ".join(process("--help").stdout.split())
    for word in ("Exit codes: 0 done", "2 something that you can mend", "130", "1 a mistake in"):
        assert word in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = process(_SEPPRUNE_COMPLETE=f"source_{shell}")
    assert "_SEPPRUNE_COMPLETE=complete_" + shell in script.stdout
    line = "sepprune prune --budget-m"
    typed = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": "2"},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    told = process(_SEPPRUNE_COMPLETE=f"complete_{shell}", **typed).stdout
    assert "--budget-macs" in told and "--budget-memory" in told and "--steps" not in told


def test_completion_of_words() -> None:
    line = {"COMP_WORDS": "sepprune evaluate --split ", "COMP_CWORD": "3"}
    told = process(_SEPPRUNE_COMPLETE="complete_bash", **line).stdout
    assert told.split() == ["train", "val", "test"]


def test_formats_are_those_that_there_are() -> None:
    from sepprune_tp.commands.export import FORMATS
    from sepprune_tp.exporting import FORMATS as known

    assert tuple(known) == FORMATS


def test_a_mistake_of_ours_is_reported_as_such() -> None:
    code = (
        "import sys\nimport sepprune_tp.commands.common as common\n"
        "from sepprune_tp.cli import main\n"
        "def broken(source): raise ZeroDivisionError('ours')\n"
        "common.load_model = broken\nsys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "profile", "x", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "Please report it" in done.stderr.splitlines()[-1]
    assert json.loads(done.stdout) == {"error": "ours", "kind": "ZeroDivisionError"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied", "m.pth"), 2),
        (OSError(28, "No space left on device"), 2),
        (MemoryError("cannot allocate"), 2),
        (FileNotFoundError(2, "No such file or directory", "ours.json"), 1),
        (RuntimeError("ours"), 1),
    ],
)
def test_failures_of_the_machine_are_no_mistakes(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sepprune_tp.commands.common as common

    def broken(source: str) -> None:
        raise error

    monkeypatch.setattr(common, "load_model", broken)
    if code == 1:
        with pytest.raises(type(error)):
            run("profile", "x")
        assert "Please report it" in error.__notes__[0]
        return
    assert run("profile", "x") == code
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {error}. ") and said.count("\n") == 1


def test_what_was_kept_is_told_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sepprune_tp.commands.common as common

    class Terminated(KeyboardInterrupt):
        signal = signal.SIGTERM

    for error, code, said in [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (
            Terminated("100 steps are in s.pt"),
            143,
            "Interrupted: 100 steps are in s.pt. To go on: sepprune profile 'a b'\n",
        ),
    ]:

        def stopped(source: str, error: KeyboardInterrupt = error) -> None:
            raise error

        monkeypatch.setattr(common, "load_model", stopped)
        assert run("profile", "a b") == code
        assert capsys.readouterr().err == said


def test_tables_are_whole_where_nothing_limits_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    model = write_model(tmp_path / ("long" * 20 + ".safetensors"))
    assert run("benchmark", model, "--runs", 1, "--seconds", 0.1) == 0
    assert str(model) in capsys.readouterr().out


def on_terminal(*arguments: object) -> str:
    """What a command shows on a terminal, control characters included."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "sepprune_tp.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        if select.select([leader], [], [], 1.0)[0]:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            shown += piece
    assert child.wait(10) == 0, shown
    os.close(leader)
    return shown.decode()


def test_progress_and_colours_are_for_terminals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, data = write_model(tmp_path / "m.safetensors"), write_data(tmp_path / "data")
    files = sorted((data / "tt" / "mix_clean").glob("*.wav"))
    command = ("separate", model, *files, "-o", tmp_path / "out")
    results = [str(tmp_path / "out" / f"{n:02}_s{s}.wav") for n in (0, 1) for s in (1, 2)]
    shown = on_terminal(*command)
    assert "\x1b[" in shown and "separating" in shown and "2/2" in shown
    assert "separating" not in on_terminal(*command, "--quiet")
    capfd.readouterr()
    assert run(*command) == 0
    piped = capfd.readouterr()
    assert piped.out.splitlines() == results and piped.err == ""


def test_quiet_and_piped_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    model, data = write_model(tmp_path / "m.safetensors"), write_data(tmp_path / "data")
    out = tmp_path / "o.safetensors"
    short = ("--steps", 2, "--batch-size", 2, "--seconds", 0.25)
    capfd.readouterr()
    assert run("prune", model, "--data", data, "-o", out, *short, "--no-report") == 0
    shown = capfd.readouterr()
    assert f"Wrote {out}." in shown.out and "\x1b" not in shown.out + shown.err
    assert shown.err.startswith("Next: sepprune finetune") and shown.err.count("\n") == 1
    assert run("prune", model, "--data", data, "-o", out, *short, "--no-report", "-q") == 0
    shown = capfd.readouterr()
    assert f"Wrote {out}." in shown.out and shown.err == ""
    assert run("finetune", out, "--data", data, "-o", out, *short) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("Validation SI-SDR") and shown.err == ""


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "m.safetensors"), write_data(tmp_path / "data")
    state = tmp_path / "state.pt"
    options = ("--steps", "1000000", "--seconds", "0.25", "--batch-size", 1, "--no-reconstruct")
    options = (*options, "--checkpoint", state)
    command = ["prune", model, "--data", data, "-o", tmp_path / "o.safetensors", *options]
    child = subprocess.Popen(
        [sys.executable, "-m", "sepprune_tp.cli", *map(str, command), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ends = time.monotonic() + 100
    while not state.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err
    assert json.loads(out)["kind"] == "Interrupted"
