# Sourced by ./dev: everything CI checks. `run_tests` prints what each test program says only when it fails.
quick=no
[ "${1:-}" != --quick ] || quick=yes

# shellcheck disable=SC2086 # lists
timed packages install $packages_run $packages_test $packages_metal
# shellcheck disable=SC2086 # a list
timed programs install_if_possible $packages_programs
if [ $quick = yes ]; then
  timed build compile asan
  timed tests run_tests asan -LE slow
else
  timed 'build release' compile release
  timed 'tests release' run_tests release
  timed 'build asan' compile asan
  timed 'tests asan' run_tests asan
  timed 'build tsan' compile tsan perdure_tsan_tests
  timed 'tests tsan' run_tests tsan -R '^test_(chain|perdure_(machine_board|machine_board_iommu|machine_wire|machine_process|machine_intercept|core_luo|core_iommu|core_vfio))$'
  timed lint sh scripts/lint.sh changed "$build/asan"
  timed mutants python3 scripts/mutate.py --sample 3 --build "$build/mutate"
fi
say "dev: time:${budget%,}"
say "dev: all good"
say "$passed passed, 0 failed"
