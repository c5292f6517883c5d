"""Counts the kernels that an optimized HLO program launches on a GPU, from its text alone."""

import re
from typing import NamedTuple

# Instructions that launch no kernel. An asynchronous instruction is counted where it starts.
_NO_KERNEL = frozenset(
  "parameter constant tuple get-tuple-element bitcast iota after-all opt-barrier partition-id replica-id"
  " copy-done async-update async-done".split()
)
_MOVES = frozenset({"copy", "transpose", "copy-start"})
_MOVES_ALONE = _MOVES | {"parameter", "bitcast", "reshape", "tuple", "get-tuple-element"}


class Count(NamedTuple):
  """The kernels that a computation launches, with each loop counted for all its iterations.

  Attributes:
    kernels: Number of fusions, library calls and copies. A call of cuDNN or cuFFT counts once, although
      it may launch several kernels.
    whole_signal_windows: Number of convolutions whose window is larger than any filter. They are filter
      gradients that XLA did not recognize and computes as a convolution with the signal as its window.
    loops: Number of `while` loops.
    copies_and_transposes: Number of kernels that only move data.
    waits: How often the host waits for a value from the device: once per iteration of a loop whose end
      depends on data, and once per branch.
  """

  kernels: int = 0
  whole_signal_windows: int = 0
  loops: int = 0
  copies_and_transposes: int = 0
  waits: int = 0

  def plus(self, other: "Count", times: int = 1) -> "Count":
    """Returns the sum of this count and `times` times another one."""
    return Count(*(a + times * b for a, b in zip(self, other, strict=True)))


class Instruction(NamedTuple):
  """An instruction of a computation.

  Attributes:
    opcode: Name of the operation in HLO.
    line: Text of the instruction.
  """

  opcode: str
  line: str

  def called(self, *attributes: str) -> list[str]:
    """Returns the names of the computations that the given attributes of the instruction name."""
    found = []
    for attribute in attributes:
      for value in re.findall(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.line):
        found += re.findall(r"[\w.\-]+", value)
    return found

  @property
  def trip_count(self) -> int | None:
    """Number of iterations of a loop; None if it depends on data."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.line)
    return int(found[1]) if found else None

  @property
  def window(self) -> int:
    """Longest side of a convolution's window; 0 for any other instruction."""
    found = re.search(r"window=\{[^}]*size=([\dx]+)", self.line)
    return max(map(int, found[1].split("x"))) if found else 0


class HloModule:
  """An optimized HLO module."""

  def __init__(self, text: str, filter_size: int):
    """Parses the text of a module.

    Args:
      text: Text of the optimized module.
      filter_size: Longest side of the filters in the program.
    """
    self._filter_size = filter_size
    self._computations: dict[str, list[Instruction]] = {}
    self._counts: dict[str, Count] = {}
    instructions: list[Instruction] = []
    for line in text.splitlines():
      if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
        instructions = self._computations.setdefault(head[1], [])
      elif found := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(", line):
        instructions.append(Instruction(found[1], line))

  def largest_iteration(self) -> Count:
    """Returns the count of one iteration of the loop whose iteration launches the most kernels.

    Raises:
      ValueError: If the program has no loop.
    """
    loops = [i for body in self._computations.values() for i in body if i.opcode == "while"]
    if not loops:
      raise ValueError("the program has no loop")
    return max((self._iteration(loop) for loop in loops), key=lambda count: count.kernels)

  def _iteration(self, loop: Instruction) -> Count:
    """Counts one iteration. The device evaluates the condition only if the end depends on data."""
    count = self._of(*loop.called("body"))
    if loop.trip_count is None:
      count = count.plus(self._of(*loop.called("condition"))).plus(Count(waits=1))
    return count

  def _of(self, name: str) -> Count:
    """Counts the computation with this name."""
    if name not in self._counts:
      total = Count()
      for instruction in self._computations[name]:
        total = total.plus(self._launched_by(instruction))
      self._counts[name] = total
    return self._counts[name]

  def _launched_by(self, instruction: Instruction) -> Count:
    opcode = instruction.opcode
    if opcode in _NO_KERNEL:
      return Count()
    if opcode == "while":  # one iteration if their number is unknown
      return Count(loops=1).plus(self._iteration(instruction), instruction.trip_count or 1)
    if opcode == "conditional":
      names = instruction.called("branch_computations", "true_computation", "false_computation")
      return Count(waits=1).plus(max(map(self._of, names), key=lambda count: count.kernels))
    if opcode in ("call", "async-start"):
      return self._of(*instruction.called("to_apply", "calls"))
    is_conv = opcode == "custom-call" and instruction.window > self._filter_size
    return Count(1, int(is_conv), 0, int(self._only_moves(instruction)), 0)

  def _only_moves(self, instruction: Instruction) -> bool:
    """Whether a kernel only moves data."""
    if instruction.opcode != "fusion":
      return instruction.opcode in _MOVES
    (name,) = instruction.called("calls")
    opcodes = {inner.opcode for inner in self._computations[name]}
    return opcodes <= _MOVES_ALONE and not opcodes.isdisjoint(_MOVES)
