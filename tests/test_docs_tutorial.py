"""The runner of the tutorial does what a page says, and notices when it does not happen."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pages import ROOT

sys.path.append(str(ROOT / "scripts"))
from tutorial import TutorialError, main, run_page, steps_of, words_of

PAGE = """# A page

<!-- machine: begin -->
<!-- machine: end -->

<!-- file: said.txt -->
```text
one 1
two 2
three 3
four 4
```

<!-- run -->
<!-- show: 1 first, 1 last -->
```sh
cat said.txt
```

Between.

<!-- run: fails -->
```sh
echo "gone to $PWD" && false
```

<!-- run: killed after 3 writes of state -->
```sh
printf ' 10%%| \\r 20%%|\\n'
for i in 1 2 3 4 5 6 7 8 9; do echo $i > new; mv new state; sleep 0.2; done; echo never
```

<!-- run -->
```sh
printf '1%%|\\n2%%|\\n3%%|\\n'; date +%s%N
```
"""


def outputs(page: str) -> list[str]:
    return re.findall(r"<!-- output: begin -->\n```text\n(.*?)```", page, re.DOTALL)


def test_a_page_is_run_and_filled(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = run_page(PAGE, tmp_path / "one")
    cat, failed, killed, bars = outputs(first)
    assert cat == "one 1\n... (2 more lines)\nfour 4\n"
    assert failed == "gone to ~/tutorial\n"
    assert killed == " 10%|\n 20%|\n\n[ended by signal 9]\n"
    assert re.fullmatch(r"1%\|\n3%\|\n\d+\n", bars)
    assert "<!-- machine: begin -->\nThis run took " in first and "Between." in first
    second = run_page(first, tmp_path / "two")
    assert second != first  # the nanoseconds
    assert words_of(second) == words_of(first)
    assert [s.code for s in steps_of(second)] == [s.code for s in steps_of(PAGE)]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- run -->\n```sh\nfalse\n```\n", "Ended with 1"),
        ("<!-- run: fails -->\n```sh\ntrue\n```\n", "Ended with 0"),
        ("<!-- run: twice -->\n```sh\ntrue\n```\n", "Unknown way"),
        ("<!-- run -->\n\n```sh\ntrue\n```\n", "1 comments ask for a file or a run, 0 have"),
        ("<!-- run: killed after 1 writes of x -->\n```sh\ntrue\n```\n", "before x was there"),
    ],
)
def test_what_does_not_happen_is_said(page: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TutorialError, match=message):
        run_page(page, tmp_path)


def test_check_compares_but_for_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```sh\necho took $RANDOM s\n```\n")
    monkeypatch.setattr(sys, "argv", ["tutorial.py", str(page)])
    assert main() == 0 and "took" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["tutorial.py", "--check", str(page)])
    before = page.read_text()
    assert main() == 0 and page.read_text() == before
    page.write_text(before.replace("took", "needed", 2).replace("echo needed", "echo took"))
    capsys.readouterr()
    assert main() == 1
    assert "-needed # s" in capsys.readouterr().out
