#include "tool/selftest.h"

#include <fmt/format.h>

#include "tool/rig.h"

namespace perdure::tool {

int run_selftest() {
  RigConfig config = demo_machine(u64{1} << 30, 1);
  config.selftest = true;
  config.wire = true;
  const std::unique_ptr<Rig> rig = hosted_rig(config);
  bool good = true;
  const auto step = [&](std::string_view what, const Result<void>& done) {
    for (const std::string& problem : rig->take_problems()) fmt::print(stderr, "perdure selftest: {}\n", problem);
    if (!done) fmt::print(stderr, "perdure selftest: {}: {}\n", what, errno_name(done.error()));
    good = good && done.has_value();
    return good;
  };
  // Kernel A writes version 1 of the records, kernel B version 2: there and back.
  if (!step("start the machine", rig->power_on("a"))) return 1;
  for (const std::string_view next : {"b", "a"}) {
    if (!step("stage one", rig->start_program(0)) || !step("kexec", rig->kexec(next)) ||
        !step("stage two", rig->start_program(1))) {
      return 1;
    }
    rig->end_program();
    fmt::print("perdure selftest: both stages passed, to kernel {}\n", next);
  }
  return 0;
}

}  // namespace perdure::tool
