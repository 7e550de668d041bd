#!/usr/bin/env python3
"""guide_blocks.py FILE.md: the commands of a page as one shell script, on standard output.

Every ```sh block is run, in order, by one shell; a block that cannot be run anywhere else is written ```console. A ```text block after
one states lines that its output must have, in this order; `…` stands for anything, and a line of only `…` for any lines.
"""
import fnmatch
import pathlib
import re
import shlex
import sys

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script(page: str, name: str) -> str:
    out = ["set -eu", "exec 3>&1"]
    before = None
    for block in BLOCK.finditer(page):
        kind, text = block[1], block[2]
        line = page.count("\n", 0, block.start()) + 1
        if kind == "sh":
            out += [f"echo '--- {name}:{line}' >&3", f"now='{name}:{line}'", "{", text.rstrip("\n"), '} >"$out" 2>&1',
                    'cat "$out" >&3']
            before = line
        elif kind == "text" and before is not None:
            wanted = shlex.quote(text)
            out.append(f'python3 "$guide_blocks" --check {shlex.quote(f"{name}:{line}")} "$out" {wanted}')
            before = None
    return "\n".join(out) + "\n"


def check(where: str, output: str, wanted: str) -> int:
    lines = pathlib.Path(output).read_text().splitlines()
    at = 0
    for want in wanted.splitlines():
        if want.strip() in ("", "…"):
            continue
        pattern = re.sub(r"([\[?*])", r"[\1]", want.strip()).replace("…", "*")
        while at < len(lines) and not fnmatch.fnmatchcase(lines[at].strip(), pattern):
            at += 1
        if at == len(lines):
            print(f"{where}: the output has no line: {want}\n" + "\n".join(lines), file=sys.stderr)
            return 1
        at += 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        sys.exit(check(*sys.argv[2:5]))
    path = pathlib.Path(sys.argv[1])
    sys.stdout.write(script(path.read_text(), path.name))
