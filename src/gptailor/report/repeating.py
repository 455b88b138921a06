"""The commands that repeat a run, and the config that they read."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from gptailor.core.specs import BASELINE
from gptailor.files.yaml import dump_yaml
from gptailor.record.run_record import RunRecord

__all__ = ["repeating_config", "repeating_steps"]

_CONFIG = "tailor.yaml"


def repeating_steps(run: RunRecord) -> list[tuple[str, str]]:
    """Commands, each with its purpose; those about the result only where there is one."""
    config, folder = run.header.config, shlex.quote(str(run.folder))
    search, out = config.get("search", {}), run.folder
    purpose = "goes on where it was stopped"
    if isinstance(config.get("remove"), list | tuple):  # one depth of a ladder
        out = out.parent if out.name else out.resolve().parent
        purpose = "all depths of the ladder; " + purpose
    verb = f"search {_CONFIG}"
    if search.get("name") == BASELINE:
        verb = f"baseline {_baselines(search['options'])}"
    steps = [(f"gptailor {verb} --out {shlex.quote(str(out))}", purpose)]
    if run.chosen is not None:
        named = f" --config {_CONFIG}" if run.header.metrics else ""  # metrics of the user's own
        steps += [
            (f"gptailor export {folder} -o model", "the result as a stock checkpoint"),
            (
                f"gptailor evaluate model --run {folder}{named}",
                "on examples that the search did not see",
            ),
        ]
    return [*steps, (f"gptailor report {folder}", "this page")]


def repeating_config(config: Mapping[str, Any]) -> str:
    """A recorded config as the text of a file: without what the commands say otherwise."""
    left_out = set()
    if config.get("target") is not None:
        left_out.add("remove")  # what the target came to
    if config.get("search", {}).get("name") == BASELINE:
        left_out.add("search")
    return dump_yaml({key: value for key, value in config.items() if key not in left_out})


def _baselines(options: Mapping[str, Any]) -> str:
    words = [",".join(options["names"]), _CONFIG, "--member", options["member"]]
    words += ["--seed", str(options["seed"])]
    for name, given in options["options"].items():
        for key, value in given.items():
            words += ["--option", f"{name}.{key}={json.dumps(value)}"]
    return shlex.join(words)
