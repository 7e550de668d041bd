// Damaged and forged images: each one costs exactly what it makes unprovable, and never more than a log line else.
#include "core/iommu/incoming_model.h"
#include "core/iommu/record_reader.h"
#include "core/iommu/testing/image.h"
#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

using abi::IommuRecordKind;
using What = Image::Part::What;
using Functions = std::set<SourceId>;

constexpr SourceId a0 = IommuWorld::a0, a1 = IommuWorld::a1, b0 = IommuWorld::b0;

// Records: units A, B; domains 0 (a0, b0) and 1 (a1); attachments (0, A), (0, B), (1, A); devices a0, b0, a1.
struct Prepared {
  explicit Prepared(u32 version = abi::kIommuReadMax) : w(version) {
    Workload first = set_up(w, {a0, b0}), second = set_up(w, {a1});
    w.begin();
    preserve(w, first, {a0, b0});
    preserve(w, second, {a1}, kToken + 1);
    for (const Workload& s : {first, second}) {
      EXPECT_TRUE(s.domain->table().each_block([&](Phys base, unsigned order) -> Result<void> {
        tables.push_back({base, order});
        return {};
      }));
    }
    EXPECT_TRUE(w.live->freeze(w.data));
    before = w.hw_a.entries;
    before.insert(w.hw_b.entries.begin(), w.hw_b.entries.end());
    forget(first);
    forget(second);
  }
  Image image() { return Image(w.handover.machine, w.data); }

  // The functions that the model would have held.
  Functions believed(const IncomingModel& model) const {
    Functions f;
    for (const IncomingDevice& d : model.devices) {
      if (d.state == RecordState::Valid) f.insert(d.source());
    }
    return f;
  }

  IommuWorld w;
  std::map<SourceId, FakeHardware::Entry> before;
  std::vector<std::pair<Phys, unsigned>> tables;
};

// Whom the loss of a part costs.
Functions lost_with(const Image::Part& p) {
  static const Functions all{a0, a1, b0};
  if (p.what == What::Header || p.what == What::Block) return all;  // one block holds all records of its kind
  static const std::map<IommuRecordKind, std::vector<Functions>> users{
      {IommuRecordKind::Unit, {{a0, a1}, {b0}}},
      {IommuRecordKind::Domain, {{a0, b0}, {a1}}},
      {IommuRecordKind::Attachment, {{a0}, {b0}, {a1}}},
      {IommuRecordKind::Device, {{a0}, {b0}, {a1}}}};
  return users.at(p.kind).at(p.index);
}
Functions without(const Functions& lost) {
  Functions f{a0, a1, b0};
  for (SourceId s : lost) f.erase(s);
  return f;
}

class EveryBit : public ::testing::TestWithParam<u32> {};

TEST_P(EveryBit, FlippedCostsExactlyWhatItMakesUnprovable) {
  Prepared p(GetParam());
  p.w.jump_memory();
  u64 flips = 0;
  const std::vector<Image::Part> parts = p.image().parts();
  ASSERT_EQ(parts.size(), 1u + 4u + 2u + 2u + 3u + 3u);
  for (const Image::Part& part : parts) {
    for (usize byte = 0; byte < part.bytes.size(); ++byte) {
      for (unsigned bit = 0; bit < 8; ++bit) {
        part.bytes[byte] ^= std::byte(1u << bit);
        const auto model = read_iommu_records(p.w.kho(), p.w.data);
        part.bytes[byte] ^= std::byte(1u << bit);
        ++flips;
        if (part.what == What::Header) {
          ASSERT_EQ(model.error(), Errno::Eproto) << byte << "." << bit;
          continue;
        }
        ASSERT_TRUE(model) << part.schema->name << " " << byte << "." << bit;
        ASSERT_EQ(p.believed(**model), without(lost_with(part)))
            << part.schema->name << " " << part.index << ", byte " << byte << ", bit " << bit;
      }
    }
  }
  EXPECT_GT(flips, 8000u);
  EXPECT_EQ(p.believed(**read_iommu_records(p.w.kho(), p.w.data)), without({}));
}
INSTANTIATE_TEST_SUITE_P(Versions, EveryBit, ::testing::Values(1, 2));

