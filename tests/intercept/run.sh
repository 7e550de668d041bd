#!/bin/sh
# run.sh PERDURE SOURCES PROBES: programs that know nothing of Perdure, under `perdure run`. Prints TAP.
set -u
perdure=$1
. "$2/tests/tap.sh"
sources=$2/tests/intercept
probes=$3
probe=$probes/intercept_probe_dynamic

for kind in dynamic static; do
  for case in $("$probe"); do
    case $case in
      # Parts of others, and what is run with more words below.
      status | no_registers | register_status | exec_* | jump | many_files | daemon | after | confined | without_seccomp) continue ;;
    esac
    check "$kind: $case" 0 "^$case ends with 0" run -- "$probes/intercept_probe_$kind" "$case"
  done
  check "$kind: its status is passed on" 7 'ends with 7' run -- "$probes/intercept_probe_$kind" status 7
  check "$kind: a kexec ends the program" 137 'the kernel was replaced' run -- "$probes/intercept_probe_$kind" jump
  check "$kind: and whoever waits for it" 137 'the kernel was replaced' \
    run -- sh -c "$probes/intercept_probe_$kind jump; echo after; echo after"
  result "$kind: who says nothing any more" sh -c "! grep -q after $work/out"
  check "$kind: it starts again under the next kernel" 0 'jump ends with 0' \
    run --restart 1 -- "$probes/intercept_probe_$kind" jump
  check "$kind: mapped memory of a device needs no trap" 0 'ends with 0' \
    run --mmio=off -- "$probes/intercept_probe_$kind" device_memory
  check "$kind: traced, its status is passed on" 5 'ends with 5' run -- "$probes/intercept_probe_$kind" register_status plain
  check "$kind: traced, its signal is passed on" 138 '^mapped' run -- "$probes/intercept_probe_$kind" register_status
  check "$kind: no mapped registers" 0 'ends with 0' run --mmio=off -- "$probes/intercept_probe_$kind" no_registers
  if command -v strace >/dev/null; then
    check "$kind: no mapped registers under strace" 0 'ends with 0' \
      run -- strace -f -o /dev/null "$probes/intercept_probe_$kind" no_registers
  fi
done

# Shells let a program have 1024 files open; what it preserves is open in the machine's processes.
cat >"$work/perdure_few" <<END
#!/bin/sh
ulimit -Sn 1024
exec "$perdure" "\$@"
END
chmod +x "$work/perdure_few"
real=$perdure
perdure=$work/perdure_few
check 'more files than a shell allows, over a kexec' 0 'many_files ends with 0' run --restart 1 -- "$probe" many_files
perdure=$real

# By the library that is preloaded, and nothing else.
for case in $("$probe"); do
  case $case in
    status | no_registers | register_status | exec_* | jump | many_files | daemon | after | confined | without_seccomp) continue ;;
  esac
  check "agent: $case" 0 "^$case ends with 0" run --agent=only -- "$probe" "$case"
done
check 'agent: its status is passed on' 7 'ends with 7' run --agent=only -- "$probe" status 7
check 'agent: a kexec ends the program' 137 'the kernel was replaced' run --agent=only -- "$probe" jump
check 'agent: it starts again under the next kernel' 0 'jump ends with 0' run --agent=only --restart 1 -- "$probe" jump
check 'agent: children are served' 0 'alloc ends with 0' run --agent=only sh -c "$probe alloc"
check 'agent: a static program cannot be served' 125 'the program is static' \
  run --agent=only -- "$probes/intercept_probe_static" alloc

# What starts, and what does not.
check 'a program that is not there' 127 'No such file' run -- ./nonesuch
check 'a file that is no program' 126 'Permission denied' run -- "$2/LICENSE"
check 'no program' 2 'which program' run
check 'words of the program are its own' 0 '^-x --log' run echo -x --log
check 'found in PATH, and its children are served' 0 'alloc ends with 0' run sh -c "$probe alloc"
check 'ended by a signal' 143 '' run -- sh -c 'echo x; kill -TERM $$'
check 'one in another: seccomp has one listener' 125 'a supervisor watches this process already' \
  run -- "$perdure" run --agent=off -- "$probe" alloc
check 'one in another: by the agent' 0 'alloc ends with 0' run -- "$perdure" run -- "$probe" alloc
cat >"$work/perdure_in" <<END
#!/bin/sh
how=\$1
shift
exec "$probe" "\$how" "$perdure" "\$@"
END
chmod +x "$work/perdure_in"
real=$perdure
perdure=$work/perdure_in
check 'a host without listeners' 125 'Linux 5.9' without_seccomp run --agent=off -- "$probe" alloc
check 'a host without listeners: by the agent' 0 'alloc ends with 0' without_seccomp run -- "$probe" alloc
check 'a host without listeners: it says so' 0 'refuses seccomp user notification' without_seccomp run -- "$probe" alloc
# Containers refuse to take descriptors out of programs.
for case in alloc duplicates files_of_others killed passed_on threads sysfs; do
  check "in a container: $case" 0 "^$case ends with 0" confined run -- "$probe" "$case"
