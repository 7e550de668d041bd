// The series' selftest, in process: from either kernel to the other, so with either version of the records.
#include "scenarios/selftest.h"

#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

class SelftestOf : public testing::TestWithParam<const char*> {};

TEST_P(SelftestOf, TwoStagesAroundAKexec) {
  const std::string_view from = GetParam(), to = from == "a" ? "b" : "a";
  struct Telling final : scenarios::Witness {
    void intend(const scenarios::Intended&) override {}
    void problem(std::string_view what, Errno why) override {
      ADD_FAILURE() << what << ": " << (why == Errno{} ? "succeeded" : errno_name(why));
    }
  } witness;
  InProcessRig rig(small_machine({}));
  ASSERT_DONE(rig.power_on(from));
  {
    scenarios::Selftest stage({rig.new_program(), witness});
    ASSERT_DONE(stage.before(to));
    ASSERT_DONE(rig.leave(to));
    stage.forget();
  }
  ASSERT_DONE(rig.arrive());
  {
    scenarios::Selftest stage({rig.new_program(), witness});
    ASSERT_DONE(stage.after());
  }
  EXPECT_EQ(rig.board().violation_count(), 0U);
}

INSTANTIATE_TEST_SUITE_P(From, SelftestOf, testing::Values("a", "b"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace perdure::tool
