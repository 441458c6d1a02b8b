#!/usr/bin/env python3
"""Rewrites the table "line -> tests" in src/contract.md.

A test shows a line of the contract if a comment before its function says so: `// Line 7.`, `// Lines 5 and 17.`. In a
file whose first line says `line 7:` all tests do that have no such comment. The lines are those that the page numbers.
Tests in a `kernel_contract!` are marked with ‡: they do not run on the simulated driver. `--check` changes nothing and
fails if the table is out of date.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "src" / "contract.md"
TESTS = DOCS.parent / "tests" / "tests"
BEGIN = "<!-- table: begin (written by docs/contract-table.py) -->"
END = "<!-- table: end -->"

MARK = re.compile(r"^\s*// Lines? (\d+(?:(?:, and |, | and )\d+)*)")
FUNCTION = re.compile(r"^\s*fn (\w+)\(")
CONTRACT_TEST = re.compile(r"^    fn \w+\(driver\) \{")
WHOLE_FILE = re.compile(r"^//! .*\bline (\d+):")
BLOCK = re.compile(r"^(kernel_)?contract! \{")
NUMBERED = re.compile(r"^(\d+)\. ", re.MULTILINE)


def tests_by_line():
    """Line number -> file name -> names of tests, in the order of the files."""
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted([*TESTS.glob("*.rs"), *TESTS.glob("*/*.rs")]):
        lines, kernel = [], ""
        source = path.read_text(encoding="utf-8")
        whole = [int(number) for number in WHOLE_FILE.findall(source)]
        for text in source.splitlines():
            if block := BLOCK.match(text):
                kernel = " ‡" if block.group(1) else ""
            elif text == "}":
                kernel = ""
            elif mark := MARK.match(text):
                lines = [int(number) for number in re.findall(r"\d+", mark.group(1))]
            elif function := FUNCTION.match(text):
                for line in lines or (whole if CONTRACT_TEST.match(text) else []):
                    name = path.stem if path.parent == TESTS else f"{path.parent.name}/{path.stem}"
                    found[line][name].append(f"`{function.group(1)}`{kernel}")
                lines = []
    return found


def table(page, found):
    rows = ["| line | tests |", "|---|---|"]
    for line in sorted({int(number) for number in NUMBERED.findall(page)}):
        files = [
            f"*{name}*: " + ", ".join(tests) for name, tests in found.get(line, {}).items()
        ]
        rows.append(f"| {line} | {'<br>'.join(files) or 'none yet'} |")
    return "\n".join(rows)


def main():
    old = PAGE.read_text(encoding="utf-8")
    head, _, rest = old.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not rest or not tail:
        sys.exit(f"{PAGE}: the markers of the table are missing")
    new = f"{head}{BEGIN}\n\n{table(head, tests_by_line())}\n\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if new != old:
            sys.exit(f"{PAGE}: the table is out of date; run {Path(__file__).name}")
    elif new != old:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
