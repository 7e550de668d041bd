// The real incoming side on the memory of a real Linux: tests/data/linux-7.3-luo.
#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include "core/kho/fdt.h"
#include "core/kho/metadata.h"
#include "core/luo/fakes.h"
#include "core/luo/memfd_record.h"

namespace perdure::luo {
namespace {

using perdure::test::BankMachine;
using perdure::test::TestTask;

constexpr u64 kRam = u64{512} << 20;
constexpr Phys kFdt{0x6e3000};
constexpr Phys kScratchTable{0x1e7f0000};
// Reserved for this test's memory map; nothing of the image is there.
constexpr Phys kMap{0x1000};

constexpr u64 pattern(u64 page) {
  return page * 0x9E3779B97F4A7C15 + 0x5eed;
}

class LinuxImage : public ::testing::Test {
 protected:
  LinuxImage() : machine(kRam, u64{2} << 30) {
    load();
    // What the boot protocol says of scratch memory, checked against what the machine was seen with.
    std::vector<Extent> scratch;
    for (u64 i = 0; i < 3; ++i) {
      const auto& area = machine.virt<const abi::KhoScratch>(kScratchTable)[i];
      scratch.push_back({Phys(area.address), area.size});
    }
    EXPECT_EQ(scratch[0].base, Phys(0x1d800000));
    EXPECT_EQ(scratch[0].length, 0x1000000u);
    EXPECT_EQ(scratch[1].base, Phys(0x19800000));
    EXPECT_EQ(scratch[1].length, 0x4000000u);
    EXPECT_EQ(scratch[2].length, 0u);
    const Extent ram[] = {{Phys(0), kRam}};
    const Extent reserved[] = {{kMap, kPageSize}};
    FrameAllocator& f = frames.make(machine);
    if (!f.init(ram, reserved, scratch)) throw std::runtime_error("frames");
    machine.write_memory_map(kMap);
  }
  // The pages of the image that are not zero, read once.
  static const std::map<u64, std::vector<std::byte>>& pages() {
    static const std::map<u64, std::vector<std::byte>> all = [] {
      std::map<u64, std::vector<std::byte>> found;
      const gzFile in = gzopen(PERDURE_TEST_DATA "/linux-7.3-luo/strip.bin.gz", "rb");
      if (in == nullptr) throw std::runtime_error("image is missing");
      const std::vector<std::byte> zero(kPageSize);
      std::vector<std::byte> page(kPageSize);
      u64 at = 0;
      for (int n; (n = gzread(in, page.data(), kPageSize)) > 0; at += static_cast<u64>(n)) {
        if (memcmp(page.data(), zero.data(), kPageSize) != 0) found[at] = page;
      }
      gzclose(in);
      if (at != kRam) throw std::runtime_error("image is cut off");
      return found;
    }();
    return all;
  }
  void load() {
    for (const auto& [at, page] : pages()) memcpy(machine.virt(Phys(at)), page.data(), kPageSize);
  }
  // Up to a kernel with sessions.
  void boot() {
    ASSERT_TRUE(Kho::carve(*frames, kFdt));
    frames->open();
    Heap& h = heap.make(*frames);
    ASSERT_TRUE(kho.make(h).init(kFdt, 52));
    Luo& l = luo.make(*kho);
    ASSERT_TRUE(l.load_incoming());
    ASSERT_TRUE(l.init());
    ASSERT_TRUE(l.register_handler(memfd.make(*kho, files.make(h))));
  }
  Ref<SessionFile> session(std::string_view name) { return *SessionFile::retrieve(*luo, name); }
  Result<Ref<SharedMemory>> memory(SessionFile& s, u64 token) {
    const auto r = s.ioctl(task, uapi::kLiveupdateSessionRetrieveFd,
                           task.put(uapi::LiveupdateRetrieveFd{sizeof(uapi::LiveupdateRetrieveFd), -1, token}));
    if (!r) return fail(r.error());
    File* file = task.files.at(task.get<uapi::LiveupdateRetrieveFd>().fd).get();
    return Ref<SharedMemory>(file_cast<SharedMemory>(file));
  }
  static const perdure::test::TestMemfd& host(const SharedMemory& m) {
    return static_cast<perdure::test::TestMemfd&>(m.host());
  }
  static u64 first_word(const SharedMemory& m, u64 page) {
    u64 v = 0;
    const std::string s = host(m).contents(page * kPageSize, 8);
    memcpy(&v, s.data(), s.size());
    return v;
  }

