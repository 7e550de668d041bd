#!/usr/bin/env python3
"""tables.py ROOT: docs/requirements.md and docs/defects.md name tests and mutants; this checks that they are there, and
that every mutant still finds its line.

Every requirement and every defect that exists must have a row; a row names at least one test, or says that it does not
apply and why; every section of the requirements has a mutant. A test is written `Suite.Name`, as in its source, or
`ctest name`; a mutant is written `mutant name`.
"""
import pathlib
import re
import sys
import tomllib

REQUIREMENTS = [f"R{n:02}" for n in [*range(1, 15), *range(20, 38), *range(40, 60), *range(60, 67)]]
# docs/defects.md: the defects of the series, and the weaknesses of the handover in Linux.
DEFECTS = {"The series": [str(n) for n in range(1, 21)], "KHO and LUO": [str(n) for n in range(1, 24)]}
# Says something else than "a test shows it". The reason must be a sentence.
EXCUSES = ("Not applicable:", "Kept:", "Not here:")

TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST|RC_GTEST_PROP)\((\w+),\s*(\w+)", re.M)
NAMED_TEST = re.compile(r"`([A-Za-z]\w*\.[A-Za-z]\w*)`")
NAMED_CTEST = re.compile(r"`ctest ([\w-]+)`")
NAMED_MUTANT = re.compile(r"`mutant ([\w-]+)`")
CODE = re.compile(r"`[^`]*`")


def existing(root):
    tests = set()
    for folder in ("client", "core", "image", "machine", "metal", "scenarios", "tests", "tool"):
        for source in (root / folder).rglob("*.cc"):
            for suite, name in TEST.findall(source.read_text()):
                if not suite.startswith("DISABLED_") and not name.startswith("DISABLED_"):
                    tests.add(f"{suite}.{name}")
    programs = set()
    for lists in [root / "CMakeLists.txt", *root.glob("*/CMakeLists.txt"), *root.glob("*/*/CMakeLists.txt")]:
        programs.update(re.findall(r"add_test\(NAME (\w+)|perdure_test\((\w+)", lists.read_text()))
    mutants = {m["name"] for m in tomllib.loads((root / "tests" / "mutants.toml").read_text())["mutant"]}
    return tests, {name for pair in programs for name in pair if name}, mutants


def check_mutants(root):
    """A mutant whose line is gone breaks nothing, and nobody would notice before the whole list is run."""
    problems = []
    for m in tomllib.loads((root / "tests" / "mutants.toml").read_text())["mutant"]:
        source = root / m["file"]
        found = source.read_text().count(m["find"]) if source.is_file() else 0
        if found != 1:
            problems.append(f"mutant {m['name']}: `find` occurs {found} times in {m['file']}")
        if m["find"] == m["replace"]:
            problems.append(f"mutant {m['name']}: changes nothing")
    return problems


def rows(text):
    """(section, cells) of every table row whose first cell is an identifier."""
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("|"):
            cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            if re.fullmatch(r"R?\d+", cells[0]):
                yield section, cells


def other_lines(text):
    """Everything but the rows above."""
    return "\n".join(l for l in text.splitlines() if not re.match(r"\| R?\d+ \|", l))


def check(requirements, defects, tests, programs, mutants):
    problems = []

    def names(where, text):
        """Checks all names in a text; returns how many tests it names."""
        for name in NAMED_TEST.findall(text):
            if name not in tests:
                problems.append(f"{where}: there is no test {name}")
        for name in NAMED_CTEST.findall(text):
            if name not in programs:
                problems.append(f"{where}: there is no ctest {name}")
        for name in NAMED_MUTANT.findall(text):
            if name not in mutants:
                problems.append(f"{where}: there is no mutant {name}")
        return len(NAMED_TEST.findall(text)) + len(NAMED_CTEST.findall(text))

    def row(where, cells, columns):
        if len(cells) != columns:
            problems.append(f"{where}: {len(cells)} cells, not {columns}")
            return
        shown = cells[-1]
        # What is neither a test nor a mutant in the last column is a name that was misspelt.
        for code in CODE.findall(shown):
            if not any(p.fullmatch(code) for p in (NAMED_TEST, NAMED_CTEST, NAMED_MUTANT)):
                problems.append(f"{where}: {code} is neither `Suite.Name`, `ctest name` nor `mutant name`")
        if names(where, shown) != 0:
            return
        if not any(len(c.split(e, 1)[1].split()) >= 5 for c in cells[1:] for e in EXCUSES if c.startswith(e)):
            problems.append(f"{where}: names no test, and does not say why ({' '.join(EXCUSES)})")

    seen = {}
    section_text = {}
    for section, cells in rows(requirements):
        row(cells[0], cells, 4)
        if cells[0] in seen:
            problems.append(f"{cells[0]}: twice")
        seen[cells[0]] = section
    for wanted in REQUIREMENTS:
        if wanted not in seen:
            problems.append(f"{wanted}: no row")
    for unknown in set(seen) - set(REQUIREMENTS):
        problems.append(f"{unknown}: there is no such requirement")
    for part in requirements.split("\n## ")[1:]:
        title = part.splitlines()[0].strip()
        section_text[title] = part
    for section in sorted(set(seen.values())):
        if not NAMED_MUTANT.findall(section_text.get(section, "")):
            problems.append(f"section {section}: no mutant")
    names("docs/requirements.md", other_lines(requirements))

    found = {}
    for section, cells in rows(defects):
        where = f"{section}, {cells[0]}"
        row(where, cells, 4)
        if cells[0] in found.setdefault(section, set()):
            problems.append(f"{where}: twice")
        found[section].add(cells[0])
    for section, wanted in DEFECTS.items():
        for missing in sorted(set(wanted) - found.get(section, set()), key=int):
            problems.append(f"{section}, {missing}: no row")
    names("docs/defects.md", other_lines(defects))
    return problems


def self_check(requirements, defects, tests, programs, mutants):
    """The checker must notice: each of these changes to sound tables is a mistake."""
    first = min(t for t in tests if f"`{t}`" in requirements)
    mistakes = [
        (re.sub(r"(?m)^\| R01 .*\n", "", requirements), defects),
        (requirements.replace("| R02 |", "| R01 |", 1), defects),
        (requirements.replace("| R02 |", "| R99 |", 1), defects),
        (requirements.replace(f"`{first}`", f"`{first}Not`", 1), defects),
        (requirements.replace(f"`{first}`", f"`{first.replace('.', '::')}`", 1), defects),
        (re.sub(r"(?m)^(\| R01 \|.*\|)[^|]*\|$", r"\1 nothing \|", requirements), defects),
        (re.sub(r"(?m)^(\| R01 \|.*\|)[^|]*\|$", r"\1 nothing |", requirements), defects),
        (requirements.replace("`mutant ", "`mutant no-", 1), defects),
        (requirements.replace("`mutant ", "`"), defects),
        (requirements, re.sub(r"(?m)^\| 7 \|.*\n", "", defects, count=1)),
        (requirements, defects.replace("`ctest ", "`ctest no_", 1) if "`ctest " in defects else ""),
    ]
    for n, (r, d) in enumerate(mistakes):
        if (r, d) == (requirements, defects):
            sys.exit(f"tables: mistake {n} of the self-check changes nothing")
        if not check(r, d, tests, programs, mutants):
            sys.exit(f"tables: mistake {n} of the self-check was not noticed")


def main():
    root = pathlib.Path(sys.argv[1])
    requirements = (root / "docs" / "requirements.md").read_text()
    defects = (root / "docs" / "defects.md").read_text()
    known = existing(root)
    problems = check(requirements, defects, *known) + check_mutants(root)
    for p in problems:
        print(f"tables: {p}")
    if problems:
        sys.exit(1)
    self_check(requirements, defects, *known)
    print(f"tables: {len(REQUIREMENTS)} requirements, {sum(map(len, DEFECTS.values()))} defects, all names exist")


if __name__ == "__main__":
    main()
