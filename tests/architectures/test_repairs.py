"""Of every architecture cuts are repaired, or the repair is refused as the page says."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from gptailor.core.repair import scale_cuts
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError
from gptailor.family import Family
from gptailor.repair.refit import Refitter, whole_of
from gptailor.repair.scale import refuse_inexact_scale, stream_norms

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
WALKED = tuple(yaml.safe_load((HERE / "tiny.yaml").read_text(encoding="utf-8"))["architectures"])
PAGE = HERE.parents[1] / "docs" / "reference" / "architectures.md"
# what the page says of the reason, and what the refusal says
REASONS = {
    "its layers read the stream without a norm": "depends on the scale of the stream",
    "the outputs of the last map are normed": "does not add the outputs of mlp.down_proj as they",
    "experts": "is made of experts",
}
WHOLE = Tailoring.whole("math", 6)
TAILORING = Tailoring(
    tuple(WHOLE.layers[position] for position in (0, 2, 3, 5)), WHOLE.embedding, head=WHOLE.head
)


def said() -> dict[str, tuple[str, str]]:
    """Model type to what the page says of `scale` and of `refit`."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n## Repair\n")
    rows = re.findall(r"^\| (`.+`) \| (.+) \| (.+) \|$", section.partition("\n## ")[0], re.M)
    _, *rows = rows  # the head of the table
    return {t: (scale, refit) for types, scale, refit in rows for t in re.findall("`(.+?)`", types)}


def test_the_page_says_of_every_tested_type_whether_its_cuts_can_be_repaired() -> None:
    assert sorted(said()) == sorted(WALKED)


@pytest.fixture
def family(
    model_type: str,
    tiny_fields: Callable[[str], dict[str, Any]],
    family_in_memory: Callable[..., Family],
) -> Family:
    """A base and a variant in memory."""
    return family_in_memory(model_type, tiny_fields(model_type), (BASE, "math"))


@pytest.mark.parametrize("model_type", WALKED)
def test_cuts_are_repaired_or_the_repair_is_refused_for_the_reason_on_the_page(
    model_type: str, family: Family
) -> None:
    drawn = torch.Generator().manual_seed(0)
    rows = [tuple(row) for row in torch.randint(3, 64, (80, 33), generator=drawn).tolist()]
    engine = Engine(family)
    streams, unseen = Streams(engine, rows[:70]), Streams(engine, rows[70:])
    scale, refit = said()[model_type]
    if allowed(lambda: refuse_inexact_scale(streams), scale):
        hold_scale(unseen)
    refitter = Refitter(engine, rows[:70])
    if allowed(refitter.check, refit):
        hold_refit(refitter, unseen)
        return
    instead = (
        "try repair: scale, which this type allows" if scale == "yes" else "write repair: none"
    )
    with pytest.raises(ConfigError, match=f"; {instead}"):
        refitter.check()


def allowed(check: Callable[[], None], answer: str) -> bool:
    """Whether the page says yes; where it says no, the check refuses for the reason there."""
    if answer == "yes":
        check()
        return True
    with pytest.raises(ConfigError, match=REASONS[answer.removeprefix("no: ")]) as caught:
        check()
    assert len(caught.value.problems) == 1
    return False


def hold_scale(streams: Streams) -> None:
    """Gains equal a stream that is multiplied behind each cut, all factors divided out."""
    norms = stream_norms(streams, ("math",))
    (*_, found) = streams.along(scale_cuts(TAILORING, 6, norms))
    states, factors = streams.embedded(TAILORING), 1.0
    for spec in TAILORING.layers:
        states = streams.run(spec, states)
        if (start := spec.position + 1) in (1, 4):
            ratio = norms["math"][start + 1] / norms["math"][start]
            states, factors = [state * ratio for state in states], factors * ratio
    assert abs(factors - 1) > 0.01
    for kept, one, other in zip(streams.kept, found, states, strict=True):
        torch.testing.assert_close(one[kept] * factors, other[kept], rtol=1e-2, atol=1e-2)


def hold_refit(refitter: Refitter, unseen: Streams) -> None:
    """The unseen stream behind the first cut comes nearer to the whole model's."""
    wanted = list(unseen.along(whole_of(TAILORING, 6)))[2]
    before = error(unseen, list(unseen.along(TAILORING))[1], wanted)
    for repaired in (
        refitter.cut_after_cut(TAILORING),
        dataclasses.replace(
            TAILORING, layers=(named(refitter, WHOLE.layers[0], 2), *TAILORING.layers[1:])
        ),
    ):
        assert error(unseen, list(unseen.along(repaired))[1], wanted) < 0.95 * before


def named(refitter: Refitter, spec: LayerSpec, end: int) -> LayerSpec:
    """A layer refitted from uncut members."""
    fitted = refitter.from_uncut(spec.with_repair(refit_to=end))
    digest = refitter.engine.family.fitted.add(fitted)
    return spec.with_repair(refit_to=end, fitted=digest)


def error(streams: Streams, found: list[Tensor], wanted: list[Tensor]) -> float:
    """Mean relative square."""
    errors = [
        (one - other)[kept].square().sum(-1) / other[kept].square().sum(-1)
        for kept, one, other in zip(streams.kept, found, wanted, strict=True)
    ]
    return float(torch.cat(errors).mean())