done
check 'in a container: over a kexec' 0 'jump ends with 0' confined run --restart 1 -- "$probe" jump
perdure=$real

# Signals go to the program; it does not outlive who runs it.
"$perdure" run -- sh -c 'trap "echo caught; exit 5" USR1; echo "$$" >"$0/pid"; while :; do sleep 0.05; done' "$work" \
  >"$work/signalled" 2>&1 &
run=$!
result 'it runs' timeout 20 sh -c "until [ -s $work/pid ]; do sleep 0.05; done"
kill -USR1 $run
wait $run
result 'a signal reaches the program' [ $? = 5 ]
result 'and it says so' grep -q caught "$work/signalled"
rm "$work/pid"
"$perdure" run -- sh -c 'echo "$$" >"$0/pid"; while :; do sleep 0.05; done' "$work" >"$work/killed" 2>&1 &
run=$!
result 'it runs' timeout 20 sh -c "until [ -s $work/pid ]; do sleep 0.05; done"
kill -KILL $run
result 'it ends with who runs it' timeout 20 sh -c "while kill -0 $(cat "$work/pid") 2>/dev/null; do sleep 0.05; done"

# Programs of others.
if command -v python3 >"$work/result"; then
  check 'a python script' 0 'python is done' run -- python3 "$sources/ioas.py"
else
  skip 'a python script' 'there is no python3'
fi
if command -v strace >"$work/result"; then
  check 'a traced program' 0 'ioctl.*0x3b, 0x81.*= 0|IOMMU_IOAS_ALLOC' run -- strace -f -e ioctl "$probe" alloc
else
  skip 'a traced program' 'there is no strace'
fi
if command -v rustc >"$work/result" &&
  rustc -C target-feature=+crt-static -o "$work/ioas" "$sources/ioas.rs" 2>"$work/err"; then
  check 'a static program in rust' 0 'rust is done' run -- "$work/ioas"
else
  skip 'a static program in rust' 'there is no rustc that makes one'
fi

# As nobody.
if [ "$(id -u)" = 0 ] && command -v setpriv >"$work/result"; then
  mkdir -m 700 "$work/nobody"
  chmod 711 "$work"
  chown 65534:65534 "$work/nobody"
  cat >"$work/perdure_as" <<END
#!/bin/sh
export TMPDIR=$work/nobody
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all "$real" "\$@"
END
  chmod +x "$work/perdure_as"
  perdure=$work/perdure_as
  if setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$probe" -a -x "$real"; then
    for case in alloc addresses killed sysfs paths; do
      check "as nobody: $case" 0 "^$case ends with 0" run -- "$probe" "$case"
    done
    check 'as nobody: over a kexec' 0 'jump ends with 0' run --restart 1 -- "$probe" jump
  else
    skip 'as nobody' 'nobody may not read the build directory'
  fi
  perdure=$real
else
  skip 'as nobody' 'it takes root and setpriv'
fi

# A machine that stays: what a program leaves running is served on, and ends with its kernel.
XDG_RUNTIME_DIR=$work/runtime
export XDG_RUNTIME_DIR
mkdir -m 700 "$XDG_RUNTIME_DIR"
check 'a machine that stays' 0 '' machine up probed
check 'a program that leaves a daemon' 0 'daemon ends with 0' run --machine probed -- "$probe" daemon
daemon=$(sed -n 's/^daemon is //p' "$work/out")
result 'the daemon runs' kill -0 "$daemon"
check 'the machine knows who uses it' 0 "daemon" machine status --machine probed --json
check 'a kexec from outside' 0 '' kexec --machine probed
result 'the daemon is gone' sh -c "! kill -0 $daemon"
check 'what it preserved is there' 0 'after ends with 0' run --machine probed -- "$probe" after
check 'the machine ends' 0 '' machine down probed
check 'a machine that ends under its programs' 0 '' machine up ended
check 'one of which runs on' 0 'daemon ends with 0' run --machine ended -- "$probe" daemon
daemon=$(sed -n 's/^daemon is //p' "$work/out")
check 'it ends in time' 0 'machine ended is down' machine down ended
result 'the program is gone' timeout 20 sh -c "while kill -0 $daemon 2>/dev/null; do sleep 0.05; done"
result 'its supervisor tidies up' timeout 20 sh -c 'while [ -n "$(ls -A "$TMPDIR")" ]; do sleep 0.05; done'
check 'a machine that is not up' 125 'probed' run --machine probed -- "$probe" alloc
finish
