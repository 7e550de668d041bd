#!/bin/sh
# lint.sh all|changed BUILD: formatting of every file; clang-tidy over all sources with every check, or over the core and
# what the last commit changed without the static analyzer's.
set -eu
scope=$1
build=$2
files=$(git ls-files '*.h' '*.cc')
# shellcheck disable=SC2086 # a list
clang-format-19 --dry-run -Werror $files || { echo 'lint: run ./dev format' >&2; exit 1; }
sources=$(git ls-files '*.cc' | grep -v -e '_test\.cc$' -e '^tests/' -e '^bench/' -e '^fuzz/' -e '^cmake/' -e '/testing/')
extra=
if [ "$scope" = changed ]; then
  extra=--checks=-clang-analyzer-*
  base=$(git rev-parse -q --verify HEAD~1 || git rev-parse HEAD)
  changed=$(git diff --name-only --diff-filter=d "$base" -- '*.cc')
  sources=$(printf '%s\n' "$sources" | while read -r f; do
    case $f in core/*) echo "$f" ;; *) printf '%s\n' "$changed" | grep -qxF "$f" && echo "$f" || true ;; esac
  done)
fi
# What is compiled twice (the core for bare metal, the kernels' main with other definitions) is looked at once.
# clang-tidy knows nothing of g++'s flags; the asan build is clang's.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=$work/report
# What sanitizers cannot build (metal/) is in the release build.
python3 - "$work/compile_commands.json" "$build/compile_commands.json" "$build/../release/compile_commands.json" <<'PYTHON'
import json, os, sys
once = {}
for database in filter(os.path.exists, sys.argv[2:]):
    for command in sorted(json.load(open(database)), key=lambda c: ["cmake_pch" in c["command"], "freestanding" in c["command"]]):
        once.setdefault(command["file"], command)
json.dump(list(once.values()), open(sys.argv[1], "w"))
PYTHON
# shellcheck disable=SC2086 # none or one
printf '%s\n' "$sources" | xargs -r -n 4 -P "$(nproc)" clang-tidy-19 --quiet $extra -p "$work" >"$report" 2>/dev/null || {
  cat "$report"
  echo "lint: clang-tidy has complaints; again: clang-tidy-19 -p $build FILE" >&2
  exit 1
}
echo "lint: clean ($(printf '%s\n' "$sources" | wc -l) files tidied, $(printf '%s\n' "$files" | wc -l) formatted)"
