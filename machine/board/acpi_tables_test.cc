#include "machine/board/acpi_tables.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

namespace fs = std::filesystem;

class AcpiTest : public testing::BoardTest {
 protected:
  u64 number(u64 phys, unsigned width) {
    u64 v = 0;
    std::memcpy(&v, board->direct_map() + phys, width);
    return v;
  }
  std::string text(u64 phys, usize n) { return {reinterpret_cast<char*>(board->direct_map() + phys), n}; }
  unsigned sum(u64 phys, u64 n) {
    unsigned s = 0;
    for (u64 i = 0; i < n; ++i) s += static_cast<unsigned>(board->direct_map()[phys + i]);
    return s & 0xFF;
  }
  // Through XSDT and through RSDT: both must name the same tables.
  u64 find(const std::string& signature) {
    const u64 rsdp = board->rsdp().value;
    EXPECT_EQ(rsdp % 16, 0u);
    EXPECT_EQ(text(rsdp, 8), "RSD PTR ");
    EXPECT_EQ(sum(rsdp, 20), 0u);
    EXPECT_EQ(sum(rsdp, 36), 0u);
    EXPECT_EQ(number(rsdp + 15, 1), 2u);
    const u64 rsdt = number(rsdp + 16, 4);
    const u64 xsdt = number(rsdp + 24, 8);
    EXPECT_EQ(text(rsdt, 4), "RSDT");
    EXPECT_EQ(text(xsdt, 4), "XSDT");
    EXPECT_EQ(sum(rsdt, number(rsdt + 4, 4)), 0u);
    EXPECT_EQ(sum(xsdt, number(xsdt + 4, 4)), 0u);
    const u64 count = (number(xsdt + 4, 4) - 36) / 8;
    EXPECT_EQ((number(rsdt + 4, 4) - 36) / 4, count);
    for (u64 i = 0; i < count; ++i) {
      const u64 table = number(xsdt + 36 + 8 * i, 8);
      EXPECT_EQ(number(rsdt + 36 + 4 * i, 4), table);
      EXPECT_EQ(sum(table, number(table + 4, 4)), 0u);
      if (text(table, 4) == signature) return table;
    }
    ADD_FAILURE() << "no " << signature;
    return 0;
  }
};

TEST_F(AcpiTest, TablesLieInReservedMemory) {
  build();
  const u64 dmar = find("DMAR");
  bool reserved = false;
  for (const MemoryRegion& r : board->memory_map()) {
    if (r.type != MemoryRegion::Type::Reserved) continue;
    reserved = reserved || (dmar >= r.base && dmar + number(dmar + 4, 4) <= r.base + r.length &&
                            board->rsdp().value >= r.base && board->rsdp().value < r.base + r.length);
  }
  EXPECT_TRUE(reserved);
}

TEST_F(AcpiTest, McfgNamesTheEcamThatAnswers) {
  build();
  const u64 mcfg = find("MCFG");
  EXPECT_EQ(number(mcfg + 4, 4), 60u);
  EXPECT_EQ(number(mcfg + 44, 8), kEcam);
  EXPECT_EQ(number(mcfg + 52, 2), 0u);
  EXPECT_EQ(number(mcfg + 54, 1), 0u);
  EXPECT_EQ(number(mcfg + 55, 1), 255u);
}

TEST_F(AcpiTest, OneUnitForAll) {
  build();
  const u64 dmar = find("DMAR");
  EXPECT_EQ(number(dmar + 4, 4), 48u + 16);
  EXPECT_EQ(number(dmar + 36, 1), board->config().window_log2 - 1);
  EXPECT_EQ(number(dmar + 48, 2), 0u);
  EXPECT_EQ(number(dmar + 50, 2), 16u);
  EXPECT_EQ(number(dmar + 52, 1), 1u);
  EXPECT_EQ(number(dmar + 56, 8), kUnit);
}

