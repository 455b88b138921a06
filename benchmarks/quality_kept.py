"""What `quality.py` found, as one file: another machine goes on from it, without the runs.

A gzipped file of JSON lines. A line of kind ``model`` is a judged model: its arm, seed, costs,
tailoring and the scores of each dev example by which tables are made. A line of kind ``search`` is
a search: its best candidates along the way.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quality_arms import Found, Settings, opened
from quality_judge import scores_of

import gptailor as gt
from gptailor.files.atomic import write_atomically

__all__ = ["Course", "Judged", "Kept"]

METRICS = ("acc_norm", "gold_bits_per_byte", "bits_per_byte")  # those of the tables
Judged = tuple[Found, gt.Scores]  # on the dev examples


@dataclass(frozen=True, slots=True)
class Course:
    """The best candidates of a search along the way."""

    arm: str
    seed: int
    losses: list[tuple[int, float]]  # layer-tokens so far, proxy loss of each new best
    points: list[dict[str, Any]]  # a few of them judged, by the keys of the JSON
    layer_tokens: int = 0  # of all trials, the fit and the whole members; 0 where not known


@dataclass(slots=True)
class Kept:
    """Judged models and searches, each once."""

    models: list[Judged] = field(default_factory=list)
    courses: list[Course] = field(default_factory=list)

    def add(self, models: Iterable[Judged], courses: Iterable[Course]) -> None:
        """Add those of arms and seeds that are not known yet."""
        known = {(found.arm, found.seed) for found, _ in self.models}
        self.models += [each for each in models if (each[0].arm, each[0].seed) not in known]
        searched = {(course.arm, course.seed) for course in self.courses}
        self.courses += [each for each in courses if (each.arm, each.seed) not in searched]

    @property
    def arms(self) -> dict[str, list[Judged]]:
        """Arm to the models of its seeds, the seeds in order."""
        by_arm: dict[str, list[Judged]] = {}
        for one in sorted(self.models, key=lambda judged: judged[0].seed):
            by_arm.setdefault(one[0].arm, []).append(one)
        return {arm: by_arm[arm] for arm in dict.fromkeys(one.arm for one, _ in self.models)}

    def save(self, path: Path) -> None:
        """Write the file."""
        lines = "".join(json.dumps(line) + "\n" for line in self._lines())
        write_atomically(path, gzip.compress(lines.encode(), mtime=0))

    def _lines(self) -> Iterator[dict[str, Any]]:
        for found, scores in self.models:
            yield {
                "kind": "model",
                "arm": found.arm,
                "seed": found.seed,
                "layer_tokens": found.layer_tokens,
                "seconds": found.seconds,
                "n_candidates": found.n_candidates,
                "tailoring": found.tailoring.to_plain(),
                "scores": {
                    task: {
                        metric: [round(value, 4) for value in measured.values]
                        for metric, measured in metrics.items()
                        if metric in METRICS
                    }
                    for task, metrics in scores.tasks.items()
                },
            }
        for course in self.courses:
            yield {"kind": "search", **asdict(course)}

    @classmethod
    def load(cls, path: Path, settings: Settings) -> "Kept":
        """Read a file.

        Raises:
            UserError: Its models were judged on other numbers of dev examples than the settings'.
        """
        kept = cls()
        wanted = {name: splits.test.n_examples for name, splits in opened(settings)[1].items()}
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if line.pop("kind") == "search":
                    losses = [(int(at), float(loss)) for at, loss in line.pop("losses")]
                    kept.courses.append(Course(losses=losses, **line))
                    continue
                values = line.pop("scores")
                if wanted != {name: len(next(iter(one.values()))) for name, one in values.items()}:
                    raise gt.UserError(f"{path}: was judged on other examples; see --judge-limit")
                scores = scores_of(settings, values, settings.judge_limit)
                tailoring = gt.Tailoring.from_plain(line.pop("tailoring"))
                kept.models.append((Found(tailoring=tailoring, **line), scores))
        return kept
