"""Tasks that need no network and a fraction of a second, in the shapes that a scorer must survive."""

from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

PAIRS = [
    ("how do i top up my card", "top up the card where", 4.6),
    ("the cat sits on the mat", "a dog runs in the park", 1.0),
    ("lost my phone and my card", "my card is lost", 3.9),
    ("refund the fee", "music plays loud today", 0.2),
    ("change my address", "can i change the address", 4.8),
    ("exchange rate limit", "what is the limit on rate", 3.0),
    ("red green blue", "blue green red", 4.1),
    ("slow rain today", "fast sun today", 2.2),
    ("stolen pin", "the pin was stolen", 4.4),
    ("bank transfer", "cash payment order", 1.7),
]


def metadata(name: str, **changes: Any) -> TaskMetadata:
    return TaskMetadata(
        **{
            "name": name,
            "description": "made for tests",
            "dataset": {"path": "tests/tiny", "revision": "1"},
            "type": "STS",
            "category": "t2t",
            "modalities": ["text"],
            "eval_splits": ["test"],
            "eval_langs": ["eng-Latn"],
            "main_score": "cosine_pearson",
            **changes,
        }
    )


class TinySTS(AbsTaskSTS):
    """Ten graded pairs."""

    min_score, max_score = 0, 5
    metadata = metadata("TinySTS")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        columns = {name: [pair[i] for pair in PAIRS] for i, name in enumerate(("sentence1", "sentence2", "score"))}
        data = DatasetDict({"test": Dataset.from_dict(columns)})
        self.dataset = data if self.hf_subsets == ["default"] else dict.fromkeys(self.hf_subsets, data)
        self.data_loaded = True


class TwoLanguages(TinySTS):
    """Two subsets, en and de."""

    metadata = metadata("TwoLanguages", eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]})


class Absent(TinySTS):
    """Data that is neither here nor to be had."""

    metadata = metadata("Absent")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach 'tests/absent' on the Hub (OfflineModeIsEnabled)")


class Broken(TinySTS):
    """Data in which a column is missing."""

    metadata = metadata("Broken")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        super().load_data()
        self.dataset = DatasetDict({"test": self.dataset["test"].remove_columns("sentence2")})


class Random(TinySTS):
    """Its score is the next number of the task's random state: the same for every model, if that is fresh."""

    metadata = metadata("Random")

    def evaluate(self, model: Any, split: str = "test", *args: Any, **kwargs: Any) -> Any:
        return {"default": {"main_score": self.rng_state.random()}}


class NotANumber(TinySTS):
    """Its score is NaN."""

    metadata = metadata("NotANumber")

    def evaluate(self, model: Any, split: str = "test", *args: Any, **kwargs: Any) -> Any:
        return {"default": {"main_score": float("nan")}}


def aggregate(*parts: AbsTaskSTS) -> AbsTaskAggregate:
    """A task whose score is the mean of others'."""

    class Aggregate(AbsTaskAggregate):
        metadata = AggregateTaskMetadata(
            name="Aggregate",
            description="made for tests",
            tasks=list(parts),
            main_score="cosine_pearson",
            type="STS",
            eval_splits=["test"],
        )

    return Aggregate()


TASKS = {task.metadata.name: task for task in (TinySTS, TwoLanguages, Absent, Broken, Random, NotANumber)}
