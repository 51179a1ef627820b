"""The room in short: whatever files a spec names become rows of one form, split, counted and known by their content."""

from alter_core.data.dataset import TaskDataset
from tests.data.conftest import MadeDomain, good_rows


def test_rows_are_read_split_and_kept_under_their_digest(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    dataset = made.ingest()
    assert sum(dataset.counts(split)["task"] for split in ("train", "validation", "test")) == 200
    assert dataset.labels == {"task": ("no", "yes")}
    row = dataset.rows("test")[0]
    assert (row["task"], row["split"], row["target"] in ("no", "yes")) == ("task", "test", True)
    assert TaskDataset.open(dataset.path).digest == dataset.digest


def test_other_rows_are_another_data_set(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    before = made.ingest().digest
    made.write("rows.jsonl", good_rows(201))
    assert made.ingest().digest != before
