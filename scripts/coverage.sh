# Sourced by ./dev: which lines of core/ the tests run. Prints a line a folder, then the lines that nothing runs with
# `./dev coverage FILE…`; fails below the bar. docs/coverage.md explains what is left.
bar=90

# shellcheck disable=SC2086 # a list
timed packages install $packages_run $packages_test
say 'dev: building (a few minutes the first time)'
profiles=$build/coverage-profiles
timed build compile coverage
rm -rf "$profiles"
mkdir -p "$profiles"
# %m: one file a program; %p would be thousands, since programs of tests fork.
LLVM_PROFILE_FILE="$profiles/%m.profraw"
export LLVM_PROFILE_FILE
# Those with a kernel process cannot: what counts lines sets a variable in the environment of the kernel process, which must be empty.
timed tests run_tests coverage -E '^hosted'
llvm-profdata-19 merge -sparse "$profiles"/*.profraw -o "$profiles/all.profdata"
timed report python3 scripts/coverage.py --bar $bar "$build/coverage" "$profiles/all.profdata" "$@"
say "dev: time:${budget%,}"
