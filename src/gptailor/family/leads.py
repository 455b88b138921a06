"""Where a model is that was looked for in the wrong folder, or under another name.

Only names are looked at.
"""

from collections.abc import Iterator
from pathlib import Path

from gptailor.errors import listed

__all__ = ["elsewhere"]

_MODEL = ("config.json", "adapter_config.json")
_MOST_FOLDERS = 1000  # that are looked into
# weights of other programs: a name -> whose format it is
_OTHER_FORMATS = {
    "consolidated.safetensors": "Mistral's own format",
    "consolidated.00.pth": "Meta's own format",
    "tf_model.h5": "TensorFlow's format",
    "flax_model.msgpack": "Flax's format",
    "model.onnx": "ONNX",
}
_UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2")


def elsewhere(folder: Path, weights: str = "model.safetensors") -> str:
    """Where a folder without a model or weights may hold them: the end of a sentence, or empty.

    `weights` is what its file of weights should be called.
    """
    return "".join(f"; {lead}" for lead in _leads(folder, weights))


def _leads(folder: Path, weights: str) -> Iterator[str]:
    inside = sorted(folder.iterdir())[:_MOST_FOLDERS]
    below = [*inside, *sorted(folder.glob("snapshots/*"))[:_MOST_FOLDERS]]  # of the hub's cache
    found = [one for one in below if any((one / name).is_file() for name in _MODEL)]
    models = [one.relative_to(folder).as_posix() for one in found]
    # checkpoint-500 before checkpoint-1000
    models.sort(key=lambda name: (len(name), name))
    if models:
        yield (
            f"{'models are' if len(models) > 1 else 'a model is'} in its "
            f"{'folders' if len(models) > 1 else 'folder'} {listed(models)}: name "
            f"{'one' if len(models) > 1 else 'that'}, as in {folder / models[-1]}"
        )
    for name, whose in _OTHER_FORMATS.items():
        if (folder / name).is_file():
            yield f"{name} is in {whose}, which is not read: get the files for transformers"
    for one in inside:
        if one.suffix == ".gguf":
            yield f"a GGUF file is named itself: {one}"
        elif one.suffix in _UNFINISHED:
            yield f"{one.name} is a download that did not end: begin it again"
        elif one.name.startswith("global_step") and one.is_dir():
            yield f"{one.name} has DeepSpeed's parts: run the zero_to_fp32.py beside it"
    known = (*_OTHER_FORMATS, "adapter_model.safetensors")
    others = [one.name for one in inside if one.suffix == ".safetensors" and one.name not in known]
    if len(others) == 1:
        yield f"if {others[0]} holds its weights, call it {weights}"
    elif others and weights == "model.safetensors":
        yield f"it has shards ({listed(others, 2)}) but not model.safetensors.index.json: copy that"
