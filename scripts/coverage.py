#!/usr/bin/env python3
"""Line coverage of core/ from llvm-cov: a table by folder, and the uncovered lines of the files named.

A line counts as run when any copy of it ran: templates and inline functions are compiled into many programs.
"""
import argparse
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What the tests are made of, and what runs no code of its own.
LEFT_OUT = re.compile(r"(_test\.cc|/testing/|/fakes\.h)")


def programs(build):
    """Every program the build made that has coverage in it."""
    for path in sorted(build.rglob("*")):
        if path.is_file() and path.stat().st_mode & 0o111 and path.suffix not in (".so", ".sh", ".py"):
            with path.open("rb") as f:
                if f.read(4) == b"\x7fELF":
                    yield path


def counts(build, profile):
    """{file: {line: most executions}} for core/."""
    binaries = [str(p) for p in programs(build) if "CMakeFiles" not in p.parts]
    command = ["llvm-cov-19", "export", "-format=lcov", "-instr-profile", str(profile), binaries[0]]
    for b in binaries[1:]:
        command += ["-object", b]
    text = subprocess.run(command + [str(ROOT / "core")], text=True, stdout=subprocess.PIPE, check=True).stdout
    lines = collections.defaultdict(dict)
    current = None
    for row in text.splitlines():
        if row.startswith("SF:"):
            # Headers are found through the build's links: resolve them.
            path = pathlib.Path(row[3:]).resolve()
            current = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT / "core") else None
            if current and LEFT_OUT.search("/" + current):
                current = None
        elif row.startswith("DA:") and current:
            number, count = row[3:].split(",")[:2]
            known = lines[current]
            known[int(number)] = max(known.get(int(number), 0), int(count))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("profile", type=pathlib.Path)
    parser.add_argument("files", nargs="*", help="show the uncovered lines of these files or folders")
    parser.add_argument("--bar", type=float, default=0, help="fail below this many percent")
    parser.add_argument("--by-file", action="store_true")
    args = parser.parse_intermixed_args()

    lines = counts(args.build, args.profile)
    if not lines:
        sys.exit("coverage: no file of core/ is in the profile; did the tests run with LLVM_PROFILE_FILE set?")
    groups = collections.defaultdict(lambda: [0, 0])
    for file, known in lines.items():
        run = sum(1 for c in known.values() if c != 0)
        for name in {file if args.by_file else str(pathlib.Path(file).parent), "core"}:
            groups[name][0] += run
            groups[name][1] += len(known)
    total = groups.pop("core")
    for name in sorted(groups):
        run, all_ = groups[name]
        print(f"  {name:40} {100 * run / all_:6.1f} %   {all_ - run:5} of {all_} lines not run")
    percent = 100 * total[0] / total[1]
    print(f"  {'core':40} {percent:6.1f} %   {total[1] - total[0]:5} of {total[1]} lines not run")
    for file in sorted(lines):
        if not any(file == f or file.startswith(f.rstrip("/") + "/") for f in args.files):
            continue
        missing = sorted(n for n, c in lines[file].items() if c == 0)
        source = (ROOT / file).read_text().splitlines()
        for n in missing:
            print(f"{file}:{n}: {source[n - 1]}")
    if percent < args.bar:
        sys.exit(f"coverage: {percent:.1f} % is below {args.bar:.0f} %")


if __name__ == "__main__":
    main()
