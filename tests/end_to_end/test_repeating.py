"""The commands that a report prints do what it says, typed in as they are."""

import html
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_commands_of_a_report_work_as_they_are_printed(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, err = run_command("report", run)
    assert code == 0, err
    page = (run / "report.html").read_text(encoding="utf-8")
    section = html.unescape(page[page.index('id="repeat"') :])
    (steps, config, *_) = re.findall(r"<pre>(.*?)</pre>", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("tailor.yaml").write_text(config, encoding="utf-8")
    record = (run / "record.jsonl").read_bytes()
    for line in steps.splitlines():
        code, _, err = run_command(*shlex.split(line, comments=True)[1:])
        assert code == 0, f"{line}\n{err}"
    assert [line.split()[1] for line in steps.splitlines()] == [
        *("search", "export", "evaluate", "report")
    ]
    assert (run / "record.jsonl").read_bytes().startswith(record)  # it had ended
    assert (run / "evaluation.json").exists()
