#!/bin/sh
# machine.sh PERDURE SOURCES: machines that stay, as users start, look at, update and end them. Prints TAP.
set -u
perdure=$1
sources=$2
. "$2/tests/tap.sh"
export XDG_RUNTIME_DIR="$work/run"
mkdir -m 700 "$XDG_RUNTIME_DIR"
base=$XDG_RUNTIME_DIR/perdure
# Whatever goes wrong in between, no machine outlives the test.
trap 'for m in "$base"/*; do [ -d "$m" ] && "$perdure" machine down "${m##*/}"; done >/dev/null 2>&1; rm -rf "$work"' EXIT

# processes: of machines of this test, and of nobody else. Kernels are children of their boards.
pid_of() { sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$base/$1/machine"; }
gone() { ! kill -0 "$1" 2>/dev/null; }
# Waits until a command succeeds; what it waits for has no event that a shell could see.
soon() {
  for _ in $(seq 200); do
    "$@" && return 0
    sleep 0.05
  done
  return 1
}

check 'no machine, and what to do' 1 'no machine is running; perdure machine up' machine status
check 'a name that is none' 1 'is no name for a machine' machine up ../x
check 'a configuration with a mistake, and where' 1 'm.toml:2:1: kernel.frist: there is no such key' machine up m --config "$(printf '[kernel]\nfrist = "a"\n' >"$work/m.toml"; echo "$work/m.toml")"
check 'a kernel that is not there' 1 'ENOENT' machine up m --config "$(printf '[kernel]\nfirst = "none"\n' >"$work/m.toml"; echo "$work/m.toml")"
check 'a first kernel that is no kernel' 1 'did not come up' machine up m --config "$(printf '[kernel]\nfirst = "/bin/true"\n' >"$work/m.toml"; echo "$work/m.toml")"
result 'what did not come up leaves nothing' [ -z "$(ls -A "$base")" ]

check 'up' 0 'machine m is up: kernel perdure-a' machine up m
board=$(pid_of m)
kernel=$(cat /proc/"$board"/task/*/children | awk '{print $1}')
check 'a second one of that name' 1 'machine m is there already' machine up m
check 'list' 0 '^m +running +perdure-a \(hop 0\)' machine list
check 'list as JSON' 0 '"state": "running"' machine list --json
check 'status' 0 '^release: perdure-a' machine status
check 'a part of it' 0 '^ownership: unowned' machine status devices/0000:00:03.0
check 'a part that is not there, and what is' 1 'there is no devices/0000:00:1f.0; below devices are: 0000:00:03.0' machine status devices/0000:00:1f.0
check 'a part as JSON' 0 '"function": "0000:00:03.0"' machine status --json devices/0000:00:03.0
check 'log' 0 'machine: kernel perdure-a serves \(hop 0\)' machine log m

result 'the directory is its user'"'"'s alone' [ "$(stat -c %a "$base") $(stat -c %a "$base/m")" = '700 700' ]
result 'so are the sockets' [ "$(stat -c %a "$base/m/control") $(stat -c %a "$base/m/kernel")" = '600 600' ]
nobody='setpriv --reuid 65534 --regid 65534 --clear-groups'
python=
for p in python3 /usr/bin/python3; do
  [ "$(id -u)" = 0 ] && $nobody "$p" -c '' 2>/dev/null && python=$p
done
if [ -n "$python" ]; then
  # The directories above are opened on purpose: what protects the machine is its own.
  chmod 755 "$work"
  chmod 711 "$XDG_RUNTIME_DIR"
  for socket in control kernel; do
    result "another user gets EACCES at $socket" $nobody "$python" -c '
import errno, socket, sys
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    try:
        socket.socket(socket.AF_UNIX, kind).connect(sys.argv[1])
        sys.exit("connected")
    except OSError as e:
        if e.errno != errno.EACCES: sys.exit(str(e))' "$base/m/$socket"
  done
  # A copy that this user may execute.
  mkdir -m 755 "$work/bin"
  cp "$perdure" "$work/bin/perdure"
  result 'another user is told so' sh -c '$1 "$0" machine list 2>&1 | grep EACCES' "$work/bin/perdure" "$nobody"
else
  echo '# skipped: another user, for want of root, setpriv or a python3 that others may run'
fi

check 'kexec to the other kernel' 0 'perdure-a -> perdure-b \(hop 1\)' kexec
check 'and back, with its phases as JSON' 0 '"phase": "re-attach"' kexec --json
check 'kexec to a kernel by path' 0 'perdure-a -> perdure-b \(hop 3\)' kexec --machine m --kernel "$(dirname "$perdure")/perdure-kernel-b"
check 'a budget that is kept' 0 'total' kexec --budget 60s
check 'a budget that is not, and where it ran out' 3 'more than the budget of 0 ns: it ran out in phase audit' kexec --budget 0
check 'the same as JSON' 3 '"broke_budget": "audit"' kexec --budget 0ms --json
check 'a budget that is none' 2 'no time: soon' kexec --budget soon
check 'a kernel that is not there' 1 'nothing was frozen: ENOENT' kexec --kernel missing
check 'a program that is no kernel' 1 'is not a kernel that can take over' kexec --kernel /bin/true
check 'all that left it as it was' 0 '\(hop 6\)' machine list
result 'by the same two processes' [ "$(pid_of m) $(cat /proc/"$board"/task/*/children | awk '{print $1}')" = "$board $kernel" ]

check 'a second machine' 0 'machine n is up' machine up n
check 'which one is meant has to be said' 1 'running are m n' kexec
check 'or it is not known' 1 'there is no machine o; perdure machine up o' kexec --machine o
result 'by the environment' sh -c 'PERDURE_MACHINE=n "$0" kexec | grep "hop 1"' "$perdure"
check 'down' 0 'machine n is down' machine down n
check 'only that one is gone' 0 '^m +running' machine list
result 'its directory, too' [ "$(ls "$base")" = m ]

# Many at once, one of them gets it.
for i in 1 2 3 4 5; do "$perdure" machine up race >"$work/race.$i" 2>&1 & done
wait
result 'of those who start one machine at once, one does' [ "$(cat "$work"/race.* | grep -c 'machine race is up') $(cat "$work"/race.* | grep -c 'is there already')" = '1 4' ]
check 'down by name' 0 'machine race is down' machine down race

# The board process is killed, and with it the machine: nothing stays but words.
kill -9 "$board"
result 'no board, no kernel' soon gone "$kernel"
check 'what is stale is known' 0 '^m +stale' machine list
check 'and cannot be used' 1 'ended unexpectedly' machine status --machine m
check 'what it said is still there' 0 'serves \(hop 6\)' machine log m
check 'another one of that name can be started' 0 'machine m is up' machine up m
result 'with a log of its own' sh -c '! "$0" machine log m | grep -q "hop 6"' "$perdure"
board=$(pid_of m)

# The kernel process is killed: hardware stays, and says so.
kernel=$(cat /proc/"$board"/task/*/children | awk '{print $1}')
kill -9 "$kernel"
soon sh -c '"$0" machine list | grep -q dead' "$perdure"
check 'a machine whose kernel died' 0 '^m +dead' machine list
check 'says how' 0 'was ended by signal 9' machine log m
check 'in its status, too' 0 'was ended by signal 9' machine status
check 'and has nothing to replace' 1 'there is no kernel that could be replaced' kexec
kill -9 "$board"
soon gone "$board"
check 'what is stale is removed' 0 'what it left is removed' machine down m
result 'all of it' [ -z "$(ls -A "$base")" ]

# In the foreground: it ends with a signal, or when it is told to.
"$perdure" machine up f --foreground >"$work/f.out" 2>"$work/f.err" &
up=$!
soon grep -q 'machine f is up' "$work/f.out"
board=$(pid_of f)
result 'in the foreground, with its log' grep -q 'kernel perdure-a serves' "$work/f.err"
kill -TERM $up
result 'ends with a signal' wait $up
result 'and its board' soon gone "$board"
rm "$work/f.out" # what the former one said
"$perdure" machine up f --foreground >"$work/f.out" 2>/dev/null &
up=$!
soon grep -q 'machine f is up' "$work/f.out"
check 'down ends it' 0 'machine f is down' machine down f
result 'and who shows it' wait $up
rm "$work/f.out"
"$perdure" machine up f --foreground >"$work/f.out" 2>/dev/null &
up=$!
soon grep -q 'machine f is up' "$work/f.out"
board=$(pid_of f)
kill -9 $up
result 'it does not outlive who started it' soon gone "$board"
result 'nor do its files' soon [ -z "$(ls -A "$base")" ]

# Programs that know nothing of machines, across kernels.
python=
for p in python3 /usr/bin/python3; do "$p" -c '' 2>/dev/null && python=$p; done
if [ -n "$python" ]; then
  # keep NAME TEXT, fetch NAME, hold NAME: a session with a text; held, it is retrieved and not finished.
  cat >"$work/keep.py" <<'PROGRAM'
import sys
sys.path.insert(0, sys.argv[1])
import session
session.NAME = sys.argv[3].encode()
if sys.argv[2] == "keep":
    session.keep(sys.argv[4])
if sys.argv[2] == "fetch":
    sys.exit(session.fetch())
device = session.os.open("/dev/liveupdate", session.os.O_RDWR)
held = session.call(device, session.RETRIEVE_SESSION, session.SESSION, -1, session.NAME)
session.call(held[1], session.RETRIEVE_FD, session.FD, -1, session.TOKEN)
print("held", flush=True)
sys.stdin.read()
PROGRAM
  # An iommufd that owns the device of vfio0, which is attached to an address space.
  cat >"$work/bind.py" <<'PROGRAM'
import fcntl, os, signal, struct
iommufd = os.open("/dev/iommu", os.O_RDWR)
ioas = bytearray(struct.pack("=III", 12, 0, 0))
fcntl.ioctl(iommufd, 0x3B81, ioas)
device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
fcntl.ioctl(device, 0x3B76, bytearray(struct.pack("=IIiI", 16, 0, iommufd, 0)))
fcntl.ioctl(device, 0x3B77, bytearray(struct.pack("=III", 12, 0, struct.unpack("=III", ioas)[2])))
print("bound", flush=True)
signal.pause()
PROGRAM
  program() { "$perdure" run --machine m -- "$python" -B "$work/keep.py" "$sources/examples" "$@"; }
  "$perdure" machine up m >/dev/null
  program keep one 'of the first' >"$work/keep" 2>&1 &
  keeper=$!
  soon grep -q kept "$work/keep"
  check 'a session is seen' 0 '^state: outgoing' machine status sessions/one
  # Nobody waits for the time that supervisors may take at most, five seconds, when they have nothing more to do.
  check 'kexec ends its program as a reboot does' 0 '^  programs ' kexec --budget 4900ms
  result 'which took the supervisor along' soon gone $keeper
  check 'the session waits' 0 '^state: waiting' machine status sessions/one
  result 'another program fetches it' sh -c '[ "$("$@")" = "of the first" ]' sh "$perdure" run --machine m -- "$python" -B "$work/keep.py" "$sources/examples" fetch one
  check 'and it is no more' 1 'there is no sessions/one' machine status sessions/one

  "$perdure" machine run m -- "$python" -B "$work/bind.py" >"$work/bound" 2>&1 &
  soon grep -q bound "$work/bound"
  check 'who owns a device is seen' 0 '^ownership: owned' machine status devices/0000:00:03.0
  owner=$("$perdure" machine status devices/0000:00:03.0/owner)
  check 'and what that has' 0 'function: 0000:00:03.0' machine status "contexts/$owner/devices"
  hwpt=$("$perdure" machine status "contexts/$owner/hwpts" | head -n 1)
  check 'and the domain' 0 '^devices: 1' machine status "domains/$owner.$hwpt"
  check 'kexec ends that one, too' 0 'total' kexec --budget 4900ms
  check 'whose device is nobody'"'"'s' 0 '^ownership: unowned' machine status devices/0000:00:03.0
  "$perdure" kexec >/dev/null

  program keep two 'of the second' >"$work/kept" 2>&1 &
  soon grep -q kept "$work/kept"
  "$perdure" kexec >/dev/null
  mkfifo "$work/hold"
  program hold two <"$work/hold" >"$work/held" 2>&1 &
  holder=$!
  exec 9>"$work/hold"
  soon grep -q held "$work/held"
  check 'a session that is half taken over refuses, by its name' 1 'everything runs on under perdure-a: EBUSY' kexec
  result 'says which' grep -q 'session "two"' "$work/err"
  check 'its program runs on, under the same kernel' 0 '^m +running +perdure-a \(hop 4\)' machine list
  result 'as does its supervisor' kill -0 $holder
  exec 9>&-
  wait $holder
  "$perdure" machine down m >/dev/null
else
  echo '# skipped: programs, for want of python3'
fi

# A machine of one run: programs find it, and nothing of it stays.
result 'a program under its own machine can replace the kernel' sh -c '"$0" run -- "$0" kexec; [ $? = 137 ]' "$perdure"
result 'a program asks its own machine' sh -c '"$0" run -- "$0" machine status devices/0000:00:03.0/ownership | grep -qx unowned' "$perdure"
printf 'ram = "64 MiB"\n[[unit]]\n[[device]]\nkind = "edu"\nat = "00:09.0"\n' >"$work/edu.toml"
result 'of a shape that a file says' sh -c '"$0" run --config "$1" -- "$0" machine status devices | grep -q 0000:00:09.0' "$perdure" "$work/edu.toml"

# A log that is followed, to the machine's end.
"$perdure" machine up m >/dev/null
"$perdure" machine log --follow >"$work/follow" &
follow=$!
soon grep -q 'hop 0' "$work/follow"
"$perdure" kexec >/dev/null
result 'a log is followed' soon grep -q 'kernel perdure-b serves' "$work/follow"
check 'the machine ends under it' 0 'machine m is down' machine down
result 'and so does it' wait $follow

result 'the defaults are a machine' sh -c '"$0" machine defaults >"$1/d.toml" && "$0" machine up d --config "$1/d.toml" && "$0" machine defaults | cmp - "$1/d.toml"' "$perdure" "$work"
check 'which knows its file' 0 "d.toml" machine list --json
check 'nobody is left' 0 'machine d is down' machine down d
result 'no file is left' [ -z "$(ls -A "$base")" ]
finish
