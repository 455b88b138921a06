"""Fitted tensors, which replace some of a layer's own, and the scale of what a layer adds.

Fitted tensors are named by a digest of their bytes. On disk each digest is one file in a folder
``fitted`` beside the tailoring.yaml that names it; its metadata name by digest what they were
fitted on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from gptailor.core.lru_cache import LruCache
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import TailoringError
from gptailor.files.atomic import write_atomically

__all__ = ["FOLDER", "FittedWeights", "digest_of", "output_names"]

FOLDER = "fitted"
_READ_BYTES = 2**32  # most that is kept of what was read from files
_FITTED_ON = "fitted_on"  # a file's metadata: JSON, for their order in a file is not known
_OUTPUTS = re.compile(
    r"(^|\.)(o_proj|out_proj|dense|down_proj|fc2|fc_out|dense_4h_to_h|c_proj)(\.weight|\.bias|_bias)?$"
)
_POST_NORMS = (  # of attention and of the MLP, where branches are normed before they are added
    ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
    ("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight"),
)


class FittedWeights:
    """Fitted tensors by digest, from memory, from files, or fitted when they are first needed.

    `fit` makes the tensors of a layer that is to be refitted and names no digest; None where there
    are no statistics to fit it from. `fitted_on` gives digests of what tensors that are added are
    fitted on: ``calibration``, of the rows; ``member NAME``, of weights in the ``dtype``.
    """

    def __init__(self) -> None:
        self.fit: Callable[[LayerSpec], Mapping[str, Tensor]] | None = None
        self.fitted_on: Callable[[], Mapping[str, str]] = dict
        self._origins: dict[str, Callable[[], Mapping[str, str]]] = {}
        self._known: dict[str, Mapping[str, Tensor]] = {}
        self._read_back = LruCache[str, Mapping[str, Tensor]](_READ_BYTES)
        self._folders: dict[Path, None] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> str:
        """Keep tensors, by their names inside a layer; return their digest."""
        with torch.inference_mode(False):  # a model can't be made of tensors of inference mode
            kept = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        digest = digest_of(kept)
        self._known.setdefault(digest, kept)
        self._origins.setdefault(digest, self.fitted_on)
        return digest

    def drop(self, digests: Iterable[str | None]) -> None:
        """Release the memory of fitted tensors that no result names, or that are saved."""
        for digest in digests:
            self._known.pop(digest or "", None)

    def look_in(self, folder: Path) -> None:
        """Look for files of fitted tensors in a folder, when they are needed."""
        self._folders[folder] = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders that are looked in."""
        return tuple(self._folders)

    def get(self, digest: str) -> Mapping[str, Tensor]:
        """Fitted tensors by their digest.

        Raises:
            TailoringError: No such tensors are known, or their file is damaged.
        """
        found = self._known.get(digest, self._read_back.get(digest))
        if found is None:
            found = self._read(digest)
            self._read_back.keep(digest, found, sum(tensor.nbytes for tensor in found.values()))
        return found

    def origin(self, digest: str) -> Mapping[str, str]:
        """What tensors were fitted on, as `fitted_on` says it; nothing where that is not known.

        Raises:
            TailoringError: No such tensors are known, or their file is damaged.
        """
        if digest not in self._origins:
            self.get(digest)
        return self._origins[digest]()

    def save(self, tailoring: Tailoring, folder: Path) -> None:
        """Write the fitted tensors that a tailoring names; files that exist are left alone."""
        for digest in dict.fromkeys(s.fitted for s in tailoring.layers if s.fitted is not None):
            path = folder / f"{digest}.safetensors"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                tensors, origin = dict(self.get(digest)), self.origin(digest)
                write_atomically(path, save(tensors, {_FITTED_ON: json.dumps(origin)}))

    def refuse_unreadable(self, tailoring: Tailoring) -> None:
        """Read the fitted tensors that a tailoring names.

        Raises:
            TailoringError: Some are not known, or their files are damaged.
        """
        layers = enumerate(tailoring.layers)
        if problems := [each for index, spec in layers for each in self._unreadable(index, spec)]:
            raise TailoringError(problems)

    def problems(self, tailoring: Tailoring, shapes: Iterable[Mapping[str, Tensor]]) -> list[str]:
        """What is wrong with the repairs of a tailoring, a sentence each.

        `shapes` are the tensors of each of its layers, before the repair.
        """
        problems = []
        for index, (spec, own) in enumerate(zip(tailoring.layers, shapes, strict=True)):
            if spec.refit_to is not None and spec.fitted is None and self.fit is None:
                problems.append(
                    f"layers[{index}]: {spec} names no fitted weights, and they can't be fitted "
                    "here; take the tailoring.yaml that the run wrote"
                )
            if spec.fitted is None:
                continue
            if unreadable := self._unreadable(index, spec):
                problems += unreadable
                continue
            tensors = self.get(spec.fitted)
            problems += [
                f"layers[{index}]: fitted weights {spec.fitted} do not fit this layer's {name}; "
                "name those that were made for it"
                for name, tensor in tensors.items()
                if name not in own or own[name].shape != tensor.shape
            ]
        return problems

    def repaired(
        self, spec: LayerSpec, tensors: Mapping[str, Tensor], *, norm_offset: float = 0.0
    ) -> dict[str, Tensor]:
        """Apply a layer's repair to its tensors, in their dtype and on their device.

        `tensors` by their names inside the layer; they are not changed. A norm multiplies by its
        weight plus `norm_offset`.
        """
        repaired = dict(tensors)
        fitted: Mapping[str, Tensor] = {}
        if spec.fitted is not None:
            fitted = self.get(spec.fitted)
        elif spec.refit_to is not None:
            assert self.fit is not None, f"{spec} was not checked"
            fitted = self.fit(spec)
        for name, tensor in fitted.items():
            repaired[name] = tensor.to(repaired[name])
        if spec.gain != 1.0:
            repaired |= _scaled(repaired, spec.gain, norm_offset)
        return repaired

    def _unreadable(self, index: int, spec: LayerSpec) -> list[str]:
        """Why the fitted tensors of a layer can't be read, as a sentence; nothing if they can."""
        try:
            if spec.fitted is not None:
                self.get(spec.fitted)
        except TailoringError as error:
            return [f"layers[{index}]: {problem}" for problem in error.problems]
        return []

    def _read(self, digest: str) -> Mapping[str, Tensor]:
        name = f"{digest}.safetensors"
        path = next((f / name for f in self._folders if (f / name).is_file()), None)
        if path is None:
            raise TailoringError(
                f"the fitted weights {digest} are not there; put {name} back into "
                f"{' or '.join(map(str, self._folders)) or FOLDER}, beside the tailoring.yaml"
            )
        try:
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                origin = dict(json.loads((file.metadata() or {}).get(_FITTED_ON, "{}")))
        except (OSError, SafetensorError, TypeError, ValueError, RecursionError) as error:
            raise TailoringError(f"{path}: can't be read: {error}; copy it again") from None
        if digest_of(tensors) != digest:
            raise TailoringError(
                f"{path}: is damaged, its content has another digest; copy it again"
            )
        self._origins[digest] = lambda: origin
        return tensors


