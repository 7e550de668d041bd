#!/bin/sh
# metal.sh PERDURE SOURCES PART: the core on QEMU's hardware, as users start it, and the proof failing when it must. Prints
# TAP; ends with 77, and says why, where there is no QEMU that this can run on. PARTS: modes breakages chain dump conformance
set -u
perdure=$1
sources=$2
. "$2/tests/tap.sh"

# One short run tells whether there can be any.
"$perdure" metal --hops 1 --device ohci --stretch-us 1 >"$work/out" 2>&1
if [ $? = 77 ]; then
  echo "1..0 # $(cat "$work/out")"
  exit 77
fi

clean='translation was on throughout.*: yes'

# said NAME PATTERN…: each was in what the last `check` ran.
said() {
  n=$((n + 1))
  for pattern in "$@"; do
    [ "$pattern" != "$1" ] || continue
    if ! grep -qE -- "$pattern" "$work/out" "$work/err"; then
      failed=$((failed + 1))
      echo "not ok $n - $1: nothing like /$pattern/"
      return
    fi
  done
  echo "ok $n - $1"
}

# json NAME EXPRESSION: of the report in $work/out, as `r`.
json() {
  result "$1" python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else json.dumps(r, indent=1)[:4000])' "$work/out" "$2"
}

modes() {
  for tables in legacy scalable; do
    for firmware in qboot seabios; do
      check "all four devices there and back: $tables tables, $firmware" 0 "$clean" metal --tables $tables --firmware $firmware
      said 'each device says so itself' 'ohci +nothing lost' 'edu +nothing lost' 'e1000e +nothing lost' 'nvme +nothing lost' \
        "hop 1: perdure-metal-a -> perdure-metal-b" "hop 2: perdure-metal-b -> perdure-metal-a" "$firmware, $tables tables"
    done
  done
  for device in ohci edu e1000e nvme; do
    check "one long hop: $device alone" 0 "$device +nothing lost" metal --hops 1 --device $device --stretch-us 400000
  done
  for run in 1 2; do
    check "instructions are the clock, run $run" 0 "$clean" metal --icount --hops 3 --verbose
    grep -v '^  ' "$work/err" >"$work/icount$run"
  done
  result 'both runs are the same, byte for byte' cmp "$work/icount1" "$work/icount2"
  result 'and say something' grep -q '"event":"end","ok":true,"hops":3' "$work/icount1"
  check 'as JSON' 0 '"clean": true' metal --json --hops 1
  json 'the report names what it ran on' "r['qemu']['version'] and r['machine']['devices'] == ['ohci', 'edu', 'e1000e', 'nvme']"
  json 'four devices gave evidence' "len(r['hops']) == 1 and len(r['hops'][0]['evidence']) == 4 and all(e['ok'] and e['numbers'] for e in r['hops'][0]['evidence'])"
  json 'what holds of the whole run' "r['checks'] and all(c['ok'] for c in r['checks']) and r['pace']['hop_ns'] > 0"
}

# Each must be seen, and by the evidence that is meant for it.
breakages() {
  for tables in legacy scalable; do
    check "translation off for 5 ms: $tables" 1 'translation was on throughout.*: NO; turned off [1-9]' metal --break te-gap --tables $tables
    said 'and the controller stops for good' 'ohci +DMA did not survive .*unrecoverable error'
    check "no IOTLB flush after a change of a mapping: $tables" 1 'change of a mapping data went where the old one led' \
      metal --break no-iotlb-flush --tables $tables
    said 'which the trace cannot show' "$clean"
    check "no context flush after a change of page tables: $tables" 1 'change of page tables data went where the old one led' \
      metal --break no-context-flush --tables $tables
    check "flushes with a wrong domain id: $tables" 1 'change of a mapping data went where the old one led' \
      metal --break wrong-did --tables $tables
    check "a table page that was not preserved: $tables" 1 'reserved bits in page-table entry|page-table entry' \
      metal --break table-page --tables $tables
  done
  check 'a damaged record of one device' 1 '"clean": false' metal --break record --json
  json 'one device is quarantined, and proven to stand still' \
    "[[(q['bdf'], q['stopped']) for q in h['quarantined']] for h in r['hops'][:1]][0] == [('00:01.0', True)]"
  json 'its memory stays silent' "[e['lost'] and e['ok'] and e['numbers']['stopped'] == 1 for h in r['hops'] for e in h['evidence'] if e['device'] == 'ohci'] == [True, True]"
  json 'the other three go on' "all(e['ok'] and not e['lost'] and e['numbers'] for h in r['hops'] for e in h['evidence'] if e['device'] != 'ohci') and sum(len(h['evidence']) for h in r['hops']) == 8"
  json 'with translation on' "all(c['ok'] for c in r['checks'])"
}

chain() {
  check '500 hops, four devices, one session, one memfd' 0 'nothing was lost \(500 hops' metal --hops 500
  said 'translation, queues, memory' "$clean" 'turned on 5[0-9][0-9] times in 500 hops|turned on 500 times in 500 hops' \
    'as much memory in use as its predecessors: yes'
  grep 'a hop, devices' "$work/out" | sed 's/^/# /'
}

dump() {
  for tables in legacy scalable; do
    check "memory at the jump: $tables" 0 "$clean" metal --hops 2 --tables $tables --dump "$work/core"
    result 'holds what the kernel said, and nothing less would do' python3 "$sources/tests/read_dump.py" "$work/core" --damage
  done
  if command -v readelf >/dev/null; then
    result "others' tools can read it" sh -c "readelf -ln '$work/core' | grep -q 'LOAD.*0x0000000000100000'"
  fi
  check 'as plain bytes' 0 "$clean" metal --hops 1 --dump "$work/raw" --raw
  result 'which hold the same' python3 "$sources/tests/read_dump.py" "$work/raw"
  check 'a file that cannot be written' 1 'no dump: .*nowhere' metal --hops 1 --device ohci --dump "$work/nowhere/core"
}

$3
finish