TEST_F(AcpiTest, ScopesNamePathsAndIncludeAllIsLast) {
  BoardConfig c = testing::small_machine();
  c.units.resize(3);
  c.units[0].include_all = true;
  c.units[1].model.base = kUnit + 0x1000;
  c.units[1].include_all = false;
  c.units[1].endpoints = {testing::kStreamerAt, testing::kBelowAt};
  c.units[2].model.base = kUnit + 0x2000;
  c.units[2].include_all = false;
  c.units[2].bridges = {testing::kPortAt};
  build(c);
  const u64 dmar = find("DMAR");
  u64 at = dmar + 48;
  EXPECT_EQ(number(at + 8, 8), kUnit + 0x1000);
  EXPECT_EQ(number(at + 4, 1), 0u);
  EXPECT_EQ(number(at + 2, 2), 16u + 8 + 10);
  // type 1, length 8, path 02.0
  EXPECT_EQ(number(at + 16, 8), 0x0002'0000'0000'0801u);
  // type 1, length 10, start bus 0, path 04.0 then 00.0
  EXPECT_EQ(number(at + 24, 8), 0x0004'0000'0000'0A01u);
  EXPECT_EQ(number(at + 32, 2), 0u);
  at += number(at + 2, 2);
  EXPECT_EQ(number(at + 8, 8), kUnit + 0x2000);
  EXPECT_EQ(number(at + 16, 8), 0x0004'0000'0000'0802u);  // a bridge
  at += number(at + 2, 2);
  EXPECT_EQ(number(at + 8, 8), kUnit);
  EXPECT_EQ(number(at + 4, 1), 1u);
  EXPECT_EQ(at + 16, dmar + number(dmar + 4, 4));

  // And DMA goes through the unit that the table names: the explicit one wins over the bridge's.
  set_command(testing::kBelowAt, 6);
  write64(kUnit + 0x1000 + 0x20, 0x20'0000);
  write32(kUnit + 0x1000 + 0x18, u32{1} << 30);
  write32(kUnit + 0x1000 + 0x18, kTe);
  start_ring(testing::kBelowAt, 0, {.base = 0x100'0000, .length = 0x10'0000, .slots = 64});
  board->step_for(100'000);
  EXPECT_GE(read64(bar64(testing::kBelowAt) + 0x50), 8u) << "faulted";
  EXPECT_GE(board->unit(1).statistics().faults_recorded, 1u);
  EXPECT_EQ(board->unit(2).statistics().untranslated, 0u);
}

TEST_F(AcpiTest, IaslReadsThem) {
  if (std::system("iasl -v >/dev/null 2>&1") != 0) GTEST_SKIP() << "acpica-tools is not installed";
  BoardConfig c = testing::small_machine();
  c.units.resize(2);
  c.units[0].include_all = false;
  c.units[0].endpoints = {testing::kStreamerAt, testing::kBelowAt};
  c.units[0].bridges = {};
  c.units[1].model.base = kUnit + 0x1000;
  build(c);
  std::string dir = fs::temp_directory_path() / "perdure-acpi-XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  for (const char* signature : {"DMAR", "MCFG"}) {
    const u64 table = find(signature);
    const fs::path file = fs::path(dir) / (std::string(signature) + ".dat");
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<char*>(board->direct_map() + table),
               static_cast<std::streamsize>(number(table + 4, 4)));
    const std::string log = file.string() + ".log";
    ASSERT_EQ(std::system(("iasl -d " + file.string() + " >" + log + " 2>&1").c_str()), 0);
    std::ifstream in(log);
    const std::string said((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    EXPECT_THAT(said, ::testing::HasSubstr(std::string("Data Table [") + signature + "] decoded"));
    EXPECT_THAT(said, ::testing::Not(::testing::HasSubstr("Error")));
    EXPECT_THAT(said, ::testing::Not(::testing::HasSubstr("ncorrect")));
    EXPECT_THAT(said, ::testing::Not(::testing::HasSubstr("Invalid")));
    std::ifstream dsl(file.parent_path() / (std::string(signature) + ".dsl"));
    const std::string source((std::istreambuf_iterator<char>(dsl)), std::istreambuf_iterator<char>());
    EXPECT_THAT(source, ::testing::Not(::testing::HasSubstr("Unknown")));
    if (std::string(signature) == "DMAR") {
      EXPECT_THAT(source, ::testing::HasSubstr("Register Base Address : 00000000FED91000"));
      EXPECT_THAT(source, ::testing::HasSubstr("PCI Path : 04,00"));
    }
  }
  fs::remove_all(dir);
}

}  // namespace
}  // namespace perdure::board
