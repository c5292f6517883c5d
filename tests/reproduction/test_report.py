"""experiments.report on fake records, without records, and on the results of this repository."""

import os
import pathlib
import re

import pytest
from absl import flags as absl_flags

from experiments import report
from experiments.cli import UsageError
from experiments.reproduction import claims, figures, records
from experiments.reproduction.paper import DATASETS, ROWS
from experiments.reproduction.studies import Job, Study
from tests.faults.harness import contents
from tests.reproduction.made import record

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"


def parse(*arguments):
  values = absl_flags.FlagValues()
  report.define_flags(values)
  values(["report", *map(str, arguments)])
  return values


@pytest.mark.slow
def test_a_report_of_the_whole_paper(tmp_path):
  for dataset in DATASETS:
    for row in ROWS.values():
      for seed in (0, 1):
        accuracy = (row.accuracy[dataset] or 10) + seed / 10
        records.save(tmp_path / "results", record(row.name, accuracy, dataset=dataset, seed=seed))
  picture = tmp_path / "results" / "pictures" / "cifar10" / "msdnet6-seed0.png"
  picture.parent.mkdir(parents=True)
  picture.write_bytes(b"a picture")
  report.main(parse(f"--results={tmp_path / 'results'}", f"--out={tmp_path / 'out'}"))
  text = (tmp_path / "out" / "report.md").read_text()
  for dataset in ("CIFAR10", "CIFAR100", "SVHN"):
    assert f"## {dataset}\n\n{dataset}, float32, the paper's protocol. 80 runs" in text
  paper = ROWS["msdnet6"].accuracy["cifar10"]
  start = f"| MSDNet | 6 | 0 | {ROWS['msdnet6'].parameters}; 143,424 |"
  assert f"{start} {paper} | {paper + 0.05:.2f} ± 0.07 (2) | +0.05 |" in text
  assert text.count("(pairs: ") == 2 * 3 * len(claims.CLAIMS)  # in the overview and in the sections
  assert "All 120 cells" in text
  linked = {line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
  assert "../results/pictures/cifar10/msdnet6-seed0.png" in linked
  figures_4_and_5 = {f"{dataset}-figure{n}.png" for dataset in DATASETS for n in (4, 5)}
  assert linked >= {*figures_4_and_5, "figureS1.png"}
  check_reading(text)
  assert all((tmp_path / "out" / name).stat().st_size for name in linked)
  assert {str(path) for path in contents(tmp_path / "out")} < linked | {"report.md"}


def check_reading(text):
  """Checks that each picture has a title and a caption, and each network a readable name."""
  lines = text.splitlines()
  for i, line in enumerate(lines):
    if line.startswith("!["):
      title = line[2:].split("](")[0]
      assert lines[i + 2].startswith(f"**{title}.** ")
      assert len(lines[i + 2]) > len(title) + 20
  visible = re.sub(r"\]\([^)]*\)|`[^`]*`|\$[^$]*\$", "", text.split("## Missing")[0])
  assert not [name for name in ROWS if re.search(rf"\b{name}\b", visible)]
  assert "_" not in visible
  assert max(len(re.findall(r"[-+]?\d+\.\d\d", line)) for line in lines if line[:1] != "|") < 3


def test_figures_show_means_and_the_papers_accuracy():
  rows = {"msdnet12": (80.0, 90.0), "msdcsc12_u1": (90.0, 92.0)}
  records = [record(row, a, seed=s) for row, values in rows.items() for s, a in enumerate(values)]
  study = Study("cifar10", "paper")
  (axes,) = figures.figure("figure5", records, study).axes
  mean, paper, *_ = axes.lines
  assert mean.get_xydata()[-1].tolist() == [150, 85]
  assert paper.get_xydata().tolist() == [[150, ROWS["msdnet12"].accuracy["cifar10"]]]
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "test accuracy (%)")
  assert axes.get_title() == "(A) MSD-CSC by unfolding, d = 12"
  assert figures.figure("figure4", records, study) is None
  assert "diamond" in figures.caption("figure5", records, study)
  assert "panel A" not in figures.caption("figure5", records, study)


def test_figures_of_reduced_runs_show_the_depths_that_were_run():
  study = Study("cifar10", "reduced")
  rows = ("plain20", "resnet20", "res_csc20", "msdnet6", "msdcsc6_u2", "ml_csc_u2")
  records = [record(row, 50.0 + i, protocol="reduced") for i, row in enumerate(rows)]
  (axes,) = figures.figure("figure4", records, study).axes
  assert axes.get_title() == "(A) 20 layers"
  assert [line.get_xydata()[-1].tolist() for line in axes.lines] == [[6, 50], [6, 51], [6, 52]]
  titles = [panel.get_title() for panel in figures.figure("figure5", records, study).axes]
  assert titles == ["(A) MSD-CSC by unfolding, d = 6", "(B) MSD-CSC and ML-CSC, unfolding 2"]
  caption = figures.caption("figure5", records, study)
  assert caption.endswith("The paper's panel A shows: MSD-CSC by unfolding, d = 12.")
  assert "diamond" not in caption


