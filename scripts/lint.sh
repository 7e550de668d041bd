#!/bin/sh
# lint.sh all|changed BUILD: formatting of every file; clang-tidy over all sources, or over the core and what changed
# since the last commit on top of which this work stands.
set -eu
scope=$1
build=$2
files=$(git ls-files '*.h' '*.cc')
# shellcheck disable=SC2086 # a list
clang-format-19 --dry-run -Werror $files || { echo 'lint: run ./dev format' >&2; exit 1; }
sources=$(git ls-files '*.cc' | grep -v '_test\.cc$' | grep -v '^tests/' | grep -v '^bench/')
if [ "$scope" = changed ]; then
  base=$(git rev-parse -q --verify HEAD~1 || git rev-parse HEAD)
  changed=$(git diff --name-only --diff-filter=d "$base" -- '*.cc')
  sources=$(printf '%s\n' "$sources" | while read -r f; do
    case $f in core/*) echo "$f" ;; *) printf '%s\n' "$changed" | grep -qxF "$f" && echo "$f" || true ;; esac
  done)
fi
# clang-tidy knows nothing of g++'s flags; the asan build is clang's.
printf '%s\n' "$sources" | xargs -r -n 4 -P "$(nproc)" clang-tidy-19 --quiet -p "$build" 2>&1 |
  grep -v -e 'warnings generated' -e '^Suppressed' -e '^Use -header' && exit 1
echo "lint: clean ($(printf '%s\n' "$sources" | wc -l) files tidied, $(printf '%s\n' "$files" | wc -l) formatted)"
