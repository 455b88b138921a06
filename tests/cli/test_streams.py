"""What becomes of a command whose output can't be written, or that gets no memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("MemoryError()", 2),
        ('RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried")', 2),
        ('RuntimeError("could not create a primitive")', 2),
        ('ImportError("x.so: failed to map segment from shared object")', 2),
        ('RuntimeError("a error of ours")', 1),
        ('OSError(28, "No space left on device")', 1),
    ],
)
def test_too_little_memory_is_told_and_a_fault_of_ours_is_not_hidden(error: str, code: int) -> None:
    program = f"import gptailor.cli as cli\ndef app(): raise {error}\ncli.app = app\ncli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr.startswith("error: out of memory") == (code == 2)
    assert ("Traceback" in done.stderr) == (code == 1)


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
