"""What is asked of an export is checked before anything is loaded, each error in a sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ConfigError
from gptailor.export.options import ExportOptions

BAD_SIZES = (
    *("2", "2 GB", "2gb", "GB", "", "-2GB", "+2GB", "0GB", "0.0GB", "2.GB", ".5GB", "1e3MB"),
    *("2G", "2GiBB", "2GB\n", "inf", "nanGB", "0x2GB", "2,5GB", "2.12345GB", "9" * 20 + "B"),
)  # fmt: skip
BAD = [
    ({"format_": "HF"}, "--format: must be one of hf, gguf, mergekit, not 'HF'"),
    ({"format_": ""}, "--format: must be"),
    ({"format_": "safetensors"}, "--format: must be"),
    ({"dtype": "f16"}, "--dtype: must be one of float32, bfloat16, float16 with --format hf"),
    ({"dtype": "auto"}, "--dtype: must be one of"),
    ({"dtype": "int8"}, "not 'int8'"),
    ({"format_": "gguf", "dtype": "float16"}, "--dtype: must be one of f16, bf16, q8_0, f32"),
    ({"format_": "gguf", "dtype": "q4_0"}, "with --format gguf, not 'q4_0'"),
    ({"format_": "gguf", "dtype": "Q8_0"}, "not 'Q8_0'"),
    ({"format_": "gguf", "shard_size": "2GB"}, "--shard-size: says nothing with --format gguf"),
    ({"format_": "gguf", "out": "model"}, "--out: a GGUF file's name must end in .gguf"),
    ({"format_": "gguf", "out": "m.GGUF"}, "not 'm.GGUF'"),
    ({"format_": "mergekit", "dtype": "float16"}, "--dtype: says nothing with --format mergekit"),
    ({"format_": "mergekit", "shard_size": "2GB"}, "--shard-size: says nothing with"),
    *(({"shard_size": size}, "such as 2GB or 500MiB") for size in BAD_SIZES),
]


@pytest.mark.parametrize(("asked", "told"), BAD)
def test_each_bad_option_is_one_sentence(asked: dict[str, str], told: str) -> None:
    asked = {"format_": "hf", "out": "m.gguf", **asked}
    with pytest.raises(ConfigError) as error:
        ExportOptions.of(asked.pop("format_"), Path(asked.pop("out")), **asked)
    (sentence,) = error.value.problems
    assert told in sentence
    assert "\n" not in sentence


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        ExportOptions.of("gguf", Path("m"), dtype="float16", shard_size="2")
    assert [sentence.split(":")[0] for sentence in error.value.problems] == [
        "--dtype",
        "--shard-size",
        "--out",
    ]


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        ("1B", 1),
        ("2GB", 2 * 10**9),
        ("500MiB", 500 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("64KB", 64_000),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_read(size: str, n_bytes: int) -> None:
    options = ExportOptions.of("hf", Path("m"), shard_size=size)
    assert options.hf_arguments == {"shard_bytes": n_bytes}


@pytest.fixture
def gptailor(
    pico_family: Any,
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
) -> Callable[..., tuple[int, str, str]]:
    """Run ``export`` on the pico family and a tailoring of it."""
    folders = {"base": pico_family.base, **pico_family.variants}  # mergekit reads no spaces
    for name, folder in folders.items():
        shutil.copytree(folder, tmp_path / name)
    config = {
        "family": {"base": str(tmp_path / "base"), "dtype": "float32",
                   "variants": {name: str(tmp_path / name) for name in pico_family.variants}},
        "remove": 2,
        "tasks": [{"name": "arc_easy", "metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "tailor.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tailoring = Tailoring(tuple(LayerSpec.of(f"math:{layer}") for layer in (0, 2, 5)))
    (tmp_path / "mine.yaml").write_text(tailoring.to_yaml(), encoding="utf-8")

    def run(*asked: str) -> tuple[int, str, str]:
        files = [str(tmp_path / "tailor.yaml"), "--tailoring", str(tmp_path / "mine.yaml")]
        return run_command("export", *files, *asked)

    return run


@pytest.mark.slow
def test_the_command_writes_each_format(
    gptailor: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    from gguf import GGUFReader
    from safetensors import safe_open

    code, out, _ = gptailor("-o", str(tmp_path / "m.gguf"), "--format", "gguf", "--dtype", "bf16")
    assert code == 0
    assert f"the GGUF file: {tmp_path / 'm.gguf'}" in out
    assert GGUFReader(tmp_path / "m.gguf").fields["general.file_type"].contents() == 32  # bf16
    asked = ("--dtype", "float16", "--shard-size", "20KB")
    code, out, _ = gptailor("-o", str(tmp_path / "hf"), *asked)
    assert code == 0
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) > 2
    for shard in shards:
        with safe_open(shard, "pt") as opened:
            sizes = [opened.get_tensor(name).nbytes for name in opened.keys()]  # noqa: SIM118
            assert {str(opened.get_tensor(name).dtype) for name in opened.keys()} == {  # noqa: SIM118
                "torch.float16"
            }
        assert sum(sizes) <= 20_000 or len(sizes) == 1  # the embedding is larger alone
    code, out, err = gptailor("-o", str(tmp_path / "recipe.yaml"), "--format", "mergekit")
    assert code == 0, err
    assert "merge_method: passthrough" in (tmp_path / "recipe.yaml").read_text(encoding="utf-8")


def test_a_bad_option_ends_the_command_with_2_and_writes_nothing(
    gptailor: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    asked = ("-o", str(tmp_path / "m"), "--format", "gguf", "--dtype", "float16")
    code, out, err = gptailor(*asked)
    assert (code, out, err.count("error: ")) == (2, "", 2)
    assert "Traceback" not in err
    assert "loading" not in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("format_", "dtype", "n_bytes"),
    [("hf", None, 400), ("hf", "bfloat16", 200), ("gguf", "q8_0", 106), ("mergekit", None, 0)],
)
def test_the_size_is_known_beforehand(format_: str, dtype: str | None, n_bytes: int) -> None:
    options = ExportOptions.of(format_, Path("m.gguf"), dtype=dtype)
    assert options.n_bytes(100, itemsize=4) == n_bytes
