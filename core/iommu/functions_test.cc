// What is known of a function beside its ids: whom it is not isolated from, whose ids it borrows, what firmware uses.
#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

class FunctionsTest : public IommuTest {};

TEST_F(FunctionsTest, OneLeaderOneGroup) {
  const SourceId c{0, 0x0400}, d{0, 0x0401}, e{0, 0x0402};
  IommuDevice* first = *w.iommu->add_device(c, w.unit(kUnitA), {}, {.leader = &c, .foreign_ids = false, .regions = {}});
  IommuDevice* second =
      *w.iommu->add_device(d, w.unit(kUnitA), {}, {.leader = &c, .foreign_ids = false, .regions = {}});
  IommuDevice* third = *w.iommu->add_device(e, w.unit(kUnitA), {}, {.leader = &e, .foreign_ids = false, .regions = {}});
  EXPECT_EQ(&first->group(), &second->group());
  EXPECT_NE(&first->group(), &third->group());
  auto who = w.owner();
  auto domain = w.domain();
  ASSERT_TRUE(second->group().claim(who));
  ASSERT_TRUE(second->group().attach(*who, domain));
  EXPECT_EQ(w.hw_a.entries.size(), 2u) << "as a whole";
  EXPECT_EQ(w.hw_a.entries.at(c).did, w.hw_a.entries.at(d).did);
  // R14
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*domain, kSession));
  EXPECT_EQ(w.live->preserve_device(*first, *who, kSession, kToken).error(), Errno::Eopnotsupp);
  EXPECT_TRUE(w.logged("it shares its group with other functions"));
  EXPECT_FALSE(w.hw_a.preserved);
  w.live->unpreserve_domain(*domain);
  // A newcomer to an owned group, and one behind another unit, belong to nobody.
  EXPECT_EQ(
      w.iommu->add_device({0, 0x0403}, w.unit(kUnitA), {}, {.leader = &c, .foreign_ids = false, .regions = {}}).error(),
      Errno::Ebusy);
  EXPECT_EQ(
      w.iommu->add_device({0, 0x0404}, w.unit(kUnitB), {}, {.leader = &e, .foreign_ids = false, .regions = {}}).error(),
      Errno::Einval);
}

TEST_F(FunctionsTest, BorrowedIdsAreTheOnlyOnes) {
  const SourceId child{0x8000, 0x0100};
  const FunctionFacts facts{.leader = nullptr, .foreign_ids = true, .regions = {}};
  EXPECT_EQ(w.iommu->add_device(child, w.unit(kUnitA), {}, facts).error(), Errno::Einval) << "no id at all";
  IommuDevice* device = *w.iommu->add_device(child, w.unit(kUnitA), std::span(&a0, 1), facts);
  EXPECT_EQ(&device->group(), &w.group(a0));
  EXPECT_EQ(w.iommu->find(child), device);
  EXPECT_EQ(w.iommu->find(a0), &w.device(a0));
  EXPECT_EQ(w.iommu->add_device(child, w.unit(kUnitA), std::span(&a0, 1), facts).error(), Errno::Eexist);
  ASSERT_TRUE(w.iommu->remove_device(*device));
  EXPECT_EQ(w.iommu->find(child), nullptr);
  EXPECT_EQ(*w.iommu->add_device(child, w.unit(kUnitA), std::span(&a0, 1), facts), device);
  auto who = w.owner();
  auto domain = w.domain();
  ASSERT_TRUE(device->group().claim(who));
  ASSERT_TRUE(device->group().attach(*who, domain));
  EXPECT_EQ(w.hw_a.entries.size(), 1u);
  EXPECT_TRUE(w.hw_a.entries.contains(a0));
  // R49
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*domain, kSession));
  EXPECT_EQ(w.live->preserve_device(*device, *who, kSession, kToken).error(), Errno::Eopnotsupp);
  EXPECT_TRUE(w.logged("carries another function's requester id"));
  EXPECT_EQ(w.live->preserve_device(w.device(a0), *who, kSession, kToken).error(), Errno::Eopnotsupp);
  w.live->unpreserve_domain(*domain);
}

