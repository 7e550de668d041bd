# Sourced by ./dev: fuzz targets under libFuzzer, one after the other. New inputs gather in build/fuzz-corpus/TARGET; what is
# committed in fuzz/corpus/TARGET is where each run begins, and a test of every build.
#   ./dev fuzz [TARGET…] [SECONDS]     SECONDS each, default 60
#   ./dev fuzz --minimise TARGET…      the fewest, smallest inputs that reach what is reached now become fuzz/corpus/TARGET
#   ./dev fuzz --replay TARGET FILE…   these inputs, once each

targets=
seconds=60
minimise=no
if [ "${1:-}" = --minimise ]; then
  minimise=yes
  shift
fi
replay=no
if [ "${1:-}" = --replay ]; then
  replay=yes
  shift
fi
# A committed corpus: small inputs, not too many. The rest stays in the build folder.
most_inputs=190
longest=2500

all_targets=$(sed -n 's/^perdure_fuzz(\(fuzz_[a-z_]*\).*/\1/p' fuzz/CMakeLists.txt)
if [ $replay = yes ]; then
  [ $# -ge 2 ] || die 'fuzz --replay TARGET FILE…'
  # shellcheck disable=SC2086 # a list
  install $packages_run $packages_test
  compile fuzz "$1"
  program=$build/fuzz/fuzz/$1
  shift
  exec "$program" "$@"
fi
for word in "$@"; do
  case $word in
    *[!0-9]*)
      echo "$all_targets" | grep -qx "$word" || die "no such fuzz target: $word; there are: $(echo $all_targets)"
      targets="$targets $word"
      ;;
    *) seconds=$word ;;
  esac
done
[ -n "$targets" ] || targets=$all_targets

# shellcheck disable=SC2086 # a list
install $packages_run $packages_test
say 'dev: building (a few minutes the first time)'
# shellcheck disable=SC2086 # a list
compile fuzz $targets
for target in $targets; do
  work=$build/fuzz-corpus/$target
  committed=$root/fuzz/corpus/$target
  found=$build/fuzz-found/$target
  mkdir -p "$work" "$committed" "$found"
  if [ $minimise = yes ]; then
    fresh=$build/fuzz-corpus/$target.min
    rm -rf "$fresh"
    mkdir -p "$fresh"
    # Named ones are kept by hand: each shows a class of fault that was fixed.
    for input in "$committed"/[a-z]*-*; do
      [ ! -e "$input" ] || cp "$input" "$fresh"
    done
    "$build/fuzz/fuzz/$target" -set_cover_merge=1 -max_len=$longest "$fresh" "$committed" "$work" >"$log/fuzz-$target.log" 2>&1 ||
      { tail -n 40 "$log/fuzz-$target.log" >&2; die "minimising $target failed"; }
    # More than that would have to be looked at: most of the reach is in the smaller ones.
    # shellcheck disable=SC2012 # names are hexadecimal
    ls -Sr "$fresh" | grep -v -- - | tail -n +$((most_inputs + 1)) | while read -r name; do rm "$fresh/$name"; done
    rm -rf "$committed"
    mv "$fresh" "$committed"
    say "  $target: $(ls "$committed" | wc -l) inputs, $(du -bs "$committed" | cut -f1) bytes"
    continue
  fi
  "$build/fuzz/fuzz/$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 \
    -artifact_prefix="$found/" "$work" "$committed" >"$log/fuzz-$target.log" 2>&1 || {
    tail -n 60 "$log/fuzz-$target.log" >&2
    die "$target found something; the input is in $found; again: ./dev fuzz --replay $target FILE"
  }
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log/fuzz-$target.log")
  say "  $target: $runs inputs in $seconds s, nothing found"
done
