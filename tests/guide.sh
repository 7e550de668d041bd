#!/bin/sh
# guide.sh BUILD SOURCE OUT: runs every command of docs/guide.md, in a directory like the repository's and a home of its own.
set -eu
build=$1 source=$2 here=$3
rm -rf "$here"
mkdir -p "$here/perdure" "$here/home"
for entry in dev cmake examples docs configs CMakeLists.txt CMakePresets.json; do ln -s "$source/$entry" "$here/perdure/$entry"; done
export HOME="$here/home" XDG_RUNTIME_DIR="$here/run" PERDURE_BUILD="$here/build" PERDURE_INSTALL_FROM="$build"
mkdir -m 700 "$here/run"
guide_blocks=$source/scripts/guide_blocks.py
python3 "$guide_blocks" "$source/docs/guide.md" >"$here/guide.sh"
cd "$here/perdure"
# Machines that a failed run leaves.
trap '"$HOME/.local/bin/perdure" machine list 2>/dev/null | awk "NR > 1 {print \$1}" |
  while read -r name; do "$HOME/.local/bin/perdure" machine down "$name" >/dev/null 2>&1; done' EXIT
export out="$here/out" guide_blocks
if ! sh "$here/guide.sh" >"$here/log" 2>&1; then
  cat "$here/log"
  [ ! -s "$out" ] || { echo '--- what the last block said:'; cat "$out"; }
  echo 'guide: a command of docs/guide.md failed'
  exit 1
fi
echo "guide: every command of docs/guide.md did what it says"
