"""The options of an export on the command line, checked before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptailor.core.validation import bytes_of
from gptailor.errors import ConfigError
from gptailor.export.checkpoint import SAVED_DTYPES
from gptailor.export.gguf.writer import GGUF_DTYPES

__all__ = ["FORMATS", "ExportOptions"]

_DTYPES = {"hf": tuple(SAVED_DTYPES), "gguf": tuple(GGUF_DTYPES), "mergekit": ()}
_GGUF_BYTES = {"f16": 2, "bf16": 2, "q8_0": 34 / 32, "f32": 4}  # a parameter
FORMATS = tuple(_DTYPES)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """A format and its options."""

    format: str  # one of `FORMATS`
    dtype: str | None = None  # one of the format's own names; None for its default
    # the most bytes of one file of a checkpoint; None for the default
    shard_bytes: int | None = None

    @classmethod
    def of(  # an option each
        cls,
        format_: str,
        out: Path,
        *,
        dtype: str | None = None,
        shard_size: str | None = None,
        push: str | None = None,
        public: bool = False,
    ) -> "ExportOptions":
        """Check the options; `push` and `public` are checked and not kept.

        Example:
            >>> ExportOptions.of("hf", Path("model"), shard_size="2GB").shard_bytes
            2000000000

        Raises:
            ConfigError: Every problem at once.
        """
        if format_ not in FORMATS:
            raise ConfigError(f"--format: must be one of {', '.join(FORMATS)}, not {format_!r}")
        problems = []
        known = _DTYPES[format_]
        if dtype is not None and not known:
            problems.append(f"--dtype: says nothing with --format {format_}; leave it out")
        elif dtype is not None and dtype not in known:
            problems.append(
                f"--dtype: must be one of {', '.join(known)} with --format {format_}, not {dtype!r}"
            )
        n_bytes = None if shard_size is None else bytes_of(shard_size)
        if shard_size is not None and format_ != "hf":
            problems.append(f"--shard-size: says nothing with --format {format_}; leave it out")
        elif n_bytes == 0:
            problems.append(
                f"--shard-size: must be a size above 0 such as 2GB or 500MiB, not {shard_size!r}"
            )
        if push is not None and format_ != "hf":
            problems.append(
                f"--push: uploads a folder of --format hf; upload this one with 'hf upload {push} "
                f"{out}'"
            )
        if public and push is None:
            problems.append("--public: says nothing without --push; leave it out")
        if format_ == "gguf" and out.suffix != ".gguf":
            problems.append(f"--out: a GGUF file's name must end in .gguf, not {out.name!r}")
        if problems:
            raise ConfigError(problems)
        return cls(format_, dtype, n_bytes)

    def n_bytes(self, n_parameters: int, itemsize: int) -> int:
        """About how large the result is; `itemsize` is of the family's weights. 0 for a recipe."""
        if self.format == "gguf":
            return round(n_parameters * _GGUF_BYTES[self.gguf_dtype])
        itemsize = itemsize if self.dtype is None else SAVED_DTYPES[self.dtype].itemsize
        return n_parameters * itemsize if self.format == "hf" else 0

    @property
    def gguf_dtype(self) -> str:
        """The type of the matrices in a GGUF file."""
        return self.dtype or "f16"

    @property
    def hf_arguments(self) -> dict[str, Any]:
        """Arguments of `export_checkpoint`."""
        dtype = None if self.dtype is None else SAVED_DTYPES[self.dtype]
        arguments = {"dtype": dtype, "shard_bytes": self.shard_bytes}
        return {name: value for name, value in arguments.items() if value is not None}
