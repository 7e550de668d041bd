// The same update whatever the machine is like: there and back in every combination of the axes of tests/matrix.h that
// it takes for each two values to meet; all combinations in ./dev matrix.
#include <cstdio>
#include <map>

#include "tests/matrix.h"

namespace perdure::tool {
namespace {

using board::Phase;
using test::Point;

constexpr u64 kStretch = 1'000'000;  // 1 ms of the machine's time

u64 seed() {
  const char* wanted = std::getenv("PERDURE_SEED");
  return wanted ? std::strtoull(wanted, nullptr, 0) : 1;
}

// How a point is run again.
std::string again(const Point& point) {
  return "PERDURE_SEED=" + std::to_string(seed()) + " PERDURE_MATRIX_POINT=" + name_of(point) + " ./dev matrix";
}

// After the last test: one line for each machine, one column for each behaviour.
class Table final : public testing::Environment {
 public:
  void add(const Point& point, bool good) { results_[point] = good; }
  void TearDown() override {
    if (!std::getenv("PERDURE_MATRIX") || results_.empty()) return;
    std::map<std::string, std::map<std::string, std::string_view>> rows;
    std::vector<std::string> columns;
    usize failed = 0;
    for (const auto& [point, good] : results_) {
      std::string row;
      std::string column;
      for (usize i = 0; i < point.size(); ++i) {
        const Axis& axis = matrix_axes()[i];
        std::string& name = axis.name == "caches" || axis.name == "take" ? column : row;
        name += (name.empty() ? "" : " ") + std::string(axis.values[point[i]].name);
      }
      rows[row][column] = good ? "ok" : "FAILED";
      if (std::ranges::find(columns, column) == columns.end()) columns.push_back(column);
      if (!good) ++failed;
    }
    std::printf("\n%-32s", "");
    for (const std::string& c : columns) std::printf(" %14s", c.c_str());
    for (const auto& [name, cells] : rows) {
      std::printf("\n%-32s", name.c_str());
      for (const std::string& c : columns) {
        const auto cell = cells.find(c);
        std::printf(" %14s", cell == cells.end() ? "-" : std::string(cell->second).c_str());
      }
    }
    std::printf("\n\n%zu points, %zu failed\n", results_.size(), failed);
    for (const auto& [point, good] : results_) {
      if (!good) std::printf("  again: %s\n", again(point).c_str());
    }
  }

