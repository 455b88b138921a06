"""What becomes of a command whose output can't be written, or that gets no memory."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gptailor import cli

pytestmark = pytest.mark.slow

FULL = Path("/dev/full")
MAIN = "from gptailor.cli import main; main()"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_told_in_a_sentence(tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "init", tmp_path / "tailor.yaml"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: stdout can't be written: No space left on device\n"
    assert (tmp_path / "tailor.yaml").is_file()


def test_a_name_that_the_locale_lacks_is_spelt_out() -> None:
    says = "import gptailor.cli; from gptailor.cli.console import screen; "
    says += "gptailor.cli.app = lambda: screen.print('the run: mod\\xe8le'); gptailor.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", says],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the run: mod\\xe8le\n"


def raising(error: Exception) -> Callable[[], None]:
    """A program that ends with an error."""

    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a primitive"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
    ids=range(4),
)
def test_too_little_memory_is_told(
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.setattr(cli, "app", raising(error))
    code, _, told = run_command()
    assert code == 2
    assert told.startswith("error: out of memory")


@pytest.mark.parametrize(
    "error", [RuntimeError("a error of ours"), OSError(28, "No space left on device")], ids=range(2)
)
def test_a_fault_of_ours_is_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", raising(error))
    with pytest.raises(type(error)) as raised:
        cli.main()
    assert raised.value is error


@pytest.mark.slow
def test_a_reader_that_went_away_leaves_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "init", tmp_path / "tailor.yaml"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
