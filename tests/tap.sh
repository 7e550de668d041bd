# Sourced by tests of the program: `check` and `finish`, in TAP. Wants $perdure; makes $work, which ends with the script.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Machines keep their files below TMPDIR, and must leave nothing there.
mkdir "$work/tmp"
export TMPDIR="$work/tmp"
n=0
failed=0

# result NAME COMMAND…: what the command says decides.
result() {
  name=$1
  shift
  n=$((n + 1))
  if "$@" >"$work/result" 2>&1; then
    echo "ok $n - $name"
  else
    failed=$((failed + 1))
    echo "not ok $n - $name"
    sed 's/^/# /' "$work/result" | tail -n 60
  fi
}

# check NAME EXPECTED-STATUS PATTERN ARGS…: `perdure ARGS` ends with that status and says PATTERN.
check() {
  name=$1 status=$2 pattern=$3
  shift 3
  n=$((n + 1))
  "$perdure" "$@" >"$work/out" 2>"$work/err"
  got=$?
  if [ $got = "$status" ] && grep -qE -- "$pattern" "$work/out" "$work/err"; then
    echo "ok $n - $name"
  else
    failed=$((failed + 1))
    echo "not ok $n - $name (status $got, wanted $status and /$pattern/); again: $perdure $*"
    sed 's/^/# /' "$work/out" "$work/err" | tail -n 60
  fi
}

# skip NAME WHY
skip() {
  n=$((n + 1))
  echo "ok $n - $1 # SKIP $2"
}

finish() {
  result 'nothing is left behind' [ -z "$(ls -A "$TMPDIR")" ]
  echo "1..$n"
  [ $failed = 0 ]
}
