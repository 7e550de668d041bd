#!/usr/bin/env python3
"""metal_sources.py ROOT BUILD: the kernels on bare metal are the hosted ones: every source of the core, compiled from the
same file with nothing left out and nothing switched; what only bare metal needs is small."""
import json
import os
import re
import sys

ROOT, BUILD = sys.argv[1:3]
CORE = ("core/", "client/", "scenarios/")
LIMIT = 2500
# How a program asks Linux; the programs on bare metal are in the same address space as the kernel.
HOSTED = ("client/libc/",)
# For compilers and sanitizers, never for a machine.
CONDITIONAL = {"core/base/asan.h", "core/base/thread_safety.h"}
bad = []

hosted, metal, images = set(), set(), set()
for command in json.load(open(f"{BUILD}/compile_commands.json")):
    source = os.path.relpath(command["file"], ROOT)
    output = command.get("output") or command["command"].split(" -o ")[1].split()[0]
    if re.search(r"/perdure_(core|programs)_freestanding\.dir/", output):
        metal.add(source)
    elif source.startswith(CORE) and not source.startswith(HOSTED) and not source.endswith("_test.cc"):
        hosted.add(source)
    elif re.search(r"/perdure[-_]metal", output):
        images.add(source)
core_of_metal = {s for s in metal if s.startswith(CORE)}
if not hosted:
    bad.append("there is no core")
for source in sorted(hosted ^ core_of_metal):
    bad.append(f"{source} is compiled only {'hosted' if source in hosted else 'for bare metal'}")
for source in sorted(images):
    if not source.startswith(("metal/", "conformance/")):
        bad.append(f"{source} is compiled once more, for an image")

code = 0
for folder, _, files in os.walk(ROOT):
    for name in files:
        path = os.path.relpath(os.path.join(folder, name), ROOT)
        if not path.startswith(CORE + ("metal/",)):
            continue
        text = open(os.path.join(ROOT, path), encoding="utf-8").read()
        lines = text.split("\n")
        if path.startswith("metal/") and not path.endswith("_test.cc"):
            # What somebody has to read as code: neither blank nor comment alone.
            code += sum(1 for line in lines if line.strip() and not line.strip().startswith(("//", "# ")))
        elif path.endswith((".h", ".cc")) and not path.endswith("_test.cc") and path not in CONDITIONAL:
            for number, line in enumerate(lines, 1):
                if re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else)\b", line):
                    bad.append(f"{path}:{number}: the core asks where it is: {line.strip()}")
if code >= LIMIT:
    bad.append(f"metal/ has {code} lines of code, {LIMIT} are too many")
print("\n".join(bad) or f"{len(core_of_metal)} sources of the core are the same in both; metal/ has {code} lines of code")
sys.exit(bool(bad))
