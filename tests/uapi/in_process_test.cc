// The same tests in process: each on a machine of its own, with two kernels where there is an update in it.
#include <cctype>

#include "tests/small_machine.h"
#include "tests/uapi/case.h"

// Both have one.
#undef CHECK
#undef CHECK_EQ

namespace perdure::tool {
namespace {

using uapi_test::Case;
using uapi_test::Needs;
using uapi_test::Row;

// Four streamers, each in a group of its own.
constexpr u32 kDevices = 4;

RigConfig machine(Tables tables) {
  RigConfig config = small_machine({.devices = kDevices});
  set_tables(config, tables);
  config.board.devices.resize(kDevices);
  return config;
}

class Uapi : public testing::TestWithParam<Row> {
 protected:
  explicit Uapi(Tables tables = Tables::Legacy) : rig(machine(tables)) {}

  void run_row();
  void half(void (*body)(Case&), bool keep) {
    const Row& row = GetParam();
    std::vector<std::string> devices;
    for (u32 i = 0; i < kDevices; ++i) devices.push_back("/dev/vfio/devices/vfio" + std::to_string(i));
    Case t(rig.new_program(), std::string(row.name) + "@" + std::string(row.id), devices, false);
    try {
      body(t);
    } catch (const uapi_test::Skip& skip) {
      // The machine is the tests' own: all that they need is there.
      ADD_FAILURE() << "skipped: " << skip.reason;
    } catch (const uapi_test::Stop&) {
      ADD_FAILURE() << "cannot go on";
    }
    for (const std::string& failure : t.failures()) ADD_FAILURE() << failure;
    if (keep) kept = t.take_kept();
  }

  InProcessRig rig;
  std::vector<client::Fd> kept;
};

// What some rows ask of the unit, legacy mode does not have.
class UapiScalable : public Uapi {
 protected:
  UapiScalable() : Uapi(Tables::SecondStage) {}
};

void Uapi::run_row() {
  const Row& row = GetParam();
  ASSERT_DONE(rig.power_on("a"));
  if (row.needs == Needs::Update) {
    ASSERT_NO_FATAL_FAILURE(half(row.before, true));
    ASSERT_DONE(rig.leave("b"));
    for (client::Fd& fd : kept) fd.release();
    ASSERT_DONE(rig.arrive());
  }
  half(row.run, false);
  for (const std::string& v : rig.board().violations()) ADD_FAILURE() << "hardware rule broken: " << v;
}
TEST_P(Uapi, Row) {
  run_row();
}
TEST_P(UapiScalable, Row) {
  run_row();
}

std::vector<Row> in_process() {
  std::vector<Row> rows;
  for (const Row& row : uapi_test::rows()) {
    if (row.needs != Needs::Program) rows.push_back(row);
  }
  return rows;
}

std::vector<Row> of_page_tables() {
  std::vector<Row> rows = in_process();
  std::erase_if(rows, [](const Row& row) { return !row.id.starts_with("2.7 "); });
  return rows;
}

std::string test_name(const testing::TestParamInfo<Row>& tested) {
  std::string name = "S" + std::string(tested.param.id) + "_" + std::string(tested.param.name);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(, Uapi, testing::ValuesIn(in_process()), test_name);
INSTANTIATE_TEST_SUITE_P(, UapiScalable, testing::ValuesIn(of_page_tables()), test_name);

}  // namespace
}  // namespace perdure::tool