// What the next kernel does with hardware after `tamper`; what must hold whatever it was.
void boot_and_check(Prepared& p, const std::function<void(Image&)>& tamper, Functions* held_out = nullptr) {
  IommuWorld& w = p.w;
  Image image = p.image();
  tamper(image);
  w.jump_as_is();
  Functions held;
  std::set<u64> dids_a, dids_b;
  for (SourceId f : {a0, a1, b0}) {
    auto& hw = f < b0 ? w.hw_a : w.hw_b;
    const Ownership state = w.group(f).ownership();
    if (state == Ownership::HeldForSession) {
      held.insert(f);
      ASSERT_TRUE(hw.entries.contains(f));
      EXPECT_EQ(hw.entries.at(f), p.before.at(f));
      (f < b0 ? dids_a : dids_b).insert(hw.entries.at(f).did);
    } else {
      EXPECT_EQ(state, Ownership::Quarantined);
      EXPECT_FALSE(hw.entries.contains(f));
      EXPECT_FALSE(w.bus.is_on(f));
    }
  }
  EXPECT_EQ(w.count("set "), 0u);
  EXPECT_EQ(w.hw_a.dids, dids_a);
  EXPECT_EQ(w.hw_b.dids, dids_b);
  for (auto [base, order] : p.tables) EXPECT_TRUE(w.frames().in_use(base, kPageSize << order));
  // Finishing is allowed with whatever is left, and gives no table back.
  for (u32 i = 0; i < 3; ++i) static_cast<void>(w.live->reclaim_domain(i, kSession));
  w.live->finish(w.data);
  for (auto [base, order] : p.tables) EXPECT_TRUE(w.frames().in_use(base, kPageSize << order));
  if (held_out) *held_out = held;
}

TEST(HostileImage, LostPartsQuarantineTheSmallestScope) {
  const usize count = Prepared().image().parts().size();
  for (usize i = 0; i < count; ++i) {
    Prepared p;
    Functions held, expected;
    boot_and_check(
        p,
        [&](Image& image) {
          const Image::Part part = image.parts()[i];
          expected = without(lost_with(part));
          part.bytes[part.bytes.size() - 1] ^= std::byte{0x40};
        },
        &held);
    EXPECT_EQ(held, expected) << i;
  }
}

// One field at a time takes values that a forger would try, with good checksums. Most are refused by the reader; for
// the rest the next kernel is booted.
TEST(HostileImage, ForgedFieldsNeverGetMoreThanTheirOwnDevices) {
  Prepared reader;
  reader.w.jump_memory();
  const u64 interesting[] = {0,
                             1,
                             2,
                             3,
                             4,
                             0xffff,
                             0x10000,
                             0x7fffffff,
                             u64{1} << 32,
                             u64{1} << 63,
                             ~u64{0},
                             reader.w.data,
                             reader.w.data + kPageSize,
                             0x1000,
                             0x40201000,
                             39,
                             48};
  struct Forgery {
    usize part;
    const abi::FieldDef* field;
    u64 value;
  };
  std::vector<Forgery> plausible;
  u64 tried = 0;
  const std::vector<Image::Part> parts = reader.image().parts();
  for (usize i = 0; i < parts.size(); ++i) {
    const Image::Part& part = parts[i];
    std::vector<std::byte> saved(part.bytes.begin(), part.bytes.end());
    for (const abi::FieldDef& field : part.schema->fields) {
      if (field.kind == abi::FieldKind::Checksum) continue;
      std::vector<u64> values(std::begin(interesting), std::end(interesting));
      const u64 now = abi::field_value(field, part.bytes);
      values.insert(values.end(), {now + 1, now - 1, now ^ 4, now + kPageSize, now - kPageSize});
      for (u64 value : values) {
        if (field.size < 8) value &= (u64{1} << (8 * field.size)) - 1;
        if (value == now) continue;
        memcpy(part.bytes.data() + field.offset, &value, field.size);
        abi::seal(*part.schema, part.bytes);
        const auto model = read_iommu_records(reader.w.kho(), reader.w.data);
        std::copy(saved.begin(), saved.end(), part.bytes.begin());
        ++tried;
        // The header's and blocks' fields are redundant: any change is seen.
        if (part.what != What::Record) {
          if (model) {
            const Functions believed = reader.believed(**model);
            EXPECT_LT(believed.size(), 3u) << part.schema->name << "." << field.name << " = " << value;
          }
          continue;
        }
        ASSERT_TRUE(model);
        const Functions believed = reader.believed(**model);
        for (SourceId f : without(lost_with(part))) {
          // A forged record may name what another has; then neither is believed. But for records that are nobody's
          // to share, others do not suffer.
          const bool shares = field.kind == abi::FieldKind::Physical || field.kind == abi::FieldKind::Index ||
                              field.name == "bdf" || field.name.starts_with("aliases") || field.name == "iqa" ||
                              field.name == "alias_count" || field.name == "owner_token" ||
                              field.name == "owner_generation" || field.name == "queue_order";
          if (!shares) {
            EXPECT_TRUE(believed.contains(f)) << part.schema->name << "." << field.name << " = " << value;
          }
        }
        // The root and the queue are the unit driver's to compare with the registers.
        if (field.name == "root" || field.name == "iqa" || field.name == "status_page") continue;
        if (believed.size() == 3) plausible.push_back({i, &field, value});
      }
    }
  }
  EXPECT_GT(tried, 3000u);
  ASSERT_FALSE(plausible.empty());
  std::map<std::string, unsigned> booted;
  for (const Forgery& f : plausible) {
    const std::string name = std::string(parts[f.part].schema->name) + "." + std::string(f.field->name);
    if (booted[name]++ >= 2) continue;
    SCOPED_TRACE(name + " = " + std::to_string(f.value));
    Prepared p;
    boot_and_check(p, [&](Image& image) {
      const Image::Part part = image.parts()[f.part];
      memcpy(part.bytes.data() + f.field->offset, &f.value, f.field->size);
      abi::seal(*part.schema, part.bytes);
    });
  }
  // What the reader alone cannot know, so that hardware or the table has to tell.
  EXPECT_TRUE(booted.contains("iommu.domain.levels") || booted.contains("iommu.domain.iova_bits"));
  EXPECT_TRUE(booted.contains("iommu.domain.table_pages"));
}

