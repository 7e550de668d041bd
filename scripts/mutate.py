#!/usr/bin/env python3
"""Breaks the code one line at a time; a mutant counts as killed when its named test fails.

tests/mutants.toml lists them: name, file, find (must occur exactly once), replace, test (a test program), filter
(a GoogleTest filter), why. The tree is copied to the build folder first, so the working tree is never touched.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(command, **options):
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def copy_tree(to):
    files = run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT).stdout.split("\n")
    wanted = {f for f in files if f and (ROOT / f).is_file()}
    for f in wanted:
        source, target = ROOT / f, to / f
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    for old in to.rglob("*"):
        if old.is_file() and str(old.relative_to(to)) not in wanted:
            old.unlink()


def find_program(build, name):
    for path in build.rglob(name):
        if path.is_file():
            return path
    return None


def command(build, test, filter_):
    """A GoogleTest program with its filter, or the program itself with arguments."""
    program = str(find_program(build, test))
    return [program, *filter_.split()] if test == "perdure" else [program, f"--gtest_filter={filter_}"]


def targets(mutant):
    """What is built for it: `perdure metal` runs images that nothing links."""
    return [mutant["test"]] + (["metal"] if mutant["filter"].startswith("metal ") else [])


def misfit(mutant, source):
    """Why the mutant cannot be made, or None."""
    path = source / mutant["file"]
    if not path.is_file():
        return f"there is no {mutant['file']}"
    times = path.read_text().count(mutant["find"])
    if times != 1:
        return f"`find` occurs {times} times in {mutant['file']}"
    if mutant["find"] == mutant["replace"]:
        return "`replace` changes nothing"
    return None


def check(mutant, source, build):
    """Returns (verdict, detail): killed, survived, or broken (the table or the build is wrong)."""
    if why := misfit(mutant, source):
        return "broken", why
    path = source / mutant["file"]
    text = path.read_text()
    path.write_text(text.replace(mutant["find"], mutant["replace"]))
    try:
        built = run(["ninja", "-C", str(build), *targets(mutant)])
        if built.returncode != 0:
            return "broken", "does not compile:\n" + built.stdout[-2000:]
        try:
            tested = run(command(build, mutant["test"], mutant["filter"]),
                         timeout=mutant.get("timeout", 120), cwd=build)
        except subprocess.TimeoutExpired:
            return "killed", "timed out"
        if "Running 0 tests" in tested.stdout:
            return "broken", f"no test matches {mutant['filter']}"
        if tested.returncode == 0:
            return "survived", mutant["why"]
        return "killed", ""
    finally:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these mutants")
    parser.add_argument("--sample", type=int, help="this many, chosen by the commit")
    parser.add_argument("--build", default=str(ROOT / "build" / "mutate"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true", help="only whether every mutant still applies")
    args = parser.parse_args()

    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    known = {m["name"] for m in mutants}
    if len(known) != len(mutants):
        sys.exit("mutate: two mutants share a name")
    if unknown := set(args.names) - known:
        sys.exit(f"mutate: no such mutant: {', '.join(sorted(unknown))}")
    if args.names:
        mutants = [m for m in mutants if m["name"] in args.names]
    if args.sample:
        start = int(run(["git", "rev-parse", "HEAD"], cwd=ROOT).stdout[:8], 16)
        mutants = [mutants[(start + i * 7) % len(mutants)] for i in range(min(args.sample, len(mutants)))]
    if args.list:
        for m in mutants:
            print(f"{m['name']}: {m['file']}: {m['why']} ({m['test']} {m['filter']})")
        return

    if args.check:
        bad = [(m["name"], why) for m in mutants if (why := misfit(m, ROOT))]
        for name, why in bad:
            print(f"mutate: {name}: {why}; correct it in tests/mutants.toml")
        print(f"mutate: {len(mutants) - len(bad)} of {len(mutants)} mutants apply")
        sys.exit(1 if bad else 0)

    source = pathlib.Path(args.build) / "source"
    build = pathlib.Path(args.build) / "build"
    source.mkdir(parents=True, exist_ok=True)
    copy_tree(source)
    configured = run(["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                      "-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g0", "-DPERDURE_WERROR=OFF"])
    if configured.returncode != 0:
        sys.exit("mutate: cannot configure:\n" + configured.stdout[-3000:])
    tests = sorted({t for m in mutants for t in targets(m)})
    built = run(["ninja", "-C", str(build), *tests])
    if built.returncode != 0:
        sys.exit("mutate: the unchanged tree does not build:\n" + built.stdout[-3000:])
    for test, filter_ in sorted({(m["test"], m["filter"]) for m in mutants}):
        sound = run(command(build, test, filter_), cwd=build)
        if sound.returncode != 0:
            sys.exit(f"mutate: {test} {filter_} fails without any mutant:\n{sound.stdout[-3000:]}")

    bad = 0
    for m in mutants:
        began = time.monotonic()
        verdict, detail = check(m, source, build)
        print(f"{verdict:9} {m['name']} ({time.monotonic() - began:.0f} s)", flush=True)
        if verdict != "killed":
            bad += 1
            print(f"          {detail}\n          again: ./dev mutate {m['name']}", flush=True)
    print(f"mutate: {len(mutants) - bad} killed, {bad} not")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