def test_a_report_without_records(tmp_path):
  report.main(parse(f"--results={tmp_path}"))
  text = (tmp_path / "report" / "report.md").read_text()
  assert "120 of the 120 cells" in text
  assert "Not run yet" in text


def test_the_marked_part_of_a_readme_is_replaced(tmp_path):
  for seed in (0, 1):
    records.save(tmp_path, record("msdnet6", 80.0, seed=seed))
    records.save(tmp_path, record("msdcsc6_u1", 87.0 + seed / 10, seed=seed))
  readme = tmp_path / "README.md"
  readme.write_text("before\n<!-- results -->\nwhat was there\n<!-- /results -->\nafter\n")
  arguments = parse(f"--results={tmp_path}", f"--out={tmp_path / 'out'}", f"--readme={readme}")
  report.main(arguments)
  text = readme.read_text()
  assert text.startswith("before\n<!-- results -->\n")
  assert text.endswith("\n<!-- /results -->\nafter\n")
  assert "what was there" not in text
  verdict = "partly reproduced (pairs: 1 reproduced, 8 without runs)"
  assert f"| Unfolding helps | CIFAR10, float32, the paper's protocol | {verdict} |" in text
  assert "| Res-CSC is as accurate as ResNet | – | no runs |" in text
  assert "(out/report.md)" in text
  report.main(arguments)
  assert readme.read_text() == text


def test_runs_of_an_older_network_are_kept_apart(tmp_path):
  """A run of another version of its network has its own file and is only in its own section."""
  records.save(tmp_path, record("res_csc20", 61.0, protocol="reduced", architecture=1))
  records.save(tmp_path, record("msdnet6", 58.0, protocol="reduced"))
  (other,), (old,) = records.by_architecture(records.read(tmp_path))
  assert (old.row, other.row) == ("res_csc20", "msdnet6")
  for record_of in (old, other):
    picture = tmp_path / "pictures" / f"{record_of.job.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b"a picture")
  present = Job(ROWS["res_csc20"], old.job.study, 0)
  assert old.job != present  # therefore its cell counts as missing
  readme = tmp_path / "README.md"
  readme.write_text("<!-- results -->\n<!-- /results -->\n")
  arguments = parse(f"--results={tmp_path}", f"--out={tmp_path / 'out'}", f"--readme={readme}")
  report.main(arguments)
  text = (tmp_path / "out" / "report.md").read_text()
  before, section = text.split("## Older versions of the networks")
  assert "61.00 (1)" not in before
  assert "| Res-CSC | 20 | 143,424 | 61.00 (1) | 62.00 (1) |" in section
  assert "res_csc20-seed0.png" not in text
  assert "msdnet6-seed0.png" in text
  assert "older versions of the networks, which are not shown here: 1." in readme.read_text()
  assert "61.00" not in readme.read_text()

  records.save(tmp_path, record("res_csc20", 63.0, protocol="reduced"))
  found, others = records.by_architecture(records.read(tmp_path))
  assert others == [old]
  assert {one.job for one in found} == {present, other.job}
  report.main(arguments)
  assert (
    "| Res-CSC | 20 | 143,424 | 63.00 (1) | 64.00 (1) |" in (tmp_path / "out" / "report.md").read_text()
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--results={tmp}/none"], "--results: no such directory"),
    (["--results={tmp}", "--readme={tmp}/none.md"], "--readme: cannot read"),
    (["--results={tmp}", "--readme={tmp}/unmarked.md"], "--readme: {tmp}/unmarked.md has no lines"),
    (["--results={tmp}", "--out={tmp}/unmarked.md"], "--out: cannot write"),
  ],
)
def test_bad_flags(tmp_path, arguments, message):
  (tmp_path / "unmarked.md").write_text("nothing")
  before = contents(tmp_path)
  with pytest.raises(UsageError) as error:
    report.main(parse(*(a.format(tmp=tmp_path) for a in arguments)))
  assert str(error.value).startswith(message.format(tmp=tmp_path))
  assert contents(tmp_path) == before


def test_the_results_of_this_repository_and_its_readme(tmp_path):
  """The README of the experiments and the committed report say what the committed results say."""
  readme, committed = tmp_path / "README.md", (ROOT / "experiments" / "README.md").read_text()
  readme.write_text(committed)
  report.main(parse(f"--results={RESULTS}", f"--out={tmp_path / 'report'}", f"--readme={readme}"))
  text = (tmp_path / "report" / "report.md").read_text()
  text = text.replace(os.path.relpath(RESULTS, tmp_path / "report"), "..")
  assert text == (RESULTS / "report" / "report.md").read_text()
  assert readme.read_text().replace("report/report.md", "results/report/report.md") == committed
  check_reading(text)
  assert contents(tmp_path / "report").keys() == contents(RESULTS / "report").keys()