// Chains that go in circles, meet, or lead out of the handover end the reading of that chain, not of the kernel.
TEST(HostileImage, ChainsThatLeadAstrayEnd) {
  using Tamper = void (*)(IommuWorld&, Image&, abi::IommuBlock&);
  const Tamper tampers[] = {
      [](IommuWorld& w, Image&, abi::IommuBlock& b) { b.next = w.handover.machine.phys(&b).value; },
      [](IommuWorld& w, Image&, abi::IommuBlock& b) { b.next = w.data; },
      [](IommuWorld&, Image&, abi::IommuBlock& b) { b.next = 0x1000; },
      [](IommuWorld&, Image&, abi::IommuBlock& b) { b.next = ~u64{0xfff}; },
      [](IommuWorld&, Image&, abi::IommuBlock& b) { b.slots = 0x3fff; },
      [](IommuWorld&, Image&, abi::IommuBlock& b) { b.record_bytes = 8; },
      [](IommuWorld&, Image&, abi::IommuBlock& b) { b.first_index = 1; },
      [](IommuWorld&, Image&, abi::IommuBlock& b) { b.version = 3 - b.version; },
      [](IommuWorld&, Image& image, abi::IommuBlock&) { image.header().device_chain = image.header().domain_chain; },
      [](IommuWorld&, Image& image, abi::IommuBlock&) { image.header().device_slots = abi::kIommuMaxRecords; },
      [](IommuWorld&, Image& image, abi::IommuBlock&) {
        image.header().device_slots = abi::kIommuMaxRecords;
        image.header().device_bytes = u64{abi::kIommuMaxRecords} * 4096;
      },
      [](IommuWorld&, Image& image, abi::IommuBlock&) { image.header().device_chain = 0; },
  };
  for (Tamper tamper : tampers) {
    Prepared p;
    p.w.jump_memory();
    Image image = p.image();
    for (const Image::Part& part : image.parts()) {
      if (part.what != What::Block || part.kind != IommuRecordKind::Device) continue;
      tamper(p.w, image, *reinterpret_cast<abi::IommuBlock*>(part.bytes.data()));
      abi::seal(abi::kIommuBlockSchema, part.bytes);
      image.seal_header();
      break;
    }
    const auto model = read_iommu_records(p.w.kho(), p.w.data);
    ASSERT_TRUE(model);
    EXPECT_TRUE(p.believed(**model).empty());
    EXPECT_EQ((*model)->domains.size(), 2u);
    EXPECT_EQ((*model)->domains[0].state, RecordState::Valid) << "the other chains are as good as they were";
  }
}

