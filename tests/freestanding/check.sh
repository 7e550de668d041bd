#!/bin/sh
# check.sh ARCHIVES…: what freestanding code needs from outside must be this list and nothing else.
set -eu
allowed='memcpy memset memmove memcmp __cxa_pure_virtual perdure_thread_context perdure_relax perdure_panic'
whole=$(mktemp)
trap 'rm -f "$whole"' EXIT
ld -r --whole-archive "$@" -o "$whole"
needed=$(nm -u "$whole" | awk '{print $2}' | sort -u)
bad=0
for symbol in $needed; do
  case " $allowed " in
    *" $symbol "*) ;;
    *) echo "not freestanding: $(echo "$symbol" | c++filt) is needed from outside"; bad=1 ;;
  esac
done
# No constructors at start-up, no thread-local storage: nothing global lives.
for section in .init_array .ctors .tbss .tdata; do
  if objdump -h "$whole" | grep -q " $section"; then echo "not freestanding: section $section"; bad=1; fi
done
writable=$(nm "$whole" | awk '$2 ~ /^[BbDd]$/ {print $3}' | c++filt)
if [ -n "$writable" ]; then echo "global variables: $writable"; bad=1; fi
echo "needs: $(echo $needed)"
exit $bad
