#!/bin/sh
# imports.sh ROOT: what no build rule can see: the board shares nothing with what it checks, the core includes no
# hosted header, and nothing in the repository names a place outside of it.
set -eu
cd "$1"
bad=0
report() {
  echo "$1"
  bad=1
}
if grep -rnE '#include "core/(abi|mem|kho|luo|file|pt|acpi|pci|iommu|vtd|uapi|iommufd|vfio|kernel)/' machine/board; then
  report 'imports: the board includes code that it checks (only core/base is shared)'
fi
if grep -rnE '#include "(core/[a-z]+|machine|metal|client|scenarios)/' conformance | grep -vE 'core/base/|conformance/image/'; then
  report 'imports: the list of behaviours includes code that it checks (only core/base is shared)'
fi
if grep -rnE '#include <(string>|vector|map|set>|memory|functional|iostream|mutex|thread|cstdio|unistd\.h|sys/)' \
  --include='*.h' --include='*.cc' core client scenarios conformance sabotage metal | grep -v '^client/libc/' | grep -v '_test\.cc' | grep -v '/testing/' | grep -v 'fakes\.h' |
  grep -vE 'core/base/function_ref\.h:[0-9]+:#include <memory>'; then
  report 'imports: the freestanding core includes a hosted header'
fi
if grep -rnE '\b(dynamic_cast|typeid|throw |try \{)' --include='*.h' --include='*.cc' core client scenarios conformance sabotage metal |
  grep -v '^client/libc/' | grep -v '_test\.cc' | grep -v '/testing/' | grep -v 'fakes\.h'; then
  report 'imports: the core uses exceptions or run-time types'
fi
[ $bad = 0 ] && echo 'imports: clean'
exit $bad
