"""The README's example prints what the README says; its commands name files that are there."""

import contextlib
import io
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_example(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, expected = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
  assert len([line for line in code.splitlines() if line.strip()]) <= 14
  printed, names = io.StringIO(), {}
  with contextlib.redirect_stdout(printed):
    exec(compile(code, "README.md", "exec"), names)
  assert printed.getvalue() == expected
  further = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1:]
  assert further
  for code in further:  # they go on where it ended
    exec(compile(code, "README.md", "exec"), names)
  assert (tmp_path / "denoised.png").stat().st_size > 10_000
  assert len(names["report"].rows) == 1
  assert names["gradient"].shape == (64, 64, 1)
  assert names["summary"]["status"] == "ok"
  assert names["trained"].step == names["summary"]["steps"]


def test_flagfiles_and_modules_exist():
  for name in re.findall(r"--flagfile=(\S+?\.flags)", README):
    assert (ROOT / name).is_file(), name
  for module in re.findall(r"python -m (experiments\.\w+)", README):
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
  table = README.split("| flagfile |")[1].split("Each file's header")[0]
  listed = {
    name
    for name in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    for name in re.findall(r"`(\w+)`", name)
  }
  assert listed == {path.stem for path in (ROOT / "experiments").glob("*.flags")}
