#!/bin/sh
# metal.sh PERDURE SOURCES PART: the core on QEMU's hardware, as users start it, and the proof failing when it must. Prints
# TAP; ends with 77, and says why, where there is no QEMU that this can run on. PARTS: modes breakages chain dump behaviours. QEMU: another
# one than qemu-system-x86_64.
set -u
perdure=$1
sources=$2
. "$2/tests/tap.sh"

# One short run tells whether there can be any.
qemu=${QEMU:-qemu-system-x86_64}
"$perdure" metal --qemu "$qemu" --hops 1 --device ohci --stretch-us 1 >"$work/out" 2>&1
if [ $? = 77 ]; then
  echo "1..0 # $(cat "$work/out")"
  exit 77
fi

clean='translation was on throughout.*: yes'

# said NAME PATTERN…: each is in what the last one printed.
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

# on_metal NAME EXPECTED-STATUS PATTERN ARGS…
on_metal() {
  name=$1 status=$2 pattern=$3
  shift 3
  check "$name" "$status" "$pattern" metal --qemu "$qemu" "$@"
}

# json NAME EXPRESSION: of the report that the last one printed, as `r`.
json() {
  result "$1" python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else json.dumps(r, indent=1)[:4000])' "$work/out" "$2"
}

modes() {
  for tables in legacy scalable; do
    for firmware in qboot seabios; do
      on_metal "all four devices there and back: $tables tables, $firmware" 0 "$clean" --tables $tables --firmware $firmware
      said 'each device says so itself' 'ohci +nothing lost' 'edu +nothing lost' 'e1000e +nothing lost' 'nvme +nothing lost' \
        "hop 1: perdure-metal-a -> perdure-metal-b" "hop 2: perdure-metal-b -> perdure-metal-a" "$firmware, $tables tables"
    done
  done
  for device in ohci edu e1000e nvme; do
    on_metal "one long hop: $device alone" 0 "$device +nothing lost" --hops 1 --device $device --stretch-us 400000
  done
  for tables in legacy scalable; do
    on_metal "messages of transfers that were under way arrive once: $tables" 0 '"clean": true' --interrupts --json --hops 5 \
      --device edu ohci --tables $tables
    json 'in every kernel' "[e['numbers']['interrupts'] >= e['numbers']['landed'] > 0 for h in r['hops'] for e in h['evidence'] if e['device'] == 'edu'] == [True] * 5"
  done
  for run in 1 2; do
    on_metal "instructions are the clock, run $run" 0 "$clean" --icount --hops 3 --verbose
    grep -v '^  ' "$work/err" >"$work/icount$run"
  done
  result 'both runs are the same, byte for byte' cmp "$work/icount1" "$work/icount2"
  result 'and say something' grep -q '"event":"end","ok":true,"hops":3' "$work/icount1"
  on_metal 'as JSON' 0 '"clean": true' --json --hops 1
  json 'the report names what it ran on' "r['qemu']['version'] and r['machine']['devices'] == ['ohci', 'edu', 'e1000e', 'nvme']"
  json 'four devices gave evidence' "len(r['hops']) == 1 and len(r['hops'][0]['evidence']) == 4 and all(e['ok'] and e['numbers'] for e in r['hops'][0]['evidence'])"
  json 'what holds of the whole run' "r['checks'] and all(c['ok'] for c in r['checks']) and r['pace']['hop_ns'] > 0"
}

# Each must be seen, and by the evidence that is meant for it.
breakages() {
  for tables in legacy scalable; do
    on_metal "translation off for 5 ms: $tables" 1 'translation was on throughout.*: NO; turned off [1-9]' --break te-gap --tables $tables
    said 'and the controller stops for good' 'ohci +DMA did not survive .*unrecoverable error'
    on_metal "no IOTLB flush after a change of a mapping: $tables" 1 'change of a mapping data went where the old one led' \
      --break no-iotlb-flush --tables $tables
    said 'which the trace cannot show' "$clean"
    on_metal "no context flush after a change of page tables: $tables" 1 'change of page tables data went where the old one led' \
      --break no-context-flush --tables $tables
    on_metal "flushes with a wrong domain id: $tables" 1 'change of a mapping data went where the old one led' \
      --break wrong-did --tables $tables
    on_metal "a table page that was not preserved: $tables" 1 'reserved bits in page-table entry|page-table entry' \
      --break table-page --tables $tables
  done
  on_metal 'a damaged record of one device' 1 '"clean": false' --break record --json
  json 'one device is quarantined, and proven to stand still' \
    "[[(q['bdf'], q['stopped']) for q in h['quarantined']] for h in r['hops'][:1]][0] == [('00:01.0', True)]"
  json 'its memory stays silent' "[e['lost'] and e['ok'] and e['numbers']['stopped'] == 1 for h in r['hops'] for e in h['evidence'] if e['device'] == 'ohci'] == [True, True]"
  json 'the other three go on' "all(e['ok'] and not e['lost'] and e['numbers'] for h in r['hops'] for e in h['evidence'] if e['device'] != 'ohci') and sum(len(h['evidence']) for h in r['hops']) == 8"
  json 'with translation on' "all(c['ok'] for c in r['checks'])"
}

chain() {
  on_metal '500 hops, four devices, one session, one memfd' 0 'nothing was lost \(500 hops' --hops 500
  said 'translation, queues, memory' "$clean" 'turned on 5[0-9][0-9] times in 500 hops|turned on 500 times in 500 hops' \
    'as much memory in use as its predecessors: yes'
  grep 'a hop with' "$work/out" | sed 's/^/# /'
}

dump() {
  for tables in legacy scalable; do
    on_metal "memory at the jump: $tables" 0 "$clean" --hops 2 --tables $tables --dump "$work/core"
    result 'holds what the kernel said, and nothing less would do' python3 "$sources/tests/read_dump.py" "$work/core" --damage
  done
  if command -v readelf >/dev/null; then
    result "others' tools can read it" sh -c "readelf -ln '$work/core' | grep -q 'LOAD.*0x0000000000100000'"
  fi
  on_metal 'as plain bytes' 0 "$clean" --hops 1 --dump "$work/raw" --raw
  result 'which hold the same' python3 "$sources/tests/read_dump.py" "$work/raw"
  on_metal 'a file that cannot be written' 1 'no dump: .*nowhere' --hops 1 --device ohci --dump "$work/nowhere/core"
}

behaviours() {
  on_metal "hardware's behaviours, as documented" 0 'as documented \([0-9]+ conform, [0-9]+ differ as documented, 0 fail' --conformance
  on_metal 'the same as JSON, in scalable mode' 0 '"clean": true' --conformance --tables scalable --json
  json 'each with its verdict' "len(r['behaviours']) > 100 and r['counts']['conforms'] > 50 and not r['counts']['fails']"
}

$3
finish