// R49: the kernel before this one gave the function an id of its own; this one knows better.
TEST_F(FunctionsTest, ARecordOfAFunctionWithBorrowedIdsIsRefused) {
  Workload s = set_up(w, {a1});
  w.begin();
  preserve(w, s, {a1});
  const Result<u64> frozen = w.live->freeze(w.data);
  ASSERT_TRUE(frozen);
  ASSERT_TRUE(w.live->quiesce());
  forget(s);
  w.absent = {a0, a1};
  w.jump_memory();
  w.boot_iommu(w.data, false);
  ASSERT_TRUE(w.iommu->add_device(a0, w.unit(kUnitA), {}));
  const FunctionFacts facts{.leader = nullptr, .foreign_ids = true, .regions = {}};
  IommuDevice* device = *w.iommu->add_device(a1, w.unit(kUnitA), std::span(&a0, 1), facts);
  w.live->commit();
  EXPECT_TRUE(w.logged("refused: its DMA carries another function's requester id"));
  EXPECT_EQ(w.live->report().devices, 0u);
  EXPECT_FALSE(w.hw_a.entries.contains(a1)) << "its entry is nobody's";
  EXPECT_NE(device->group().ownership(), Ownership::HeldForSession);
}

TEST_F(FunctionsTest, WhatFirmwareUsesIsTheKernels) {
  const SourceId disk{0, 0x0400}, usb{0, 0x0500}, quiet{0, 0x0600};
  const FirmwareRegion always[] = {{Phys(0x300'0000), 0x3000, false}, {Phys(0x300'2000), 0x2000, false}};
  const FirmwareRegion until[] = {{Phys(0x380'0000), 0x1000, true}};
  IommuDevice* a =
      *w.iommu->add_device(disk, w.unit(kUnitA), {}, {.leader = &disk, .foreign_ids = false, .regions = always});
  IommuDevice* b =
      *w.iommu->add_device(usb, w.unit(kUnitA), {}, {.leader = &usb, .foreign_ids = false, .regions = until});
  IommuDevice* c = *w.iommu->add_device(quiet, w.unit(kUnitA), {});
  ASSERT_TRUE(w.iommu->keep_firmware_regions());
  auto who = w.owner();
  EXPECT_EQ(a->group().claim(who).error(), Errno::Eperm);
  const Ref<PagingDomain> domain = a->group().domain();
  ASSERT_TRUE(domain);
  EXPECT_EQ(domain->mapped_bytes(), 0x4000u) << "what two regions share, once";
  for (u64 at : {0x300'0000, 0x300'1000, 0x300'3000}) EXPECT_EQ(domain->leaf_at(Iova(at))->phys, Phys(at));
  EXPECT_FALSE(domain->leaf_at(Iova(0x300'4000)));
  EXPECT_TRUE(w.hw_a.entries.contains(disk));
  // Not preserved, whoever asks.
  w.begin();
  EXPECT_EQ(w.live->preserve_device(*a, *who, kSession, kToken).error(), Errno::Einval);
  for (IommuDevice* free : {b, c}) {
    EXPECT_FALSE(free->group().domain());
    EXPECT_TRUE(free->group().claim(who));
    free->group().release(*who);
  }
  EXPECT_FALSE(w.hw_a.entries.contains(usb));
}

TEST_F(FunctionsTest, WhatCannotBeMappedForFirmwareIsForNobodyEither) {
  const SourceId disk{0, 0x0400};
  const FirmwareRegion always[] = {{Phys(0x300'0000), 0x1000, false}};
  IommuDevice* a =
      *w.iommu->add_device(disk, w.unit(kUnitA), {}, {.leader = &disk, .foreign_ids = false, .regions = always});
  w.hw_a.fail_after["set_entry"] = 0;
  ASSERT_TRUE(w.iommu->keep_firmware_regions());
  EXPECT_TRUE(w.logged("cannot reach the memory that firmware reserves for it"));
  EXPECT_EQ(a->group().claim(w.owner()).error(), Errno::Eperm);
  EXPECT_TRUE(w.hw_a.entries.empty());
}

}  // namespace
}  // namespace perdure::testing