def digest_of(tensors: Mapping[str, Tensor], known: dict[int, bytes] | None = None) -> str:
    """Sixteen hex digits over the names, dtypes, shapes and bytes of tensors.

    `known` are digests of tensors that were read before, by the address of their data.
    """
    digest, known = hashlib.sha256(), {} if known is None else known
    for name, tensor in sorted(tensors.items()):
        key = tensor.data_ptr()
        if key not in known:
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            known[key] = hashlib.sha256(plain.numpy().data).digest()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + known[key])
    return digest.hexdigest()[:16]


def output_names(names: Iterable[str]) -> tuple[str, ...]:
    """The tensors that scale what a layer adds to the stream: output maps, or norms after them."""
    names = tuple(names)
    for norms in _POST_NORMS:
        if all(norm in names for norm in norms):
            return norms
    return tuple(name for name in names if _OUTPUTS.search(name))


def _scaled(tensors: Mapping[str, Tensor], gain: float, norm_offset: float) -> dict[str, Tensor]:
    """The output tensors multiplied by a gain, in float32 and rounded once."""
    scaled = {}
    for name in output_names(tensors):
        offset = norm_offset if name.endswith("norm.weight") else 0.0
        scaled[name] = ((tensors[name].float() + offset) * gain - offset).to(tensors[name].dtype)
    return scaled
