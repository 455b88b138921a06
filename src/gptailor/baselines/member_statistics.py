"""Statistics of a whole member on calibration rows, each taken when it is first asked for.

They are kept, so that the baselines of a run share them; what each costs is counted.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from numpy.random import Generator
from torch import Tensor, nn
from transformers import PreTrainedModel

from gptailor.core.tailoring import Tailoring
from gptailor.engine import Engine
from gptailor.engine.batches import Batch, pack
from gptailor.engine.streams import pack_rows
from gptailor.engine.walk import forward
from gptailor.errors import ConfigError, FamilyError, is_out_of_memory
from gptailor.family import layers_path
from gptailor.family.empty_model import model_around
from gptailor.tasks.divergence import Teacher
from gptailor.tasks.task import Passage

__all__ = ["Similarities", "Statistics"]

Row = tuple[int, ...]  # token ids
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
_CHUNK_TOKENS = 256  # whose normalised streams are in memory at one time
_BACKWARD = 3  # a forward and a backward cost as much as so many forwards


@dataclass(frozen=True, slots=True, eq=False)
class Similarities:
    """How alike the streams h_0 .. h_N of a model are: h_l enters layer l, h_N precedes the norm.

    All float64, on the CPU.
    """

    cosines: Tensor  # mean over tokens of cos(h_i, h_j), (N + 1, N + 1); 0 where a stream is 0
    angles: Tensor  # mean over rows of arccos(cos(h_i, h_j)) / pi at the last token, (N + 1, N + 1)
    norms: Tensor  # mean over tokens of the length of h_i, (N + 1,)


class Statistics:
    """What baselines measure of one whole member.

    Args:
        engine: Runs the member and what is left of it.
        member: Its name.
        rows: Calibration texts as token ids; rows of one token are left out. The first token of
            each row is left out of means over tokens: its stream is many times longer than the
            others', and hardly changes from layer to layer.

    Raises:
        ConfigError: No row has two tokens.
    """

    def __init__(self, engine: Engine, member: str, rows: Sequence[Row]) -> None:
        self.engine, self.member = engine, member
        self.rows = tuple(row for row in rows if len(row) > 1)
        if not self.rows:
            raise ConfigError("calibration: no text has two tokens; give longer texts")
        self.whole = Tailoring.whole(member, engine.family.n_layers)
        self.layer_tokens = 0  # tokens times layers run so far; a backward counts as two forwards
        self._used: dict[Hashable, int] = {}
        self._similarities: dict[Tailoring, tuple[Similarities, int]] = {}
        self._losses: dict[tuple[int, tuple[Tailoring, ...]], tuple[list[float], int]] = {}
        self._taylor: dict[int, tuple[list[float], int]] = {}
        self._teachers: dict[str, tuple[list[Teacher], int]] = {}

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.rows))

    def begin(self) -> None:
        """Begin a baseline: set the count of what it uses to 0."""
        self._used = {}

    @property
    def used(self) -> int:
        """Layer-tokens that the baseline would have run alone, without what others had measured."""
        return sum(self._used.values())

    def spend(self, layer_tokens: int) -> None:
        """Count layers that a baseline runs itself."""
        self.layer_tokens += layer_tokens
        self._used["own"] = self._used.get("own", 0) + layer_tokens

    def with_layers(self, left: Iterable[int]) -> Tailoring:
        """The member with some of its layers."""
        return replace(self.whole, layers=tuple(self.whole.layers[layer] for layer in left))

    def similarities(self, tailoring: Tailoring | None = None) -> Similarities:
        """How alike the streams of the whole member are, or of what is left of it."""
        wanted = tailoring or self.whole
        return self._kept(self._similarities, wanted, lambda: self._measure_streams(wanted))

    def influences(self, tailoring: Tailoring | None = None) -> list[float]:
        """Block Influence of each layer: 1 - mean over tokens of cos(h_l, h_{l+1})."""
        found: list[float] = (1 - self.similarities(tailoring).cosines.diagonal(1)).tolist()
        return found

    def losses(self, tailorings: Sequence[Tailoring], n_tokens: int) -> list[float]:
        """Mean cross-entropy of each in nats a token, infinite where one can't be scored.

        Args:
            tailorings: What is left of the member.
            n_tokens: Of the first rows, which it is measured on; of all if they have fewer.

        Raises:
            ConfigError: None of them can be scored.
        """

        def measure() -> tuple[list[float], int]:
            rows = [self.rows[row] for row in _first(range(len(self.rows)), self.rows, n_tokens)]
            return self._scored(tailorings, pack_rows(rows, self.engine))

        return self._kept(self._losses, (n_tokens, tuple(tailorings)), measure)

    def divergences(self, tailorings: Sequence[Tailoring], rows: Sequence[int]) -> list[float]:
        """Mean Kullback-Leibler divergence of each from the whole member, in nats a token.

        It is over the 64 likeliest tokens of the member, and all others as one more outcome.

        Args:
            tailorings: What is left of the member.
            rows: Indices of the rows it is measured on.

        Raises:
            ConfigError: None of them can be scored.
        """
        teachers = self._kept(self._teachers, "all rows", self._teach)
        batches = pack_rows([self.rows[row] for row in rows], self.engine)
        taught = [
            Teacher.joined([teachers[rows[number]] for number in batch.numbers])
            for batch in batches
        ]
        found, cost = self._scored(tailorings, batches, taught)
        self.layer_tokens += cost
        self._used["divergences"] = self._used.get("divergences", 0) + cost
        return found

    def minibatch(self, rng: Generator, n_tokens: int) -> list[int]:
        """Draw indices of rows, as many as have at least `n_tokens` tokens together, or all."""
        return _first(rng.permutation(len(self.rows)).tolist(), self.rows, n_tokens)

    def taylor_scores(self, n_tokens: int) -> list[float]:
        """For each layer the sum over its weights of abs(gradient * weight).

        The gradient is that of the mean loss over the first rows, as many as have at least
        `n_tokens` tokens; it is summed up in the family's dtype.

        Raises:
            FamilyError: There is no memory for the gradients.
        """
        return self._kept(self._taylor, n_tokens, lambda: self._measure_gradients(n_tokens))

    def _kept(
        self,
        known: dict[Key, tuple[Value, int]],
        key: Key,
        measure: Callable[[], tuple[Value, int]],
    ) -> Value:
        """Measure what is not known yet; count its cost as used."""
        if key not in known:
            known[key] = measure()
            self.layer_tokens += known[key][1]
        value, cost = known[key]
        self._used[id(known), key] = cost
        return value

    @torch.inference_mode()
    def _measure_streams(self, tailoring: Tailoring) -> tuple[Similarities, int]:
        size = len(tailoring.layers) + 1
        cosines, angles = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
        norms = torch.zeros(size, dtype=torch.float64)
        n_counted = n_run = 0
        # a row each, with a made-up token to be predicted: all tokens are inputs
        for batch in pack(
            [Passage(row, ((0,),)) for row in self.rows],
            row_tokens=1,
            bounds=self.engine.rotary_bounds,
        ):
            counted = ((batch.ends > 0) & (batch.positions > 0)).flatten()  # (B * T)
            embedded = self.engine.skeleton.inputs(tailoring, batch).hidden
            after = forward(self.engine.skeleton, self.engine.layers, tailoring, batch)
            streams = [embedded, *after]  # N + 1 of (B, T, H)
            for chunk in torch.split(counted.nonzero()[:, 0], _CHUNK_TOKENS):
                some, lengths = _directions(streams, chunk)
                cosines += (some.flatten(1) @ some.flatten(1).T).cpu()
                norms += lengths.sum(1).cpu()
            ends, _ = _directions(streams, batch.gather)  # (N + 1, rows, H)
            pairs = torch.einsum("irh,jrh->rij", ends.double(), ends.double()).clamp(-1, 1)
            angles += (pairs.arccos() / math.pi).sum(0).cpu()
            n_counted += int(counted.sum())
            n_run += batch.n_tokens * len(tailoring.layers)
        n_rows = len(self.rows)
        return Similarities(cosines / n_counted, angles / n_rows, norms / n_counted), n_run

    def _scored(
        self,
        tailorings: Sequence[Tailoring],
        batches: Sequence[Batch],
        teachers: Sequence[Teacher] | None = None,
    ) -> tuple[list[float], int]:
        """The mean loss, or divergence from teachers, of each; and what that cost."""
        results = self.engine.run(tailorings, batches, teachers)
        means = []
        for result in results:
            parts = [
                -each.logprob if each.divergence is None else each.divergence
                for each in result.targets or ()
            ]
            mean = float(torch.cat(parts).double().mean()) if parts else math.inf
            means.append(mean if math.isfinite(mean) else math.inf)
        if not any(map(math.isfinite, means)):
            raise ConfigError(
                f"calibration: none of {len(results)} cuts can be scored on the texts; the last: "
                f"{results[-1].failure or 'its loss is not finite'}"
            )
        return means, round(sum(result.layer_tokens for result in results))

    def _teach(self) -> tuple[list[Teacher], int]:
        """What the whole member predicts in each row."""
        found: dict[int, Teacher] = {}
        batches = pack_rows(self.rows, self.engine)
        for batch, taught in zip(batches, self.engine.teach(self.whole, batches), strict=True):
            start = 0
            for number in batch.numbers:
                stop = start + len(self.rows[number]) - 1
                found[number] = taught[start:stop]
                start = stop
        cost = sum(batch.n_tokens for batch in batches) * len(self.whole.layers)
        return [found[number] for number in range(len(self.rows))], cost

    def _measure_gradients(self, n_tokens: int) -> tuple[list[float], int]:
        family = self.engine.family
        rows = [self.rows[row] for row in _first(range(len(self.rows)), self.rows, n_tokens)]
        model = model_around(family.config, family.states[self.member], family.dtype)
        try:
            layers = _with_gradients(model.to(self.engine.device), rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise FamilyError(
                f"{family.paths[self.member]}: out of memory for the gradients of all layers; use "
                "a baseline without Taylor scores, or another device"
            ) from None
        scores = [
            sum(
                float((p.grad.float() * p.detach().float()).abs().sum())
                for p in layer.parameters()
                if p.grad is not None
            )
            for layer in layers
        ]
        return scores, _BACKWARD * len(layers) * sum(len(row) - 1 for row in rows)


def _with_gradients(model: PreTrainedModel, rows: Sequence[Row]) -> nn.ModuleList:
    """The layers of a model, with the gradients of its mean loss in nats a token."""
    layers = model.get_submodule(layers_path(model))
    assert isinstance(layers, nn.ModuleList)
    model.requires_grad_(False)
    layers.requires_grad_(True)
    n_targets = sum(len(row) - 1 for row in rows)
    device = next(layers.parameters()).device
    for row in rows:
        tokens = torch.tensor([row], device=device)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
        loss = nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum") / n_targets
        torch.autograd.backward(loss)
    return layers


def _directions(streams: Sequence[Tensor], places: Tensor) -> tuple[Tensor, Tensor]:
    """Streams at some places as unit vectors, float32 (N + 1, M, H), and lengths, (N + 1, M)."""
    chosen = [stream.flatten(0, 1)[places.to(stream.device)].float() for stream in streams]
    stacked = torch.stack(chosen)
    return nn.functional.normalize(stacked, dim=-1), stacked.norm(dim=-1)


def _first(order: Iterable[int], rows: Sequence[Row], n_tokens: int) -> list[int]:
    """The first indices of `order`, until their rows have `n_tokens` tokens together, or all."""
    chosen: list[int] = []
    for number in order:
        if n_tokens <= 0:
            break
        chosen.append(number)
        n_tokens -= len(rows[number])
    return chosen