  BankMachine machine;
  TestTask task;
  perdure::test::Forgettable<FrameAllocator> frames;
  perdure::test::Forgettable<Heap> heap;
  perdure::test::Forgettable<Kho> kho;
  perdure::test::Forgettable<Luo> luo;
  perdure::test::Forgettable<HostFiles> files;
  perdure::test::Forgettable<MemfdHandler> memfd;
};

TEST_F(LinuxImage, TreeAndBlobs) {
  ASSERT_TRUE(Kho::carve(*frames, kFdt));
  // 0x4355 preserved pages, and 7 pages of the tree itself.
  EXPECT_EQ(frames->totals().kept, 0x4355u + 7u);
  frames->open();
  ASSERT_TRUE(kho.make(heap.make(*frames)).init(kFdt, 52));
  EXPECT_EQ(frames->totals().kept, 0x4355u);
  EXPECT_EQ(kho->retrieve_subtree("LUO")->at, Phys(0x8b6000));
  EXPECT_EQ(kho->retrieve_subtree("LUO")->size, 32u);
  EXPECT_EQ(kho->retrieve_subtree("kexec-metadata")->at, Phys(0x6ea000));
  EXPECT_EQ(kho->retrieve_subtree("kexec-metadata")->size, 73u);
  const auto metadata = kho::incoming_metadata(*kho);
  ASSERT_TRUE(metadata);
  EXPECT_EQ(std::string(metadata->release).substr(0, 5), "7.3.4");
  EXPECT_EQ(metadata->count, 1u);

  kho::FdtProblem problem;
  const auto fdt = kho::FdtReader::open({machine.virt<const std::byte>(kFdt), kPageSize}, problem);
  ASSERT_TRUE(fdt);
  EXPECT_EQ(*fdt->word(fdt->root(), kho::kMapProperty), 0x6e2000u);
  u64 nodes = 0, keys = 0;
  const kho::RadixView tree(machine, Phys(0x6e2000));
  tree.each_node([&](Phys) { ++nodes; });
  ASSERT_TRUE(tree.each([&](u64 key) -> Result<void> {
    ++keys;
    if (kho::block_of(key).order != 0) return fail(Errno::Eio);
    return {};
  }));
  EXPECT_EQ(nodes, 7u);
  EXPECT_EQ(keys, 0x4355u);
}

TEST_F(LinuxImage, SessionsAndRecords) {
  boot();
  EXPECT_EQ(luo->incoming_number(), 1u);
  std::vector<std::string> names;
  luo->each_incoming([&](const IncomingSession& s) { names.emplace_back(s.name()); });
  EXPECT_EQ(names, (std::vector<std::string>{"other-session", "empty-session", "lut-session"}));
  EXPECT_EQ(luo->incoming_flb_data("perdure-iommu").error(), Errno::Enoent);

  struct Expected {
    u64 data, position, size, folios;
    u32 seals;
    std::vector<u64> first;  // addresses of the first folios
  };
  const Expected records[] = {
      {0x902000, 5, 0x4000, 4, 1, {0x17f5000, 0xa98000, 0xa99000, 0x15eb000}},
      {0x3505000, 0, 0x300000, 768, 14, {0x15d2000, 0x15fa000, 0x15ec000, 0x15bb000, 0x15e7000, 0x15b6000}},
      {0x3571000, 0, 0x4000000, 0x4000, 7, {0x1fdf9000, 0x1fdf8000, 0x1fe07000, 0x1fe08000, 0x1fe09000, 0x1fe0a000}},
  };
  for (const Expected& e : records) {
    std::string_view problem;
    const auto record = MemfdRecord::open(*kho, Phys(e.data), problem);
    ASSERT_TRUE(record) << problem;
    const MemfdSer& h = record->header();
    EXPECT_EQ(h.position, e.position);
    EXPECT_EQ(h.size, e.size);
    EXPECT_EQ(h.seals, e.seals);
    EXPECT_EQ(h.folio_count, e.folios);
    EXPECT_EQ(h.folios.total_pages, (e.folios * 16 + 4095) / 4096);
    EXPECT_EQ(h.folios.flags, 1);
    EXPECT_EQ(h.folios.order, 0);
    u64 index = 0;
    ASSERT_TRUE(record->each_folio([&](const MemfdRecord::Folio& folio) -> Result<void> {
      EXPECT_EQ(folio.order, 0u);
      EXPECT_EQ(folio.index, index);
      EXPECT_TRUE(folio.in_ram);
      if (index < e.first.size()) {
        EXPECT_EQ(folio.base, Phys(e.first[index]));
      }
      // In the file itself, before anything is copied.
      const u64 number = e.folios == 768 ? 100000 + index : index;
      if (e.folios > 4) {
        EXPECT_EQ(*machine.virt<const u64>(folio.base), pattern(number));
      }
      ++index;
      return {};
    }));
    EXPECT_EQ(index, e.folios);
  }
}

TEST_F(LinuxImage, FilesComeBackAndEveryPageIsRight) {
  boot();
  auto other = session("other-session"), empty = session("empty-session"), lut = session("lut-session");

  auto hello = memory(*other, 0x1a);
  ASSERT_TRUE(hello);
  EXPECT_EQ((*hello)->size(), 16384u);
  EXPECT_EQ((*hello)->seals(), 1u);
  EXPECT_EQ((*hello)->host().position(), 5u);
  EXPECT_EQ(host(**hello).contents(0, 14), "hello handover");

  auto sealed = memory(*other, 0xdeadbeefcafef00d);
  ASSERT_TRUE(sealed);
  EXPECT_EQ((*sealed)->size(), u64{3} << 20);
  EXPECT_EQ((*sealed)->seals(), seal::kShrink | seal::kGrow | seal::kWrite);
  for (u64 page = 0; page < 768; ++page) ASSERT_EQ(first_word(**sealed, page), pattern(100000 + page)) << page;

  EXPECT_EQ(memory(*empty, 0).error(), Errno::Enoent);
  auto big = memory(*lut, 0x890123);
  ASSERT_TRUE(big);
  EXPECT_EQ((*big)->size(), u64{64} << 20);
  EXPECT_EQ((*big)->seals(), seal::kSeal | seal::kShrink | seal::kGrow);
  for (u64 page = 0; page < 0x4000; ++page) ASSERT_EQ(first_word(**big, page), pattern(page)) << page;

  // All that is left of the former kernel's blocks: FDT page, and the metadata page, which nobody takes.
  EXPECT_EQ(frames->totals().kept, 2u);
  for (auto* s : {&other, &empty, &lut}) {
    EXPECT_TRUE((*s)->ioctl(task, uapi::kLiveupdateSessionFinish,
                            task.put(uapi::LiveupdateFinish{sizeof(uapi::LiveupdateFinish), 0})));
  }
  EXPECT_EQ(SessionFile::retrieve(*luo, "lut-session").error(), Errno::Einval);  // held
  lut = nullptr;
  EXPECT_EQ(SessionFile::retrieve(*luo, "lut-session").error(), Errno::Enoent);
  // The file lives on without its session.
  EXPECT_EQ(first_word(**big, 77), pattern(77));
}

TEST_F(LinuxImage, FinishedUnreadEverythingIsFreed) {
  boot();
  for (const char* name : {"other-session", "empty-session", "lut-session"}) session(name) = nullptr;
  EXPECT_EQ(frames->totals().kept, 2u);
  for (const std::string& line : machine.lines) EXPECT_EQ(line.find("stays reserved"), std::string::npos) << line;
}

TEST_F(LinuxImage, UnretrievedSessionsGoOnToTheNextKernel) {
  boot();
  ASSERT_TRUE(luo->serialize());
  const Phys fdt = kho->outgoing_fdt();
  // The next kernel, on the same memory.
  luo.forget();
  files.forget();
  memfd.forget();
  kho.forget();
  heap.forget();
  frames.forget();
  asan::unpoison(machine.direct_map, kRam);
  const Extent ram[] = {{Phys(0), kRam}};
  const Extent reserved[] = {{kMap, kPageSize}};
  const Extent scratch[] = {{Phys(0x19800000), 0x4000000}, {Phys(0x1d800000), 0x1000000}};
  ASSERT_TRUE(frames.make(machine).init(ram, reserved, scratch));
  ASSERT_TRUE(Kho::carve(*frames, fdt));
  frames->open();
  ASSERT_TRUE(kho.make(heap.make(*frames)).init(fdt, 52));
  ASSERT_TRUE(luo.make(*kho).load_incoming());
  ASSERT_TRUE(luo->init());
  ASSERT_TRUE(luo->register_handler(memfd.make(*kho, files.make(*heap))));
  EXPECT_EQ(luo->incoming_number(), 2u);
  auto lut = session("lut-session");
  auto big = memory(*lut, 0x890123);
  ASSERT_TRUE(big);
  for (u64 page = 0; page < 0x4000; ++page) ASSERT_EQ(first_word(**big, page), pattern(page)) << page;
}

}  // namespace
}  // namespace perdure::luo
