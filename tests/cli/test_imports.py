"""What is wrong with a config is told before the libraries are imported that take seconds."""

import subprocess
import sys
from pathlib import Path


def test_a_config_at_fault_is_told_without_the_heavy_libraries(tmp_path: Path) -> None:
    config, model = tmp_path / "tailor.yaml", tmp_path / "model"
    config.write_text("remove: 2\n")
    model.mkdir()
    (model / "config.json").write_text("{}")
    verbs = [["check", config], ["search", config], ["evaluate", model, "--config", config]]
    script = f"""
import sys
from gptailor.cli import main

for words in {[[str(word) for word in verb] for verb in verbs]}:
    sys.argv = ["gptailor", *words]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 2
print(*({{"torch", "transformers", "lm_eval"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tasks: is missing") == len(verbs)
    assert done.stdout.split() == []
