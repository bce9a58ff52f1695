"""Builds the table of values in the chart's README from the comments of values.yaml. To update the table, run
`.tools/chart/python/bin/python helm/tests/document.py`."""

import json
import re
import sys

from chart import CHART, load

README = CHART / "README.md"
BEGIN, END = "<!-- values: written by helm/tests/document.py -->\n", "<!-- end of values -->\n"


def comments():
    """Maps the path of each value in values.yaml to the comment above it."""
    found, path, said = {}, [], []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if text := re.fullmatch(r"\s*# (-- )?(.*)", line):
            said = [text.group(2)] if text.group(1) else said + [text.group(2)] if said else []
        elif key := re.match(r"( *)(\w+):", line):
            path = path[: len(key.group(1)) // 2] + [key.group(2)]
            found[".".join(path)] = " ".join(said)
            said = []
        else:
            said = []
    return found


def leaves(values, path=()):
    """Yields the path and default of each row of the table."""
    for key, value in values.items():
        name = ".".join((*path, key))
        if isinstance(value, dict) and value and name not in WHOLE:
            yield from leaves(value, (*path, key))
        else:
            yield name, value


# Mappings that the templates copy into manifests unchanged: each is one row of the table.
WHOLE = {
    "resources",
    "redis.bundled.resources",
    "podSecurityContext",
    "securityContext",
    "monitoring.dashboards.labels",
    "plugin.higress.selector",
    "plugin.istio.selector",
}


def table():
    said = comments()
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for name, value in leaves(load((CHART / "values.yaml").read_text())):
        shown = json.dumps(value) if value != "" else '""'
        lines.append(f"| `{name}` | `{shown}` | {said.get(name, '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def written():
    """Returns the README with an up-to-date table."""
    before, _, rest = README.read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(written())
    sys.exit(0)
