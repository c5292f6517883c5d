"""Kills short runs at random times until they end, and compares them with an uninterrupted run.

    python -m tests.faults.kills --kills=50 --seed=0 --results=experiments/results/kills.json

Half of the runs save a checkpoint after each step. The others save by time, as runs do by default, and
write the metrics of many epochs between two checkpoints. Each run is started and killed (SIGKILL) up to
five times, after a random fraction of the time of a whole run and, every other time, when it writes the
next checkpoint. Then it may end. Its last state and its metrics must equal those of a run without kills.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import re
import sys
import tempfile
import time

from absl import app, flags

from tests.faults import harness

FLAGS = {
  "each_step": (*harness.TINY, *harness.OFTEN, "--epochs=2"),
  "by_time": (*harness.TINY, "--dispatch_seconds=0", "--epochs=60"),
}
"""The flags of the runs, for the two ways of saving checkpoints."""

KILLS_A_RUN = 5


def measure(kills: int, seed: int, folder: pathlib.Path) -> dict:
  """Kills runs in `folder` this many times and returns the results."""
  chance = random.Random(seed)
  cache = f"--compilation_cache={folder / 'compiled'}"
  harness.summary(harness.run(*FLAGS["each_step"], cache, f"--workdir={folder / 'compiling'}"))
  usual = {}
  for saves, given in FLAGS.items():
    began = time.monotonic()
    harness.summary(harness.run(*given, cache, f"--workdir={folder / saves}"))
    usual[saves] = time.monotonic() - began
  runs, done = [], 0
  while done < kills:
    workdir, saves = folder / str(len(runs)), list(FLAGS)[len(runs) % 2]
    command = (*FLAGS[saves], cache, f"--workdir={workdir}")
    killed = []
    for i in range(min(KILLS_A_RUN, kills - done)):
      found = _kill(command, workdir, chance, usual[saves], in_write=i % 2 == 1)
      if found is None:
        break  # the run has ended
      killed.append(found)
    done += len(killed)
    runs.append({"saves": saves, "kills": killed, **_finish(command, workdir, folder / saves)})
  return {
    "kills": done,
    "kills_in_a_checkpoint_write": sum(kill["in_write"] for run in runs for kill in run["kills"]),
    "kills_before_the_first_checkpoint": sum(k["step"] is None for run in runs for k in run["kills"]),
    "kills_with_metrics_after_the_checkpoint": sum(k["rows"] > 0 for run in runs for k in run["kills"]),
    "runs": len(runs),
    "runs_resumed": sum(run["resumed"] for run in runs),
    "runs_with_the_same_bits": sum(run["same_state"] and run["same_metrics"] for run in runs),
    "each_run": runs,
  }


def _kill(command, workdir, chance, usual, in_write):
  """Starts a run and kills it; returns None if it ended before."""
  started = time.time()
  process, began = harness.start(*command), time.monotonic()
  wait = chance.uniform(0, usual)
  more = chance.uniform(0, 0.005)  # the time of the kill within a write
  while process.poll() is None and (elapsed := time.monotonic() - began) < wait:
    time.sleep(min(0.01, wait - elapsed))
  if in_write:
    while process.poll() is None and not harness.writes_under_way(workdir, started):
      time.sleep(0.001)
    time.sleep(more)
  process.kill()
  process.communicate()
  if process.returncode == 0:
    return None
  saved = harness.steps_saved(workdir)
  return {
    "seconds": round(time.monotonic() - began, 3),
    "step": saved[-1] if saved else None,
    "rows": harness.rows_after(workdir, saved[-1] if saved else 0),
    "in_write": harness.writes_under_way(workdir, started),
  }


def _finish(command, workdir, alone):
  """Lets a run end and compares it with the uninterrupted run."""
  saved = harness.steps_saved(workdir)
  done = harness.run(*command)
  (step,) = re.findall(r": step (\d+) of ", done.stderr)
  return {
    "resumed": done.returncode == 0 and int(step) == (saved[-1] if saved else 0),
    "same_state": harness.final_digest(workdir) == harness.final_digest(alone),
    "same_metrics": harness.rows(workdir) == harness.rows(alone),
    "skipped_checkpoints": done.stderr.count("skipped the damaged checkpoint"),
  }


def main(_):
  """Writes the results; returns 1 if a run was not resumed or its result differs."""
  with tempfile.TemporaryDirectory() as folder:
    found = measure(flags.FLAGS.kills, flags.FLAGS.seed, pathlib.Path(folder))
  about = {
    "command": "python -m tests.faults.kills " + " ".join(sys.argv[1:]),
    "run": {saves: "python -m experiments.run " + " ".join(given) for saves, given in FLAGS.items()},
    "seed": flags.FLAGS.seed,
    "date": f"{datetime.date.today()}",
    "device": f"{os.cpu_count()} cores, {_processor()}",
    "versions": {
      "python": platform.python_version(),
      **{p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "flax", "orbax-checkpoint")},
    },
  }
  text = json.dumps(about | found, indent=1) + "\n"
  # One line per kill.
  text = re.sub(
    r'\{\s+"seconds": .*,\s+"step": .*,\s+"rows": .*,\s+"in_write": .*\s+\}', _one_line, text
  )
  if flags.FLAGS.results:
    pathlib.Path(flags.FLAGS.results).write_text(text)
  print(json.dumps({name: value for name, value in found.items() if name != "each_run"}))
  return 0 if found["runs_resumed"] == found["runs_with_the_same_bits"] == found["runs"] else 1


def _one_line(match):
  return json.dumps(json.loads(match[0]))


def _processor():
  """The name of the processor, from /proc/cpuinfo."""
  found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
  return found.group(1) if found else platform.processor()


if __name__ == "__main__":
  flags.DEFINE_integer("kills", 50, "Number of kills.", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "Random seed of the times of the kills.")
  flags.DEFINE_string("results", None, "JSON file to write.")
  app.run(main)
