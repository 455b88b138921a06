"""Members in files: the same values, no memory held, and a clear word where there is no room."""

import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptailor.errors import FamilyError
from gptailor.family.memory_map import let_go, map_tensors

MIB = 2**20


def resident(tensor: Tensor) -> int:
    """Bytes of a tensor that are in memory now, as Linux tells them."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    held, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if "-" in word and not word.endswith(":"):
            low, high = (int(place, 16) for place in word.split("-"))
            here = low < end and high > start
        elif here and word == "Rss:":
            held += int(line.split()[1]) * 1024
    return held


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shared = torch.randn(1024, 1024)
    return {
        "a": shared,
        "b": torch.randn(1024, 1024).to(torch.bfloat16),
        "slice": torch.randn(64, 64)[:, ::2],
        "same": shared,
        "none": torch.empty(0),
        "ids": torch.arange(7),
    }


def test_mapped_tensors_are_what_they_were(state: dict[str, Tensor]) -> None:
    mapped = map_tensors(state)
    assert mapped.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(mapped[name], tensor)
        assert mapped[name].dtype == tensor.dtype


def test_let_go_gives_memory_back_and_keeps_the_values(state: dict[str, Tensor]) -> None:
    mapped = map_tensors(state)
    assert torch.equal(mapped["a"], state["a"])
    assert resident(mapped["a"]) >= 4 * MIB
    let_go(mapped.values())
    assert resident(mapped["a"]) < MIB
    assert torch.equal(mapped["a"], state["a"])


def test_let_go_leaves_tensors_alone_that_are_in_no_file(state: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in state.items()}
    let_go(state.values())
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name])


def test_what_is_in_a_file_already_stays_there(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1000, 1000)}, tmp_path / "blob")
    state = load_file(tmp_path / "blob")
    assert map_tensors(state)["w"] is state["w"]


def test_the_base_s_own_tensors_are_not_written_again(state: dict[str, Tensor]) -> None:
    mapped = map_tensors(state | {"own": torch.ones(3)}, known=state)
    assert all(mapped[name] is state[name] for name in state)
    assert torch.equal(mapped["own"], torch.ones(3))


def test_no_room_is_told(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(FamilyError, match=r"^/nowhere/at/all: members can't be kept.*TMPDIR"):
        map_tensors(state)
