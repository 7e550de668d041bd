#!/usr/bin/env python3
"""uapi_table.py PROGRAM [--write]: whether the counts in docs/uapi.md are those of `PROGRAM --list`; --write makes them so."""
import collections
import pathlib
import re
import subprocess
import sys

DOC = pathlib.Path(__file__).resolve().parent.parent / "docs" / "uapi.md"
ROW = re.compile(r"^\| `([^`]+)` \| (.*) \| \d+ \| \d+ \| \d+ \|$")


def main() -> int:
    program, write = sys.argv[1], "--write" in sys.argv[2:]
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    listing = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        row, _, needs = line.split("\t")
        counts[row]["tests"] += 1
        counts[row][needs] += 1

    def cells(row: str, what: str) -> str:
        c = counts[row]
        return f"| `{row}` | {what} | {c['tests']} | {c['program']} | {c['update']} |"

    lines, seen, new = [], set(), []
    rows_of = collections.defaultdict(list)  # line numbers of each section's table
    section = ""
    for line in DOC.read_text().splitlines():
        if heading := re.match(r"^## (\d+)\. ", line):
            section = heading[1]
        elif line.startswith("## "):
            section = ""
        if row := ROW.match(line):
            seen.add(row[1])
            line = cells(row[1], row[2])
        lines.append(line)
        if section and line.startswith("|"):
            rows_of[section].append(len(lines))
    # Rows that nobody described yet stand at the end of their section's table.
    for row in sorted(counts, reverse=True):
        if row in seen:
            continue
        home = rows_of.get(row.split(".")[0].split(" ")[0])
        if not home:
            print(f"uapi_table: {row}: {DOC.name} has no section for it")
            return 1
        new.append((home[-1], cells(row, "")))
    for at, line in sorted(new, key=lambda n: n[0], reverse=True):
        lines.insert(at, line)

    total = collections.Counter()
    for c in counts.values():
        total.update(c)
    text = f"{total['tests']} tests in {len(counts)} rows; {total['program']} only as a program, {total['update']} over a live update."
    made = "\n".join(lines) + "\n"
    made = re.sub(r"<!-- total -->\n(.*\n)?\n", lambda _: f"<!-- total -->\n{text}\n\n", made, count=1)
    if write:
        DOC.write_text(made)
    elif made != DOC.read_text():
        print(f"uapi_table: the counts in {DOC.name} are old; run: python3 scripts/uapi_table.py {program} --write")
        return 1
    print(f"uapi_table: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
