// The record across a jump, and what a reader does with a bad one.
#include "core/iommufd/record.h"

#include "tests/support/handover.h"

namespace perdure::iommufd {
namespace {

constexpr u64 kGeneration = 77;

template <class T>
Errno error_of(const Result<T>& result) {
  return result ? Errno{} : result.error();
}

class RecordTest : public ::testing::TestWithParam<u32> {
 protected:
  u32 version() const { return GetParam(); }

  // `hwpts` HWPTs with `areas` areas each.
  Phys write(u32 hwpts, u32 areas) {
    RecordWriter writer(handover.kho(), version(), kGeneration);
    for (u32 h = 0; h < hwpts; ++h) {
      const u32 first = writer.area_count();
      for (u32 a = 0; a < areas; ++a) {
        EXPECT_TRUE(writer.add_area({.iova = a * 0x10000,
                                     .length = 0x2000,
                                     .memory_token = h,
                                     .offset = a * 0x3000,
                                     .access = 3,
                                     .checksum = 0,
                                     .memory_phys = (1000 + h) * kPageSize}));
      }
      EXPECT_TRUE(writer.add_hwpt({.token = u64{h} << 40,
                                   .domain = h * 2,
                                   .checksum = 0,
                                   .first_area = first,
                                   .area_count = areas,
                                   .ioas = h}));
    }
    const Phys header = *writer.release();
    RecordWriter::seal(handover.machine, header);
    return header;
  }
  Result<IncomingRecord> read(Phys at) { return IncomingRecord::read(handover.kho(), at, kGeneration); }
  // Reads after a jump, having changed the image in between.
  template <class Change>
  Errno error_after(Phys header, Change change) {
    change();
    EXPECT_TRUE(handover.jump());
    return error_of(read(header));
  }
  abi::IommufdHeader& header_at(Phys at) { return *handover.machine.virt<abi::IommufdHeader>(at); }
  void reseal(Phys header) { RecordWriter::seal(handover.machine, header); }
  void reseal_block(u64 at) {
    abi::seal(abi::kIommufdBlockSchema, {handover.machine.virt(Phys(at)), sizeof(abi::IommufdBlock)});
  }
  template <class T>
  T& first_record(u64 block) {
    return *handover.machine.virt<T>(Phys(block + sizeof(abi::IommufdBlock)));
  }
  void reseal_record(u64 block, abi::IommufdRecordKind kind, u32 index = 0) {
    const abi::Schema& schema = abi::iommufd_schema(kind, version());
    abi::seal(schema,
              {handover.machine.virt(Phys(block + sizeof(abi::IommufdBlock) + index * schema.size)), schema.size});
  }

