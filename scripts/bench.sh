# Sourced by ./dev: builds for speed and runs the benchmarks, with the arguments passed on to each program
# (--benchmark_filter=…, --benchmark_repetitions=…). One line a row: its time, and what else it counted.

# show: from Google Benchmark's CSV to columns.
show() {
  python3 -c '
import csv, sys

def number(text):
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

def seconds(text):
    value = float(text)
    for unit, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3), ("s", 1)):
        if value * factor < 1000:
            break
    return f"{value * factor:.3g} {unit}"

rates = {"page", "leaf", "table", "call"}  # seconds for one
lines = sys.stdin.read().splitlines()
start = next((i for i, line in enumerate(lines) if line.startswith("name,iterations")), None)
if start is None:
    sys.exit("\n".join(lines) or "no benchmark ran")
factor = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}
known = {"name", "iterations", "real_time", "cpu_time", "time_unit", "bytes_per_second", "items_per_second", "label"}
for row in csv.DictReader(lines[start:]):
    if row.get("error_occurred") == "true":
        sys.exit(row["name"] + ": " + row["error_message"])
    name = row["name"]
    for suffix in ("/manual_time",):
        name = name.replace(suffix, "")
    parts = name.split("/")
    name = "/".join(p for p in parts if not p.startswith("iterations:"))
    counters = []
    for key, value in row.items():
        if key in known or key.startswith("error_") or not value:
            continue
        counters.append(f"{seconds(value)}/{key}" if key in rates else f"{key} {number(value)}")
    total = seconds(float(row["real_time"]) * factor[row["time_unit"]])
    print(f"  {name:32} {total:>10}   " + "   ".join(counters), flush=True)
'
}

# run_bench NAME ARGS…
run_bench() {
  name=$1
  shift
  say "bench_$name"
  # In a file, so that a benchmark that failed is not taken for one that had nothing to say.
  "$build/bench/bench/bench_$name" --benchmark_format=csv "$@" >"$log/bench-$name.csv" 2>"$log/bench-$name.log" || {
    cat "$log/bench-$name.log" >&2
    die "bench_$name failed"
  }
  if grep -q '^name,iterations' "$log/bench-$name.csv"; then
    show <"$log/bench-$name.csv"
  elif grep -q 'Failed to match' "$log/bench-$name.log" "$log/bench-$name.csv"; then
    say '  (none of its rows asked for)'
  else
    show <"$log/bench-$name.csv"  # a list, or help
  fi
}

# shellcheck disable=SC2086 # a list
timed packages install $packages_run libbenchmark-dev libgtest-dev python3
say 'dev: building (a few minutes the first time)'
timed build compile bench bench_handover bench_update bench_pt
timed handover run_bench handover "$@"
timed update run_bench update "$@"
timed pt run_bench pt --benchmark_min_time=0.1 "$@"
say "dev: time:${budget%,}"