 private:
  std::map<Point, bool> results_;
};

Table& table() {
  static auto* const only =
      dynamic_cast<Table*>(testing::AddGlobalTestEnvironment(new Table));  // NOLINT: GoogleTest owns it
  return *only;
}
[[maybe_unused]] const Table& made_before_main = table();

// What hardware itself walks for a device: read from its registers and memory, not from any driver.
struct Walked {
  std::string_view mode;
  unsigned levels = 0;
};

Walked walked(InProcessRig& rig, usize unit, board::Bdf device) {
  constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
  board::PhysicalMemory& memory = rig.board().memory();
  const auto load = [&](u64 at) {
    u64 word = 0;
    EXPECT_TRUE(memory.load64(at, word)) << std::hex << at;
    return word;
  };
  const u64 rtaddr = rig.board().unit(unit).read(0x20, 8);
  const u64 root = rtaddr & kAddress;
  if ((rtaddr >> 10 & 3) == 0) {
    const u64 context = load(root + u64{device.bus()} * 16) & kAddress;
    return {"legacy", static_cast<unsigned>(load(context + u64{device.devfn()} * 16 + 8) & 7) + 2};  // AW
  }
  // One half of the bus each; 32 bytes a context entry; RID_PASID in its second word.
  const u64 half = root + u64{device.bus()} * 16 + (device.devfn() >= 0x80 ? 8 : 0);
  const u64 context = (load(half) & kAddress) + u64{device.devfn() & 0x7FU} * 32;
  const u64 pasid = load(context + 8) & 0xF'FFFF;
  const u64 leaf = load((load(context) & kAddress) + (pasid >> 6) * 8) & kAddress;
  const u64 entry = leaf + (pasid & 63) * 64;
  if ((load(entry) >> 6 & 7) == 1) {  // PGTT: first stage, with FSPM in the third word
    return {"firststage", static_cast<unsigned>(load(entry + 16) >> 2 & 3) + 4};
  }
  return {"scalable", static_cast<unsigned>(load(entry) >> 2 & 7) + 2};
}

class Matrix : public testing::TestWithParam<Point> {
 protected:
  void TearDown() override { table().add(GetParam(), !HasFailure()); }
};

// R01, R02: devices go on, through the same tables, whatever machine this is.
TEST_P(Matrix, ThereAndBack) {
  const Point point = GetParam();
  SCOPED_TRACE("again: " + again(point));
  const RigConfig config = machine_at(point, seed());
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  for (u32 hop = 1; hop <= 2; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.kexec(hop == 1 ? "b" : "a"));
    EXPECT_GT(rig.poison().poisoned_frames, 0U);
    EXPECT_EQ(rig.poison().image_problem, "");
    ASSERT_DONE(rig.start_program(hop));
    rig.run_for(kStretch);
    expect_clean(rig, Phase::During);
    rig.board().enter_phase(Phase::After);
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    expect_clean(rig, Phase::After);
    rig.board().enter_phase(Phase::Before);
    ASSERT_EQ(problems_of(rig), "");
    // The axes are what they say.
    const usize last = rig.board().units() - 1;
    const Walked hardware = walked(rig, last, config.board.devices.back().bdf);
    EXPECT_EQ(hardware.mode, value_of(point, "mode"));
    // There are no first-stage tables of three levels: such a unit has four, of which the top one is hardly used.
    const bool too_few = hardware.mode == "firststage" && value_of(point, "levels") == "3";
    EXPECT_EQ(std::to_string(hardware.levels), too_few ? "4" : value_of(point, "levels"));
    EXPECT_EQ(rig.board().units(), value_of(point, "topology") == "units" ? 2U : 1U);
  }
}

INSTANTIATE_TEST_SUITE_P(Points, Matrix, testing::ValuesIn(matrix_points()),
                         [](const testing::TestParamInfo<Point>& of) { return name_of(of.param, '_'); });

TEST(MatrixPoints, EveryTwoValuesMeet) {
  const std::vector<Point> all = test::whole_product(matrix_sizes());
  const std::vector<Point> chosen = test::covering_array(matrix_sizes());
  EXPECT_EQ(test::pairs_of(chosen), test::pairs_of(all));
  EXPECT_LT(chosen.size() * 5, all.size()) << "that is no sample";
  EXPECT_EQ(chosen, test::covering_array(matrix_sizes())) << "the same tests in every run";
}

TEST(MatrixPoints, AProductAndItsPairsByHand) {
  EXPECT_EQ(test::whole_product({2, 3}), (std::vector<Point>{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}}));
  // Three axes of two: four points are known to be enough, and the least.
  EXPECT_EQ(test::covering_array({2, 2, 2}).size(), 4U);
  EXPECT_EQ(test::pairs_of({{0, 1, 0}}), (std::set<test::Pair>{{0, 0U, 1, 1U}, {0, 0U, 2, 0U}, {1, 1U, 2, 0U}}));
}

TEST(MatrixPoints, OneIsNamedByItsValues) {
  ASSERT_FALSE(matrix_points().empty()) << "PERDURE_MATRIX_POINT names no point; for example "
                                        << name_of(test::whole_product(matrix_sizes()).front());
  EXPECT_EQ(name_of({0, 0, 1, 0, 0, 1}), "legacy,coherent,4,sticky,one,keep");
}

}  // namespace
}  // namespace perdure::tool
