#!/bin/sh
# refuses_32_bit.sh COMPILER ROOT: a 32-bit build is refused by the first header, with a reason (R64).
set -eu
stubs=$(mktemp -d)
trap 'rm -rf "$stubs"' EXIT
# Hosts rarely have a 32-bit C++ library: what the header needs of it stands here.
for header in compare cstddef; do : > "$stubs/$header"; done
echo 'namespace std { using uint8_t = unsigned char; using uint16_t = unsigned short; using uint32_t = unsigned int;
using uint64_t = unsigned long long; using int32_t = int; using int64_t = long long; using size_t = __SIZE_TYPE__;
struct strong_ordering {}; }' > "$stubs/cstdint"
if said=$("$1" -std=c++23 -m32 -nostdinc -nostdinc++ -fsyntax-only -I "$stubs" -I "$2" -x c++ "$2/core/base/types.h" 2>&1); then
  echo 'a 32-bit build was accepted'
  exit 1
fi
echo "$said" | grep -q 'perdure needs a 64-bit machine' || { echo "refused for another reason: $said"; exit 1; }
echo 'refused: perdure needs a 64-bit machine'
