# Sourced by ./dev: builds for speed and runs the benchmarks; arguments are passed on to each program
# (--benchmark_filter=preserve, --benchmark_repetitions=5 …). One line a row: its time, and what else it counted.

# show FILE: Google Benchmark's JSON as columns.
show() {
  python3 - "$1" <<'PYTHON'
import json, sys

PER_ONE = {"page", "leaf", "table", "call"}  # counters that are seconds for one of these
KNOWN = {"name", "family_index", "per_family_instance_index", "run_name", "run_type", "repetitions",
         "repetition_index", "threads", "iterations", "real_time", "cpu_time", "time_unit", "aggregate_name",
         "aggregate_unit", "label"}
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}


def time(seconds):
    for unit, factor in SECONDS.items():
        if seconds < 1000 * factor:
            break
    return f"{seconds / factor:.3g} {unit}"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


for row in json.load(open(sys.argv[1]))["benchmarks"]:
    if row.get("error_occurred"):
        sys.exit(f"{row['name']}: {row['error_message']}")
    name = "/".join(p for p in row["name"].split("/") if p != "manual_time" and not p.startswith("iterations:"))
    if row.get("aggregate_unit") == "percentage":
        print(f"  {name:30} {100 * row['real_time']:9.3g} %")
        continue
    counters = [f"{time(v)}/{k}" if k in PER_ONE else f"{k} {number(v)}" for k, v in row.items() if k not in KNOWN]
    total = time(row["real_time"] * SECONDS[row["time_unit"]])
    print(f"  {name:30} {total:>11}   " + "   ".join(counters))
PYTHON
}

# run_bench NAME ARGS…
run_bench() {
  name=$1
  shift
  say "bench_$name"
  rm -f "$log/bench-$name.json"
  "$build/bench/bench/bench_$name" --benchmark_out="$log/bench-$name.json" --benchmark_out_format=json "$@" \
    >"$log/bench-$name.log" 2>&1 || { cat "$log/bench-$name.log" >&2; die "bench_$name failed"; }
  if grep -q '"benchmarks": ' "$log/bench-$name.json" 2>/dev/null; then
    show "$log/bench-$name.json"
  elif grep -q 'Failed to match' "$log/bench-$name.log"; then
    say '  (no row of it asked for)'
  else
    cat "$log/bench-$name.log"  # a list of its rows, or help
  fi
}

# The long chain on bare metal, beside the peer in the same QEMU.
run_metal() {
  say 'metal: 500 hops there and back, four devices at work'
  status=0
  "$build/bench/tool/perdure" metal --hops 500 --json >"$log/bench-metal.json" || status=$?
  case $status in
    0) ;;
    77) say "  skipped: $(python3 -c 'import json, sys; print(json.load(sys.stdin)["skipped"])' <"$log/bench-metal.json")"; return ;;
    *) cat "$log/bench-metal.json" >&2; die 'the chain on bare metal is not clean' ;;
  esac
  python3 - "$log/bench-metal.json" <<'PYTHON'
import json, statistics, sys

report = json.load(open(sys.argv[1]))
pace = report["pace"]
blackout = statistics.median(hop["blackout_ns"] for hop in report["hops"])
print(f"  {'hop, all of it':30} {pace['hop_ns'] / 1e6:8.3g} ms   Linux {pace['peer_hop_ns'] / 1e6:.4g} ms   1 : {pace['ratio']:.0f}")
print(f"  {'hop, median':30} {pace['median_hop_ns'] / 1e6:8.3g} ms")
print(f"  {'freeze to ready, median':30} {blackout / 1e6:8.3g} ms   QEMU {report['qemu']['version']}")
PYTHON
}

# shellcheck disable=SC2086 # a list
timed packages install $packages_run $packages_metal libbenchmark-dev libgtest-dev python3
say 'dev: building (a few minutes the first time)'
timed build compile bench bench_handover bench_update bench_pt bench_intercept perdure metal
timed handover run_bench handover "$@"
timed update run_bench update "$@"
timed intercept run_bench intercept "$@"
timed pt run_bench pt --benchmark_min_time=0.1 "$@"
# Asked for other rows, nobody waits for this one.
[ $# -gt 0 ] || timed metal run_metal
say "dev: time:${budget%,}"