// Two domains of one table, a domain whose table is a page of records, a unit whose queue is a domain's top (T7).
TEST(HostileImage, OnePageHasOneOwner) {
  const std::pair<void (*)(IommuWorld&, Image&), Functions> cases[] = {
      {[](IommuWorld&, Image& i) {
         i.record<abi::IommuDomainRecord>(1).top = i.record<abi::IommuDomainRecord>(0).top;
         i.seal<abi::IommuDomainRecord>(1);
       },
       {}},
      {[](IommuWorld&, Image& i) {
         i.record<abi::IommuDomainRecord>(1).first_descriptor = i.record<abi::IommuDomainRecord>(0).first_descriptor;
         i.seal<abi::IommuDomainRecord>(1);
       },
       {}},
      {[](IommuWorld& w, Image& i) {
         i.record<abi::IommuDomainRecord>(1).top = w.data;
         i.seal<abi::IommuDomainRecord>(1);
       },
       {a0, b0}},
      {[](IommuWorld&, Image& i) {
         i.record<abi::IommuUnitRecord>(1).iqa = i.record<abi::IommuDomainRecord>(1).top | 0x800;
         i.seal<abi::IommuUnitRecord>(1);
       },
       {a0}},
      {[](IommuWorld&, Image& i) {
         i.record<abi::IommuUnitRecord>(1).base = i.record<abi::IommuUnitRecord>(0).base;
         i.seal<abi::IommuUnitRecord>(1);
       },
       {}},
      {[](IommuWorld&, Image& i) {
         i.record<abi::IommuDeviceRecord>(2).bdf = i.record<abi::IommuDeviceRecord>(0).bdf;
         i.seal<abi::IommuDeviceRecord>(2);
       },
       {b0}},
      {[](IommuWorld&, Image& i) {
         i.record<abi::IommuDeviceRecord>(2).alias_count = 1;
         i.record<abi::IommuDeviceRecord>(2).aliases[0] = a0.bdf;
         i.seal<abi::IommuDeviceRecord>(2);
       },
       {b0}},
  };
  for (const auto& [tamper, expected] : cases) {
    Prepared p;
    Functions held;
    boot_and_check(p, [&, t = tamper](Image& image) { t(p.w, image); }, &held);
    EXPECT_EQ(held, expected);
  }
}

// A record that vanished with good checksums: nothing answers for the live entry, and its table is not handed out.
TEST(HostileImage, ErasedDeviceRecordTaintsItsTable) {
  Prepared p;
  Functions held;
  IommuWorld& w = p.w;
  boot_and_check(
      p,
      [](Image& image) {
        const Image::Part part = image.part(IommuRecordKind::Device, 2);
        std::fill(part.bytes.begin(), part.bytes.end(), std::byte{0});
      },
      &held);
  EXPECT_EQ(held, (Functions{a0, b0}));
  EXPECT_EQ(w.group(a1).ownership(), Ownership::Quarantined);
}

// Whatever the bytes are, reading them ends, in bounds: pages of noise with good magic and checksums.
TEST(HostileImage, NoiseWithGoodChecksumsIsRead) {
  Prepared p;
  p.w.jump_memory();
  const std::vector<Image::Part> parts = p.image().parts();
  std::vector<std::vector<std::byte>> saved;
  for (const Image::Part& part : parts) saved.emplace_back(part.bytes.begin(), part.bytes.end());
  u64 state = 0x9e3779b97f4a7c15;
  const auto random = [&] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  u64 readable = 0;
  for (unsigned round = 0; round < 2000; ++round) {
    for (unsigned change = 0; change < 1 + round % 8; ++change) {
      const Image::Part& part = parts[random() % parts.size()];
      const abi::FieldDef& field = part.schema->fields[random() % part.schema->fields.size()];
      u64 value = random() >> (random() % 64);
      if (random() % 2 == 0) value &= ~u64{0xfff};
      if (random() % 4 == 0) value = field.min + random() % 3;
      memcpy(part.bytes.data() + field.offset, &value, field.size);
      abi::seal(*part.schema, part.bytes);
    }
    const auto model = read_iommu_records(p.w.kho(), p.w.data);
    if (model) {
      ++readable;
      EXPECT_LE(p.believed(**model).size(), 3u);
    } else {
      EXPECT_EQ(model.error(), Errno::Eproto);
    }
    for (usize i = 0; i < parts.size(); ++i) std::copy(saved[i].begin(), saved[i].end(), parts[i].bytes.begin());
  }
  EXPECT_GT(readable, 500u);
}

}  // namespace
}  // namespace perdure::testing
