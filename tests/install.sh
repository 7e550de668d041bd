#!/bin/sh
# install.sh BUILD SOURCE OUT [CXX CC]: installs both components to a prefix of its own and builds examples/ from there, which
# sees nothing of this repository; then runs what needs no machine.
set -eu
build=$1 source=$2 out=$3
rm -rf "$out"
mkdir -p "$out"
fail() {
  echo "install: $1" >&2
  exit 1
}
# What is installed is what was built last: headers and libraries of different days do not fit.
cmake --build "$build" --target perdure_install_client perdure_core_freestanding >"$out/install.log" 2>&1 || {
  cat "$out/install.log" >&2
  fail 'building the libraries failed'
}
for component in client core; do
  cmake --install "$build" --component $component --prefix "$out/prefix" >"$out/install.log" 2>&1 || {
    cat "$out/install.log" >&2
    fail "installing $component failed"
  }
done
# A component alone is enough for who wants no other.
cmake --install "$build" --component client --prefix "$out/client-alone" >/dev/null
[ ! -e "$out/client-alone/include/perdure/core/kernel" ] || fail 'the client brings the core with it'
cp -r "$source/examples" "$out/examples"
mkdir "$out/alone"
cat >"$out/alone/CMakeLists.txt" <<'TEXT'
cmake_minimum_required(VERSION 3.25)
project(alone LANGUAGES CXX)
find_package(Perdure COMPONENTS core)
if(Perdure_FOUND)
  message(FATAL_ERROR "found a core that is not there")
endif()
find_package(Perdure REQUIRED COMPONENTS client)
if(TARGET Perdure::core)
  message(FATAL_ERROR "the client brings the core with it")
endif()
TEXT
cmake -S "$out/alone" -B "$out/alone/build" -DCMAKE_PREFIX_PATH="$out/client-alone" >"$out/alone.log" 2>&1 || {
  cat "$out/alone.log" >&2
  fail 'find_package(Perdure COMPONENTS client) failed'
}
cmake -S "$out/examples" -B "$out/examples/build" -G Ninja -DCMAKE_PREFIX_PATH="$out/prefix" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS='-Wall -Wextra -Werror' -DCMAKE_C_FLAGS='-Wall -Wextra -Werror' >"$out/configure.log" 2>&1 || {
  cat "$out/configure.log" >&2
  fail 'configuring the examples failed'
}
cmake --build "$out/examples/build" >"$out/build.log" 2>&1 || {
  cat "$out/build.log" >&2
  fail 'building the examples failed'
}
"$out/examples/build/embed" >"$out/embed.log" || {
  cat "$out/embed.log" >&2
  fail 'the embedded kernels failed'
}
grep -q '^first says to second: still here$' "$out/embed.log" || fail 'embed: the second kernel did not say what it got'
for file in $(nm -u "$out/examples/build/device" | awk '/perdure|perdure_/ {print $NF}'); do fail "device needs $file"; done
echo 'install: client and core installed, examples built from there'
