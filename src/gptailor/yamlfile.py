"""Read YAML that somebody else wrote, safely; write ours.

Only plain data comes out: mappings, lists, strings, numbers, booleans and null. Tags, aliases,
repeated keys, huge files and bytes that are not UTF-8 are refused with a sentence that names the
file and the line. Knows nothing of what the data means.
"""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from gptailor.errors import ConfigError, UserError

__all__ = ["dump_yaml", "parse_yaml", "read_yaml", "write_atomically"]

_MAX_BYTES = 4 * 2**20  # a tailoring of 1,000 merged layers is 100 kB
_MAX_DEPTH = 40


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, tags, timestamps, and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases (a few bytes can stand for gigabytes) and deep nesting."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # pyyaml
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not supported", event.start_mark
            )
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # pyyaml
            raise yaml.constructor.ConstructorError(
                None, None, f"nested deeper than {_MAX_DEPTH} levels", mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands twice: YAML would silently keep the last."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# dates become strings: no key of ours is a date, and `2024-01-01` may name a folder
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, *, where: str, error: type[UserError] = ConfigError) -> Any:
    """Turn YAML text into plain data.

    Args:
        text: The YAML.
        where: What to call it in a message, usually the file's name.
        error: The exception to raise.

    Raises:
        UserError: The text is not YAML, or uses what `_PlainLoader` refuses.
    """
    try:
        data = yaml.load(text, Loader=_PlainLoader)  # derives from SafeLoader
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise error(f"{where}{line}: not usable as YAML: {fault.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        first = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise error(f"{where}: not usable as YAML: {first}") from None
    _refuse_non_finite(data, where, error)
    return data


def read_yaml(path: Path, *, error: type[UserError] = ConfigError) -> Any:
    """Read a YAML file into plain data.

    Raises:
        UserError: The file can't be read, is too large, not UTF-8 or not usable as YAML.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise error(f"{path}: is a folder; name a YAML file")
        if size > _MAX_BYTES:
            raise error(f"{path}: {size:,} bytes; a YAML file may have {_MAX_BYTES:,} at most")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text (byte {fault.start}); save it as UTF-8") from None
    except OSError as fault:
        raise error(f"{path}: can't be read: {fault.strerror}") from None
    return parse_yaml(text, where=str(path), error=error)


def dump_yaml(data: Any) -> str:
    """Write plain data as YAML: block style, keys in the order given, short lists inline."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place, then rename: the old or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


class _Dumper(yaml.SafeDumper):
    """Block style outside, one line for a mapping or list of plain values."""

    def represent_sequence(self, tag: Any, sequence: Any, flow_style: Any = None) -> Any:
        """Keep a short list of plain values on one line."""
        plain = len(sequence) <= 8 and all(not isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)


def _refuse_non_finite(data: Any, where: str, error: type[UserError]) -> None:
    pending = [("", data)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, dict):
            pending += [(f"{place}.{key}".lstrip("."), value) for key, value in item.items()]
        elif isinstance(item, list):
            pending += [(f"{place}[{index}]", value) for index, value in enumerate(item)]
        elif isinstance(item, float) and not math.isfinite(item):
            raise error(f"{where}: {place or 'the value'} is {item}; give a finite number")