  test::Handover handover;
};

INSTANTIATE_TEST_SUITE_P(Versions, RecordTest, ::testing::Values(1u, 2u));

TEST_P(RecordTest, CrossesTheJump) {
  // Around the borders of a block, and none at all.
  const u32 capacity = abi::iommufd_chain(abi::IommufdRecordKind::Area, version()).capacity();
  for (const auto& [hwpts, areas] : {std::pair<u32, u32>{0, 0}, {1, 0}, {3, 5}, {1, capacity}, {1, capacity + 1}}) {
    const Phys header = write(hwpts, areas);
    ASSERT_TRUE(handover.jump());
    Result<IncomingRecord> record = read(header);
    ASSERT_TRUE(record) << handover.machine.lines.back();
    EXPECT_EQ(record->version(), version());
    ASSERT_EQ(record->hwpts().size(), hwpts);
    for (u32 h = 0; h < hwpts; ++h) {
      EXPECT_EQ(record->hwpts()[h].token, u64{h} << 40);
      EXPECT_EQ(record->hwpts()[h].domain, h * 2);
      const auto own = record->areas(record->hwpts()[h]);
      ASSERT_EQ(own.size(), areas);
      for (u32 a = 0; a < areas; ++a) {
        EXPECT_EQ(own[a].iova, a * 0x10000);
        EXPECT_EQ(own[a].offset, a * 0x3000);
        EXPECT_EQ(own[a].memory_token, h);
        EXPECT_EQ(own[a].memory_phys, version() >= 2 ? (1000 + h) * kPageSize : 0);
      }
    }
    const u64 kept = handover.frames().totals().kept;
    record->discard(handover.kho());
    EXPECT_LT(handover.frames().totals().kept, kept);
    // Once gone, it is not read again.
    EXPECT_EQ(read(header).error(), Errno::Eproto);
  }
}

TEST_P(RecordTest, WriterLeavesNothingBehind) {
  handover.heap().trim();
  const u64 before = handover.frames().totals().free;
  const Phys header = write(3, 200);
  RecordWriter::give_back(handover.kho(), header);
  {
    RecordWriter writer(handover.kho(), version(), kGeneration);
    for (u32 i = 0; i < 300; ++i)
      ASSERT_TRUE(writer.add_area({.iova = i * kPageSize, .length = kPageSize, .access = 1}));
    ASSERT_TRUE(writer.add_hwpt({.token = 1, .area_count = 300}));
  }
  handover.heap().trim();
  EXPECT_EQ(handover.frames().totals().free, before);
}

TEST_P(RecordTest, EveryFailingAllocationIsUndone) {
  handover.heap().trim();
  const u64 before = handover.frames().totals().free;
  auto& counting = handover.machine.counting;
  for (u64 n = 1;; ++n) {
    counting.allocations = 0;
    counting.fail_at = n;
    bool complete = true;
    {
      RecordWriter writer(handover.kho(), version(), kGeneration);
      for (u32 i = 0; i < 300 && complete; ++i) {
        complete = writer.add_area({.iova = i * kPageSize, .length = kPageSize, .access = 1}).has_value();
      }
      complete = complete && writer.add_hwpt({.token = 1, .area_count = 300});
      if (complete) {
        const Result<Phys> header = writer.release();
        complete = header.has_value();
        if (complete) RecordWriter::give_back(handover.kho(), *header);
      }
    }
    counting.fail_at = 0;
    handover.heap().trim();
    ASSERT_EQ(handover.frames().totals().free, before) << "allocation " << n;
    if (complete && counting.allocations < n) break;
    ASSERT_LT(n, 1000u);
  }
}

TEST_P(RecordTest, NotValidBeforeItIsFrozen) {
  const Phys header = write(1, 1);
  EXPECT_EQ(error_after(header, [&] { RecordWriter::unseal(handover.machine, header); }), Errno::Eproto);
}

TEST_P(RecordTest, EveryBitOfTheImageMatters) {
  const Phys header = write(2, 2);
  const u64 hwpts = header_at(header).hwpt_chain;
  const u64 areas = header_at(header).area_chain;
  ASSERT_TRUE(handover.jump());
  ASSERT_TRUE(read(header));
  const u32 area_bytes = abi::iommufd_schema(abi::IommufdRecordKind::Area, version()).size;
  const std::pair<u64, u64> parts[] = {
      {header.value, sizeof(abi::IommufdHeader)},
      {hwpts, sizeof(abi::IommufdBlock) + 2 * sizeof(abi::IommufdHwptRecord)},
      {areas, sizeof(abi::IommufdBlock) + 4 * area_bytes},
  };
  for (const auto& [base, bytes] : parts) {
    for (u64 bit = 0; bit < bytes * 8; ++bit) {
      std::byte& at = *handover.machine.virt(Phys(base + bit / 8));
      at ^= std::byte(1 << bit % 8);
      ASSERT_EQ(error_of(read(header)), Errno::Eproto) << base << " bit " << bit;
      at ^= std::byte(1 << bit % 8);
    }
  }
  EXPECT_TRUE(read(header));
}

TEST_P(RecordTest, RefusesAddressesThatAreNotPreserved) {
  const Phys header = write(1, 1);
  ASSERT_TRUE(handover.jump());
  for (const u64 at : {u64{0}, u64{1}, header.value + 8, header.value + 64 * kPageSize, handover.machine.window,
                       ~u64{0} & ~u64{0xfff}, ~u64{0}}) {
    EXPECT_EQ(error_of(read(Phys(at))), Errno::Eproto) << at;
  }
}

TEST_P(RecordTest, RefusesAnotherUpdatesRecord) {
  const Phys header = write(1, 1);
  ASSERT_TRUE(handover.jump());
  EXPECT_EQ(error_of(IncomingRecord::read(handover.kho(), header, kGeneration + 1)), Errno::Eproto);
}

TEST_P(RecordTest, RefusesBlocksInAnotherOrder) {
  const u32 capacity = abi::iommufd_chain(abi::IommufdRecordKind::Area, version()).capacity();
  const Phys header = write(1, 2 * capacity + 1);
  const u64 first = header_at(header).area_chain;
  const auto block = [&](u64 at) -> abi::IommufdBlock& { return *handover.machine.virt<abi::IommufdBlock>(Phys(at)); };
  const u64 second = block(first).next;
  header_at(header).area_chain = second;
  reseal(header);
  block(first).next = std::exchange(block(second).next, first);
  reseal_block(first);
  reseal_block(second);
  ASSERT_TRUE(handover.jump());
  EXPECT_EQ(error_of(read(header)), Errno::Eproto);
  EXPECT_NE(handover.machine.lines.back().find("does not belong there"), std::string::npos);
}

// Validly sealed, but lying.
TEST_P(RecordTest, RefusesWhatContradictsItself) {
  struct Case {
    const char* what;
    std::string_view why;  // in the log: refused for this, not for something else
    std::function<void(Phys header)> change;
  };
  const auto in_header = [&](std::function<void(abi::IommufdHeader&)> change) {
    return [this, change = std::move(change)](Phys h) {
      change(header_at(h));
      reseal(h);
    };
  };
  const auto in_hwpt = [&](std::function<void(abi::IommufdHwptRecord&)> change) {
    return [this, change = std::move(change)](Phys h) {
      const u64 block = header_at(h).hwpt_chain;
      change(first_record<abi::IommufdHwptRecord>(block));
      reseal_record(block, abi::IommufdRecordKind::Hwpt);
    };
  };
  const auto in_area = [&](std::function<void(abi::IommufdAreaRecord&)> change) {
    return [this, change = std::move(change)](Phys h) {
      const u64 block = header_at(h).area_chain;
      change(first_record<abi::IommufdAreaRecord>(block));
      reseal_record(block, abi::IommufdRecordKind::Area);
    };
  };
  const Case cases[] = {
      {"unknown version", "bad header 'version'", in_header([](auto& h) { h.version = 3; })},
      {"the other version", "does not belong there", in_header([&](auto& h) { h.version = 3 - version(); })},
      {"more areas than there are", "does not belong there", in_header([](auto& h) { ++h.area_count; })},
      {"fewer areas than there are", "does not belong there", in_header([](auto& h) { --h.area_count; })},
      {"chain too long", "counts disagree", in_header([](auto& h) { h.area_bytes += kPageSize; })},
      {"chain to nowhere", "counts disagree", in_header([](auto& h) { h.area_chain = 0; })},
      {"HWPTs where areas should be", "a block is there twice",
       in_header([](auto& h) { h.area_chain = h.hwpt_chain; })},
      {"a chain that goes on", "does not belong there",
       [&](Phys h) {
         auto& block = *handover.machine.virt<abi::IommufdBlock>(Phys(header_at(h).area_chain));
         block.next = header_at(h).area_chain;
         reseal_block(header_at(h).area_chain);
       }},
      {"areas beyond the last", "areas that are not there", in_hwpt([](auto& r) {
         r.first_area = 3;
         r.area_count = 2;
       })},
      {"areas that wrap", "areas that are not there", in_hwpt([](auto& r) {
         r.first_area = 2;
         r.area_count = 65535;
       })},
      {"two HWPTs, one token", "one token or one domain", in_hwpt([](auto& r) { r.token = u64{1} << 40; })},
      {"two HWPTs, one domain", "one token or one domain", in_hwpt([](auto& r) { r.domain = 2; })},
      {"two HWPTs of one address space", "one address space with different areas",
       in_hwpt([](auto& r) { r.ioas = 1; })},
      {"overlapping areas", "overlap or are out of order", in_area([](auto& r) { r.length = 0x11000; })},
      {"an area that wraps", "area out of range", in_area([](auto& r) {
         r.length = ~u64{0xfff};
         r.iova = 0x2000;
       })},
      {"an unaligned area", "area out of range", in_area([](auto& r) { r.offset = 0x800; })},
      {"no access at all", "bad record field 'access'", in_area([](auto& r) { r.access = 0; })},
  };
  for (const Case& c : cases) {
    const Phys header = write(2, 2);
    EXPECT_EQ(error_after(header, [&] { c.change(header); }), Errno::Eproto) << c.what;
    EXPECT_NE(handover.machine.lines.back().find(c.why), std::string::npos)
        << c.what << ": " << handover.machine.lines.back();
  }
}

}  // namespace
}  // namespace perdure::iommufd
