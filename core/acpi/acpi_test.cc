#include <rapidcheck/gtest.h>

#include "core/acpi/dmar.h"
#include "core/acpi/mcfg.h"
#include "core/acpi/tables.h"
#include "tests/support/test_machine.h"

namespace perdure::acpi {
namespace {

using Blob = std::vector<u8>;

template <class T>
void put(Blob& b, T value) {
  for (usize i = 0; i < sizeof(T); ++i) b.push_back(static_cast<u8>(static_cast<u64>(value) >> (8 * i)));
}

struct AcpiTest : testing::Test {
  // Odd on purpose: tables may be anywhere.
  static constexpr u64 kRsdp = 0x10'0003;
  static constexpr u64 kRoot = 0x10'1005;
  static constexpr u64 kFirstTable = 0x10'2259;

  AcpiTest() {
    const Extent ram[] = {{Phys(0x20'0000), machine.window - 0x20'0000}};
    EXPECT_TRUE(frames.init(ram, {}, {}));
    frames.open();
  }

  static Blob seal(Blob b, usize checksum_at, usize length) {
    b[checksum_at] = 0;
    u8 sum = 0;
    for (usize i = 0; i < length; ++i) sum = static_cast<u8>(sum + b[i]);
    b[checksum_at] = static_cast<u8>(-sum);
    return b;
  }
  static Blob table(std::string_view signature, const Blob& body) {
    Blob b(signature.begin(), signature.end());
    put<u32>(b, static_cast<u32>(36 + body.size()));
    b.resize(36);
    b.insert(b.end(), body.begin(), body.end());
    return seal(b, 9, b.size());
  }
  void place(u64 at, const Blob& b) { std::memcpy(machine.virt(Phys(at)), b.data(), b.size()); }

  // All tables, and the pointers to them.
  void install(const std::vector<Blob>& tables, bool extended) {
    Blob body;
    u64 at = kFirstTable;
    for (const Blob& t : tables) {
      place(at, t);
      if (extended) {
        put<u64>(body, at);
      } else {
        put<u32>(body, at);
      }
      at += t.size() + 7;
    }
    place(kRoot, table(extended ? "XSDT" : "RSDT", body));
    Blob rsdp;
    for (char c : std::string_view("RSD PTR ")) rsdp.push_back(static_cast<u8>(c));
    rsdp.resize(15);
    rsdp.push_back(extended ? 2 : 0);
    put<u32>(rsdp, extended ? 0 : kRoot);
    rsdp = seal(rsdp, 8, 20);
    if (extended) {
      put<u32>(rsdp, 36);
      put<u64>(rsdp, kRoot);
      rsdp.resize(36);
      rsdp = seal(rsdp, 32, 36);
    }
    place(kRsdp, rsdp);
  }

  static Blob scope(u8 type, u8 bus, const std::vector<PathHop>& path, u8 id = 0) {
    Blob b{type, static_cast<u8>(6 + 2 * path.size()), 0, 0, id, bus};
    for (const PathHop& h : path) {
      b.push_back(h.device);
      b.push_back(h.function);
    }
    return b;
  }
  static Blob structure(u16 type, const Blob& body) {
    Blob b;
    put<u16>(b, type);
    put<u16>(b, static_cast<u16>(4 + body.size()));
    b.insert(b.end(), body.begin(), body.end());
    return b;
  }
  static Blob drhd(u64 base, u8 flags, const Blob& scopes, u16 segment = 0, u8 size = 0) {
    Blob b{flags, size};
    put<u16>(b, segment);
    put<u64>(b, base);
    b.insert(b.end(), scopes.begin(), scopes.end());
    return structure(0, b);
  }
  static Blob rmrr(u64 base, u64 limit, const Blob& scopes) {
    Blob b;
    put<u16>(b, u16{0});
    put<u16>(b, u16{0});
    put<u64>(b, base);
    put<u64>(b, limit);
    b.insert(b.end(), scopes.begin(), scopes.end());
    return structure(1, b);
  }
  static Blob join(const std::vector<Blob>& parts) {
    Blob all;
    for (const Blob& p : parts) all.insert(all.end(), p.begin(), p.end());
    return all;
  }
  static Blob dmar(const std::vector<Blob>& structures, u8 width = 47) {
    Blob b{width, 1};
    b.resize(12);
    const Blob rest = join(structures);
    b.insert(b.end(), rest.begin(), rest.end());
    return table("DMAR", b);
  }
  Errno dmar_error(const Blob& t) {
    install({t}, true);
    auto read = read_dmar(heap, Phys(kRsdp));
    EXPECT_FALSE(read);
    return read ? Errno::Eperm : read.error();
  }

  test::TestMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
};

TEST_F(AcpiTest, FindsTablesThroughBothRoots) {
  for (const bool extended : {false, true}) {
    install({table("FACP", Blob(100)), table("DMAR", Blob(40, 7)), table("MCFG", Blob(8))}, extended);
    auto t = find_table(machine, Phys(kRsdp), "DMAR");
    ASSERT_TRUE(t);
    EXPECT_EQ(t->length(), 76u);
    EXPECT_EQ(t->get<u8>(36), 7);
    EXPECT_EQ(find_table(machine, Phys(kRsdp), "APIC").error(), Errno::Enoent);
  }
}

TEST_F(AcpiTest, RefusesBrokenRoots) {
  const auto good = [&] { install({table("DMAR", Blob(40))}, true); };
  const auto broken = [&](u64 at) {
    *machine.virt<u8>(Phys(at)) ^= 0x40;
    auto t = find_table(machine, Phys(kRsdp), "DMAR");
    good();
    return t ? Errno::Eperm : t.error();
  };
  good();
  ASSERT_TRUE(find_table(machine, Phys(kRsdp), "DMAR"));
  for (u64 i = 0; i < 36; ++i) EXPECT_EQ(broken(kRsdp + i), Errno::Einval) << i;
  for (u64 i = 0; i < 44; ++i) EXPECT_EQ(broken(kRoot + i), Errno::Einval) << i;
  // A broken table is as good as none.
  for (u64 i = 0; i < 76; ++i) EXPECT_EQ(broken(kFirstTable + i), Errno::Enoent) << i;
  EXPECT_EQ(find_table(machine, Phys(machine.window - 10), "DMAR").error(), Errno::Einval);
  EXPECT_EQ(find_table(machine, Phys(~u64{0} - 8), "DMAR").error(), Errno::Einval);
}

TEST_F(AcpiTest, ReadsMcfg) {
  Blob body(8);
  put<u64>(body, u64{0xb000'0000});
  put<u16>(body, u16{0});
  body.insert(body.end(), {0, 0x7f, 0, 0, 0, 0});
  put<u64>(body, u64{0x10'0000'0000});
  put<u16>(body, u16{1});
  body.insert(body.end(), {0x20, 0xff, 0, 0, 0, 0});
  install({table("MCFG", body)}, false);
  auto windows = read_mcfg(heap, Phys(kRsdp));
  ASSERT_TRUE(windows);
  ASSERT_EQ(windows->size(), 2u);
  EXPECT_EQ((*windows)[0].base, Phys(0xb000'0000));
  EXPECT_EQ((*windows)[0].last_bus, 0x7f);
  EXPECT_EQ((*windows)[1].segment, 1);
  EXPECT_EQ((*windows)[1].first_bus, 0x20);

  body[body.size() - 8] = 0;  // both in segment 0: buses 20-7f twice
  install({table("MCFG", body)}, false);
  EXPECT_EQ(read_mcfg(heap, Phys(kRsdp)).error(), Errno::Einval);
}

TEST_F(AcpiTest, ReadsDmar) {
  const Blob scopes = join({scope(1, 0, {{2, 0}}), scope(2, 0, {{3, 0}, {0, 1}}), scope(3, 0xff, {{0, 0}}, 9)});
  Blob atsr{1, 0};
  put<u16>(atsr, u16{0});
  install(
      {dmar({drhd(0xfed9'0000, 0, scopes), rmrr(0x7000'0000, 0x7000'ffff, scope(1, 0, {{2, 0}})),
             structure(3, Blob(16)), structure(2, atsr), drhd(0xfed9'2000, 1, {}, 0, 1), structure(0x99, Blob(3))})},
      true);
  auto read = read_dmar(heap, Phys(kRsdp));
  ASSERT_TRUE(read);
  const Dmar& d = *read;
  EXPECT_EQ(d.host_address_bits, 48);
  EXPECT_TRUE(d.interrupt_remapping);
  ASSERT_EQ(d.units.size(), 2u);
  EXPECT_EQ(d.units[0].base, Phys(0xfed9'0000));
  EXPECT_EQ(d.units[0].register_bytes, 0x1000u);
  EXPECT_FALSE(d.units[0].include_all);
  ASSERT_EQ(d.units[0].scopes.size(), 3u);
  EXPECT_EQ(d.units[0].scopes[1].type, ScopeType::Bridge);
  ASSERT_EQ(d.units[0].scopes[1].path.size(), 2u);
  EXPECT_EQ(d.units[0].scopes[1].path[1].function, 1);
  EXPECT_EQ(d.units[0].scopes[2].enumeration_id, 9);
  EXPECT_TRUE(d.units[1].include_all);
  EXPECT_EQ(d.units[1].register_bytes, 0x2000u);
  ASSERT_EQ(d.reserved.size(), 1u);
  EXPECT_EQ(d.reserved[0].length, 0x1'0000u);
  ASSERT_EQ(d.ats.size(), 1u);
  EXPECT_TRUE(d.ats[0].all);
}

TEST_F(AcpiTest, RefusesMalformedDmars) {
  const Blob one = drhd(0xfed9'0000, 0, {});
  EXPECT_EQ(dmar_error(dmar({drhd(0, 0, {})})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({drhd(0xfed9'0800, 0, {})})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({one, one})), Errno::Einval) << "two units at one place";
  EXPECT_EQ(dmar_error(dmar({drhd(0xfed9'0000, 0, {}, 0, 1), drhd(0xfed9'1000, 0, {})})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({drhd(0xfed9'0000, 1, {}), drhd(0xfed9'1000, 0, {})})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({one}, 7)), Errno::Einval) << "8-bit addresses";
  EXPECT_EQ(dmar_error(dmar({Blob{0, 0, 0, 0}})), Errno::Einval) << "length 0";
  EXPECT_EQ(dmar_error(dmar({Blob{0, 0, 3, 0}})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({Blob{0, 0, 200, 0}})), Errno::Einval) << "beyond the table";
  EXPECT_EQ(dmar_error(dmar({Blob{0, 0}})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({structure(0, Blob(8))})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({structure(1, Blob(8))})), Errno::Einval);
  EXPECT_EQ(dmar_error(dmar({structure(2, Blob(2))})), Errno::Einval);
  // Scopes: no hop, odd, beyond the structure, zero, device 32.
  for (const Blob& s : {Blob{1, 6, 0, 0, 0, 0}, Blob{1, 9, 0, 0, 0, 0, 1, 0, 0}, Blob{1, 20, 0, 0, 0, 0, 1, 0},
                        Blob{1, 0, 0, 0, 0, 0, 1, 0}, Blob{1, 8, 0, 0, 0, 0, 32, 0}, Blob{1}}) {
    EXPECT_EQ(dmar_error(dmar({drhd(0xfed9'0000, 0, s)})), Errno::Einval);
  }
  EXPECT_EQ(dmar_error(table("DMAR", Blob(4))), Errno::Einval);
}

TEST_F(AcpiTest, IgnoresReservedRegionsThatMakeNoSense) {
  install({dmar({rmrr(0x7000'1000, 0x7000'0fff, {}), rmrr(0x7000'0000, 0x7000'0ff0, {}), rmrr(0, ~u64{0}, {}),
                 rmrr(0x7000'0000, 0x7000'0fff, {})})},
          false);
  auto read = read_dmar(heap, Phys(kRsdp));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->reserved.size(), 1u);
}

// Whatever a table holds: read or refused, never beyond its bounds (ASan), and nothing leaks.
RC_GTEST_FIXTURE_PROP(AcpiTest, SurvivesAnyDmar, (std::vector<u8> noise, u16 where)) {
  Blob good = dmar({drhd(0xfed9'0000, 0, join({scope(1, 0, {{2, 0}}), scope(2, 0, {{3, 0}, {0, 1}})})),
                    rmrr(0x7000'0000, 0x7000'ffff, scope(1, 0, {{2, 0}})), drhd(0xfed9'2000, 1, {})});
  for (usize i = 0; i < noise.size() && i < 8; ++i) good[36 + (where + i * 5) % (good.size() - 36)] = noise[i];
  install({seal(good, 9, good.size())}, true);
  const u64 before = heap.bytes_in_use();
  {
    auto read = read_dmar(heap, Phys(kRsdp));
    if (read) {
      for (const DmarUnit& u : read->units) {
        RC_ASSERT(u.base.aligned(kPageSize));
        for (const Scope& s : u.scopes) RC_ASSERT(!s.path.empty());
      }
    } else {
      RC_ASSERT(read.error() == Errno::Einval);
    }
  }
  RC_ASSERT(heap.bytes_in_use() == before);
}

TEST_F(AcpiTest, SurvivesEveryFailingAllocation) {
  install({dmar({drhd(0xfed9'0000, 0, join({scope(1, 0, {{2, 0}}), scope(2, 0, {{3, 0}, {0, 1}})})),
                 rmrr(0x7000'0000, 0x7000'ffff, scope(1, 0, {{2, 0}}))})},
          true);
  for (u64 n = 1;; ++n) {
    auto read = machine.counting.failing(n, [&] { return read_dmar(heap, Phys(kRsdp)); });
    if (read) {
      EXPECT_GT(n, 3u);
      break;
    }
    EXPECT_EQ(read.error(), Errno::Enomem);
    EXPECT_EQ(heap.bytes_in_use(), 0u);
  }
}

}  // namespace
}  // namespace perdure::acpi
