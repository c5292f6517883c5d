"""The paper's tables in `paper.py` agree with the text of the paper, our networks and our flagfiles."""

import pytest

from cscjax.models import describe
from cscjax.runs import make_model
from experiments.reproduction.paper import DATASETS, ROWS
from experiments.reproduction.studies import Job, Study


def test_the_tables_have_120_cells():
  tables = {table: [row for row in ROWS.values() if row.table == table] for table in (2, 3)}
  assert {table: len(rows) for table, rows in tables.items()} == {2: 24, 3: 16}
  for dataset in DATASETS:
    printed = [row.accuracy[dataset] for row in tables[2]]
    assert (len(printed) - printed.count(None), printed.count(None)) == (20, 4)
    assert None not in [row.accuracy[dataset] for row in tables[3]]


def test_titles_name_each_network():
  titles = {name: row.title for name, row in ROWS.items()}
  assert len(set(titles.values())) == len(ROWS)
  assert [titles[name] for name in ("res_csc218", "feed_forward", "ml_csc_u1", "msdcsc12_u2_fista")] == [
    "Res-CSC, 218 layers",
    "Feed-Forward",
    "ML-CSC-ISTA, unfolding 1",
    "MSD-CSC-FISTA, d = 12, unfolding 2",
  ]


def test_the_gain_from_unfolding_is_the_one_in_the_papers_text():
  """It says that MSD-CSC with d = 12 and unfolding 2 gains 1.28 % on CIFAR10, 3.05 % on CIFAR100."""
  better, worse = ROWS["msdcsc12_u2_fista"], ROWS["msdnet12"]
  gains = [round(better.accuracy[d] - worse.accuracy[d], 2) for d in ("cifar10", "cifar100")]
  assert gains == [1.28, 3.05]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.layers <= 20])
def test_each_row_is_the_network_that_is_printed(name):
  row = ROWS[name]
  config = Job(row, Study("cifar10", "paper"), 0).config()
  model = make_model(config, 10)
  weights = sum(layer.weights for layer in describe(model, (32, 32, 3)) if layer.stride)
  assert weights / 1e6 == pytest.approx(float(row.parameters.rstrip("M")), abs=0.05)
  assert getattr(model, "unfolding", None) == row.unfolding
  assert getattr(model, "depth", 6) == row.layers
  assert row.unfolding in (None, 0) or model.solver == row.model.rpartition("-")[2].lower()


@pytest.mark.parametrize("dataset", DATASETS)
def test_protocols_are_those_of_the_paper(dataset):
  for row in ROWS.values():
    config = Job(row, Study(dataset, "paper"), 3).config()
    expected = (200, 0.1, (100, 150), True) if row.table == 2 else (150, 0.05, (75, 115), False)
    assert (config.epochs, config.learning_rate, config.decay_epochs, config.nesterov) == expected
    assert (config.batch_size, config.momentum, config.seed, config.dataset) == (128, 0.9, 3, dataset)
    assert (config.shift, config.flip) == ((0, False) if dataset == "svhn_cropped" else (4, True))
    assert config.train_examples is None
