// The entry checks of legacy tables that a former kernel left (hardware.md §9.3).
#include "tests/vtd_adopt_fixture.h"

namespace perdure::vtd {
namespace {

class VtdAdoptLegacyTest : public VtdAdoptTest {
 protected:
  u64* entry(SourceId s) {
    const u64 low = *world.machine.virt<u64>(Phys(record.root + s.bus() * 16));
    return world.machine.virt<u64>(Phys((low & ~u64{0xfff}) + s.devfn() * 16));
  }
};

TEST_P(VtdAdoptLegacyTest, ReservedBitsInRoot) {
  prepare();
  root_entry(3)[0] |= 0x20;
  expect_refused("root entry of bus 0x3: reserved bits");
}

TEST_P(VtdAdoptLegacyTest, ReservedUpperHalfOfRoot) {
  prepare();
  root_entry(3)[1] = u64{1} << 40;
  expect_refused("root entry of bus 0x3: reserved bits");
}

TEST_P(VtdAdoptLegacyTest, ReservedBitsInContext) {
  prepare();
  entry(kSibling)[0] |= 0x100;
  expect_refused("context entry of 0000:03:00.0: reserved bits");
}

TEST_P(VtdAdoptLegacyTest, ReservedBitsInTheUpperHalfOfContext) {
  prepare();
  entry(kSibling)[1] |= u64{1} << 30;
  expect_refused("context entry of 0000:03:00.0: reserved bits");
}

TEST_P(VtdAdoptLegacyTest, AWidthThatTheUnitCannotDo) {
  prepare();
  entry(kStays)[1] = (entry(kStays)[1] & ~u64{7}) | 6;
  expect_refused("width that the unit cannot do");
}

TEST_P(VtdAdoptLegacyTest, ADeviceTlb) {
  prepare();
  entry(kStays)[0] |= 4;
  expect_refused("device TLB");
}

TEST_P(VtdAdoptLegacyTest, AReservedType) {
  prepare();
  entry(kStays)[0] |= 12;
  expect_refused("reserved translation type");
}

TEST_P(VtdAdoptLegacyTest, AnIdForTwoTables) {
  prepare();
  const Phys second = page();
  ASSERT_TRUE(world.kho().preserve(second, 0));
  entry(kSibling)[0] = second.value | 1;
  expect_refused("stands for two page tables");
}

TEST_P(VtdAdoptLegacyTest, ATableThatIsNotPreserved) {
  prepare();
  const Phys second = page();
  for (const SourceId s : {kStays, kSibling}) entry(s)[0] = second.value | 1;
  expect_refused("page table that is not preserved");
}

TEST_P(VtdAdoptLegacyTest, ATableBeyondTheHostAddressWidth) {
  prepare();
  entry(kStays)[0] |= u64{1} << 45;
  expect_refused("beyond the host address width");
}

TEST_P(VtdAdoptLegacyTest, AContextTableBeyondTheHostAddressWidth) {
  prepare();
  root_entry(3)[0] |= u64{1} << 45;
  expect_refused("context table at");
}

TEST_P(VtdAdoptLegacyTest, AContextTableThatIsNotPreserved) {
  prepare();
  world.kho().unpreserve(Phys(root_entry(3)[0] & ~u64{0xfff}), 0);
  expect_refused("context table at");
}

TEST_P(VtdAdoptLegacyTest, OneContextTableForTwoBuses) {
  prepare();
  root_entry(3)[0] = root_entry(0)[0];
  expect_refused("is used twice");
}

TEST_P(VtdAdoptLegacyTest, TheStatusPageAsContextTable) {
  prepare();
  root_entry(3)[0] = record.status_page | 1;
  expect_refused("is used twice");
}

TEST_P(VtdAdoptLegacyTest, TheRootAsContextTable) {
  prepare();
  root_entry(3)[0] = record.root | 1;
  expect_refused("is used twice");
}

INSTANTIATE_TEST_SUITE_P(Units, VtdAdoptLegacyTest,
                         testing::ValuesIn(variants_named({"sticky", "not_coherent", "wide_descriptors"})),
                         [](const auto& p) { return p.param.name; });

}  // namespace
}  // namespace perdure::vtd
