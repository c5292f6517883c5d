"""The text of --help, and a warning about flags that a flagfile replaces."""

import sys
import textwrap
from collections.abc import Mapping, Sequence

from absl import flags

HELP = frozenset({"-h", "--h", "-?", "-help", "--help", "-helpshort", "--helpshort"})
VALUES = {"int": "INTEGER", "float": "NUMBER", "path": "PATH", "string enum": "NAME"}
"""What stands for the value of a flag, by the type of the flag; TEXT for other types."""
GENERAL = {
  "--flagfile=PATH": "Reads flags from a file, one per line. If a flag is given several times, the last"
  " one counts; therefore flags that replace those of the file come after it.",
  "--verbosity=INTEGER": "Shows the log messages of libraries down to this level: -1 is a warning, 0 an"
  " information, 1 debugging. The default is -1.",
  "--helpfull": "Shows the flags of all libraries, too.",
}


def is_asked_for(arguments: Sequence[str]) -> bool:
  """Whether the arguments of a command contain `-h`, `--help` or another spelling of it."""
  end = arguments.index("--") if "--" in arguments else len(arguments)
  return not HELP.isdisjoint(arguments[:end])


def text(topics: Mapping[str, Sequence[str]]) -> str:
  """Returns the docstring of the command with its flags, as `-h` and `--help` print it.

  Args:
    topics: Topics with the names of their flags. The other flags of the command come before them.
  """
  grouped = {name for names in topics.values() for name in names}
  own = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
  groups = {"Flags": [name for name in own if name not in grouped], **topics}
  parts = [(sys.modules["__main__"].__doc__ or "").strip()]
  for topic, names in groups.items():
    if names:
      entries = [_entry(*_described(flags.FLAGS[name])) for name in names]
      parts.append("\n".join([f"{topic}:", *entries]))
  parts.append("\n".join(["General:", *(_entry(*item) for item in GENERAL.items())]))
  return "\n\n".join(parts)


def replaced(arguments: Sequence[str]) -> dict[str, str]:
  """Finds the flags that have no effect because a flagfile after them contains them, too.

  Args:
    arguments: The arguments of a command, without its name.

  Returns:
    The last flagfile that replaces a flag, by the name of the flag.

  Raises:
    flags.Error: If a flagfile cannot be read.
  """
  given: dict[str, str] = {}
  found: dict[str, str] = {}
  rest = list(arguments)
  while rest and rest[0] != "--":
    argument = rest.pop(0)
    if not argument.startswith("-"):
      continue
    if _name(argument) != "flagfile":
      given[_name(argument)] = argument
      found.pop(_name(argument), None)
      continue
    path = argument.partition("=")[2] if "=" in argument else "".join(rest[:1])
    for line in flags.FLAGS.read_flags_from_files([f"--flagfile={path}"]):
      name = _name(line)
      if name in given and line != given[name]:
        found[name] = path
  return found


def _described(flag: flags.Flag) -> tuple[str, str]:
  """Returns a flag as it is written, and its help text with its choices and its default."""
  kind, text = flag.flag_type(), flag.help
  if isinstance(flag.parser, flags.EnumParser):
    text = text.partition(">: ")[2]  # absl puts <a|b>: before it
    text += f" One of {', '.join(flag.parser.enum_values)}."
  is_list = isinstance(flag.parser, flags.ListParser)
  if flag.default_as_str:
    default = flag.default_as_str.strip("'")
    text += f" The default is {default.replace(',', ', ') if is_list else default}."
  if flag.boolean:
    return f"--[no]{flag.name}", text
  value = "A,B,..." if is_list else VALUES.get(kind, "TEXT")
  return f"--{flag.name}={value}", text


def _entry(usage: str, text: str) -> str:
  """Returns the lines of a flag."""
  indent = " " * 6
  lines = textwrap.wrap(
    text, 96, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
  )
  return "\n".join([f"  {usage}", *lines])


def _name(argument: str) -> str:
  """Returns the name of the flag of an argument such as `--depth=6`, `--depth` or `--nonorm`."""
  name = argument.lstrip("-").partition("=")[0]
  return name if name in flags.FLAGS else name.removeprefix("no")
