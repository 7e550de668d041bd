// Shared memory through the jump: real memfds behind banks, every refusal, hostile records, forwarding.
#include <random>

#include "core/luo/fakes.h"
#include "core/luo/memfd_record.h"

namespace perdure::luo {
namespace {

using test::TestMemfd;
using test::World;

struct Rig {
  Ref<SharedMemory> open(const Ref<TestMemfd>& host) { return *w.files().memory(host); }
  // A memfd of `bytes`, wrapped and given to the program.
  Ref<TestMemfd> add(u64 bytes, u64 token, SessionFile& s) {
    auto host = TestMemfd::create(bytes);
    const auto r = w.preserve(s, w.task.open(open(host)), token);
    if (!r) throw std::runtime_error(std::string(errno_name(r.error())));
    return host;
  }
  MemfdSer& record(u64 i) {
    const auto& ser = *w.machines.machine.virt<LuoSer>(w.kho().outgoing_subtree("LUO")->at);
    const auto& session = *w.machines.machine.virt<SessionSer>(Phys(ser.sessions + 16));
    return *w.machines.machine.virt<MemfdSer>(Phys(w.machines.machine.virt<FileSer>(Phys(session.files + 16))[i].data));
  }
  FolioSer* folios(const MemfdSer& r) {
    return w.machines.machine.virt<FolioSer>(
        Phys(w.machines.machine.virt<kho::VmallocChunk>(Phys(r.folios.first_chunk))->runs[0]));
  }
  SharedMemory& memory(s32 fd) { return *file_cast<SharedMemory>(w.task.files.at(fd).get()); }
  // Program and kernel end, with session "s" in the program's hand.
  void update(Ref<SessionFile> s) {
    w.held.push_back(std::move(s));
    w.update();
    ASSERT_TRUE(w.load_result);
  }
  World w;
};

class Memfd : public ::testing::Test, protected Rig {};

TEST_F(Memfd, ComesBackWithEverything) {
  auto s = w.create("s");
  auto host = add(5000, 1, *s);
  host->fill(0, "hello");
  host->fill(4990, "0123456789");
  host->set_position(42);
  const u64 id = host->id();
  ASSERT_EQ(w.machines.machine.banks.size(), 1u);
  const Bank before = w.machines.machine.banks.begin()->second;
  update(std::move(s));
  auto in = *w.retrieve("s");
  const s32 fd = *w.retrieve(*in, 1);
  SharedMemory& m = memory(fd);
  EXPECT_EQ(m.id(), id);
  EXPECT_EQ(m.size(), 5000u);
  EXPECT_EQ(m.host().position(), 42u);
  EXPECT_EQ(host->contents(0, 5), "hello");
  EXPECT_EQ(host->contents(4990, 10), "0123456789");
  // The same physical addresses, and nothing attached twice.
  ASSERT_TRUE(m.extents(0, 8192, [&](const FileExtent& e) -> Result<void> {
    EXPECT_EQ(e.base, before.base);
    EXPECT_EQ(e.length, 8192u);
    return {};
  }));
  EXPECT_EQ(w.machines.machine.banks.size(), 1u);
  // Record, array page and chunk page are free again.
  ASSERT_TRUE(w.finish(*in));
  EXPECT_EQ(w.machines.frames().totals().kept, 1u);  // the FDT
  in = nullptr;
  w.task.close_all();
  EXPECT_TRUE(w.machines.machine.banks.empty());  // the last close gives the addresses back
}

// kho-luo §6 row 7: programs may still run while the kernel goes down. What crosses is the state of the freeze.
// kho-luo §4.1: somebody else finds it by its name.
TEST_F(Memfd, NamedMemoryIsNobodys) {
  auto s = w.create("s");
  const auto host = TestMemfd::create(kPageSize);
  host->named = true;
  const s32 fd = w.task.open(open(host));
  EXPECT_EQ(w.preserve(*s, fd, 1).error(), Errno::Enoent);
  host->named = false;
  EXPECT_TRUE(w.preserve(*s, fd, 1));
}

TEST_F(Memfd, PositionIsThatOfTheFreeze) {
  auto s = w.create("s");
  auto host = add(5000, 1, *s);
  host->set_position(41);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(record(0).position, 41u) << "the freeze's, not the preservation's";
  host->set_position(4000);
  host->resize(9000).value();
  w.held.push_back(std::move(s));
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_EQ(memory(*w.retrieve(*in, 1)).host().position(), 41u);
  EXPECT_EQ(host->size(), 5000u);
  w.held.push_back(std::move(in));
}

TEST_F(Memfd, RecordIsLaidOutAsLinuxs) {
  auto s = w.create("s");
  auto host = add(5000, 1, *s);
  host->set_position(42);
  ASSERT_TRUE(w.luo().serialize());
  const u64 base = w.machines.machine.banks.begin()->second.base.value;
  const MemfdSer& r = record(0);
  u64 words[6];
  memcpy(words, &r, sizeof words);
  EXPECT_EQ(words[0], 42u);
  EXPECT_EQ(words[1], 5000u);
  EXPECT_EQ(words[2], r.seals);  // flags above are 0
  EXPECT_EQ(words[3], 1u);       // one folio of two pages: the bank is contiguous
  EXPECT_EQ(words[5], 1u | u64{1} << 32);
  const FolioSer& f = folios(r)[0];
  EXPECT_EQ(f.word, 0x0030'0000'0000'0000 | base >> 12);
  EXPECT_EQ(f.index, 0u);
  EXPECT_TRUE(w.kho().is_preserved(Phys(base), 1));
  w.held.push_back(std::move(s));
}

TEST_F(Memfd, FoliosAreAsLargeAsAlignmentAllows) {
  auto s = w.create("s");
  // 5 MiB + 12 KiB: 4 MiB, 1 MiB, 8 KiB, 4 KiB.
  (void)add((u64{5} << 20) + 3 * kPageSize, 1, *s);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(record(0).folio_count, 4u);
  const u64 index[] = {0, 1024, 1280, 1282};
  for (u64 i = 0; i < 4; ++i) EXPECT_EQ(folios(record(0))[i].index, index[i]);
  w.held.push_back(std::move(s));
}

TEST_F(Memfd, StrictModeMakesHugePages) {
  w.machines.max_order = 9;
  w.jump();
  auto s = w.create("s");
  (void)add(u64{64} << 20, 1, *s);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(record(0).folio_count, 32u);
  for (u64 i = 0; i < 32; ++i) EXPECT_EQ(folios(record(0))[i].index, i * 512);
  w.held.push_back(std::move(s));
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_TRUE(w.retrieve(*in, 1));
  w.held.push_back(std::move(in));
}

TEST_F(Memfd, EmptyFile) {
  auto s = w.create("s");
  auto host = add(0, 1, *s);
  ASSERT_TRUE(w.luo().serialize());
  const MemfdSer zero{};
  EXPECT_EQ(memcmp(&record(0).folio_count, &zero.folio_count, 24), 0);
  w.held.push_back(std::move(s));
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_EQ(memory(*w.retrieve(*in, 1)).size(), 0u);
}

TEST_F(Memfd, GrownFileHasSeveralBanks) {
  auto s = w.create("s");
  auto host = TestMemfd::create(kPageSize);
  auto m = open(host);
  const auto touch = [](const FileExtent&) -> Result<void> { return {}; };
  ASSERT_TRUE(m->extents(0, kPageSize, touch));
  ASSERT_TRUE(host->resize(10 * kPageSize));
  ASSERT_TRUE(m->extents(3 * kPageSize, kPageSize, touch));
  EXPECT_EQ(w.machines.machine.banks.size(), 2u);
  ASSERT_TRUE(w.preserve(*s, w.task.open(m), 1));
  host->fill(9 * kPageSize, "end");
  m = nullptr;
  update(std::move(s));
  auto in = *w.retrieve("s");
  SharedMemory& back = memory(*w.retrieve(*in, 1));
  u64 extents = 0;
  ASSERT_TRUE(back.extents(0, 10 * kPageSize, [&](const FileExtent& e) -> Result<void> {
    EXPECT_EQ(e.offset, extents == 0 ? 0u : kPageSize);
    ++extents;
    return {};
  }));
  EXPECT_EQ(extents, 2u);
  EXPECT_EQ(host->contents(9 * kPageSize, 3), "end");
  w.held.push_back(std::move(in));
}

TEST_F(Memfd, SealsAndLateSealsComeAlong) {
  auto s = w.create("s");
  auto host = TestMemfd::create(kPageSize);
  ASSERT_TRUE(host->add_seals(seal::kShrink));
  ASSERT_TRUE(w.preserve(*s, w.task.open(open(host)), 1));
  EXPECT_EQ(host->seals(), seal::kShrink);
  ASSERT_TRUE(host->add_seals(seal::kGrow));  // Linux would lose this one
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(record(0).seals, seal::kShrink | seal::kGrow);
  w.held.push_back(std::move(s));
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_EQ(memory(*w.retrieve(*in, 1)).seals(), seal::kShrink | seal::kGrow);
}

TEST_F(Memfd, SizeIsFrozenWhilePreserved) {
  auto s = w.create("s");
  auto host = TestMemfd::create(2 * kPageSize);
  auto m = open(host);
  const s32 fd = w.task.open(m);
  ASSERT_TRUE(w.preserve(*s, fd, 1));
  EXPECT_TRUE(m->preserved());
  EXPECT_EQ(m->resize(kPageSize).error(), Errno::Eperm);
  EXPECT_TRUE(m->resize(2 * kPageSize));
  EXPECT_EQ(m->write(w.task, test::TestTask::kMemory, 10, 2 * kPageSize - 5).error(), Errno::Eperm);
  EXPECT_EQ(*m->write(w.task, test::TestTask::kMemory, 10, 2 * kPageSize - 10), 10u);
  // The host's own ftruncate cannot be refused, only noticed.
  ASSERT_TRUE(host->resize(3 * kPageSize));
  EXPECT_EQ(m->extents(2 * kPageSize, kPageSize, [](const FileExtent&) -> Result<void> { return {}; }).error(),
            Errno::Einval);
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  EXPECT_TRUE(w.logged("was preserved with 8192 bytes and has 12288 now"));
  ASSERT_TRUE(host->resize(kPageSize));
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  ASSERT_TRUE(host->resize(2 * kPageSize));
  EXPECT_TRUE(w.luo().serialize());
  w.luo().unfreeze_all();
  s = nullptr;
  EXPECT_FALSE(m->preserved());
  EXPECT_TRUE(m->resize(5 * kPageSize));
}

TEST_F(Memfd, OneObjectHoweverItIsNamed) {
  auto s = w.create("s");
  auto host = add(kPageSize, 1, *s);
  EXPECT_EQ(w.preserve(*s, w.task.open(open(host)), 2).error(), Errno::Ebusy);
}

TEST_F(Memfd, ClosedSessionGivesEverythingBack) {
  auto host = TestMemfd::create(u64{3} << 20);
  const s32 fd = w.task.open(open(host));
  for (int i = 0; i < 2; ++i) {
    auto s = w.create("warm");
    ASSERT_TRUE(w.preserve(*s, fd, 1));
  }
  w.heap().trim();
  const auto frames = w.machines.frames().totals();
  const u64 bytes = w.heap().bytes_in_use();
  {
    auto s = w.create("s");
    ASSERT_TRUE(w.preserve(*s, fd, 1));
    EXPECT_FALSE(w.machines.machine.banks.empty());
    const Phys base = w.machines.machine.banks.begin()->second.base;
    EXPECT_TRUE(w.kho().is_preserved(base, 9));
    s = nullptr;
    EXPECT_FALSE(w.kho().is_preserved(base, 9));
  }
  w.heap().trim();
  EXPECT_EQ(w.machines.frames().totals(), frames);
  EXPECT_EQ(w.heap().bytes_in_use(), bytes);
  w.task.close_all();
  EXPECT_TRUE(w.machines.machine.banks.empty());
}

TEST_F(Memfd, EveryFailureOfPreserveIsUndone) {
  auto host = TestMemfd::create((u64{3} << 20) + kPageSize);
  auto m = open(host);
  const s32 fd = w.task.open(m);
  for (int i = 0; i < 2; ++i) {
    auto s = w.create("warm");
    ASSERT_TRUE(w.preserve(*s, fd, 1));
  }
  w.heap().trim();
  const auto frames = w.machines.frames().totals();
  const u64 bytes = w.heap().bytes_in_use();
  bool done = false;
  for (u64 nth = 1; !done; ++nth) {
    {
      auto s = w.create("s");
      const auto r = w.steps().failing(nth, [&] { return w.preserve(*s, fd, 1); });
      done = r.has_value();
      if (!done) {
        EXPECT_EQ(r.error(), Errno::Enomem);
        EXPECT_FALSE(m->preserved());
      }
    }
    w.heap().trim();
    ASSERT_EQ(w.machines.frames().totals(), frames) << nth;
    ASSERT_EQ(w.heap().bytes_in_use(), bytes) << nth;
    ASSERT_LT(nth, 40u);
  }
}

TEST_F(Memfd, NeverRetrievedIsGivenUpWhole) {
  auto s = w.create("s");
  (void)add(u64{3} << 20, 1, *s);
  (void)add(0, 2, *s);
  update(std::move(s));
  ASSERT_EQ(w.machines.machine.banks.size(), 1u);
  w.retrieve("s") = fail(Errno::Enoent);
  EXPECT_TRUE(w.machines.machine.banks.empty());
  EXPECT_EQ(w.machines.frames().totals().kept, 1u);
  for (const auto& line : w.machines.machine.lines) EXPECT_EQ(line.find("reserved"), std::string::npos) << line;
}

TEST_F(Memfd, HandedOnThroughManyKernels) {
  auto s = w.create("s");
  auto host = add((u64{2} << 20) + 5, 1, *s);
  host->fill(1 << 20, "still here");
  update(std::move(s));
  const u64 kept = w.machines.frames().totals().kept;
  for (int hop = 0; hop < 4; ++hop) {
    // A failed jump in between changes nothing.
    ASSERT_TRUE(w.luo().serialize());
    w.luo().unfreeze_all();
    w.update();
    ASSERT_TRUE(w.load_result);
    EXPECT_EQ(w.machines.frames().totals().kept, kept);
  }
  auto in = *w.retrieve("s");
  const s32 fd = *w.retrieve(*in, 1);
  EXPECT_EQ(memory(fd).size(), (u64{2} << 20) + 5);
  EXPECT_EQ(host->contents(1 << 20, 10), "still here");
  ASSERT_TRUE(w.finish(*in));
  EXPECT_EQ(w.machines.frames().totals().kept, 1u);
  in = nullptr;
}

TEST_F(Memfd, EveryFailureOfForwardingIsUndone) {
  auto s = w.create("s");
  (void)add((u64{3} << 20) + kPageSize, 1, *s);
  update(std::move(s));
  ASSERT_TRUE(w.luo().serialize());
  w.luo().unfreeze_all();
  w.heap().trim();
  const auto frames = w.machines.frames().totals();
  const u64 bytes = w.heap().bytes_in_use();
  for (u64 nth = 1;; ++nth) {
    const auto r = w.steps().failing(nth, [&] { return w.luo().serialize(); });
    if (r) break;
    EXPECT_EQ(r.error(), Errno::Enomem);
    w.heap().trim();
    ASSERT_EQ(w.machines.frames().totals(), frames) << nth;
    ASSERT_EQ(w.heap().bytes_in_use(), bytes) << nth;
    ASSERT_LT(nth, 40u);
  }
  w.luo().unfreeze_all();
  auto in = *w.retrieve("s");
  EXPECT_TRUE(w.retrieve(*in, 1));
  w.held.push_back(std::move(in));
}

TEST_F(Memfd, StoppedHalfwayEverythingIsUndone) {
  auto s = w.create("s");
  auto host = TestMemfd::create(3 * kPageSize);
  auto m = open(host);
  const s32 fd = w.task.open(m);
  ASSERT_TRUE(m->extents(0, 3 * kPageSize, [](const FileExtent&) -> Result<void> { return {}; }));
  const Phys base = w.machines.machine.banks.begin()->second.base;
  // Somebody else's block in the way of the second folio.
  ASSERT_TRUE(w.kho().preserve(base + 2 * kPageSize, 0));
  EXPECT_EQ(w.preserve(*s, fd, 1).error(), Errno::Eexist);
  EXPECT_FALSE(w.kho().is_preserved(base, 1));
  EXPECT_FALSE(m->preserved());
  w.kho().unpreserve(base + 2 * kPageSize, 0);
  ASSERT_TRUE(w.preserve(*s, fd, 1));
  ASSERT_TRUE(w.luo().serialize());
  const Phys record_page = w.machines.machine.phys(&record(0));
  m = nullptr;
  w.held.push_back(std::move(s));
  w.jump();

  ASSERT_TRUE(w.kho().preserve(base + 2 * kPageSize, 0));
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eexist);
  EXPECT_FALSE(w.kho().is_preserved(record_page, 0));
  EXPECT_FALSE(w.kho().is_preserved(base, 1));
  w.kho().unpreserve(base + 2 * kPageSize, 0);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_TRUE(w.kho().is_preserved(record_page, 0));
  w.luo().unfreeze_all();
  EXPECT_FALSE(w.kho().is_preserved(record_page, 0));
  EXPECT_FALSE(w.kho().is_preserved(base, 1));
}

TEST_F(Memfd, SizeOfTheHostMemoryIsPutRight) {
  auto s = w.create("s");
  auto host = add(2 * kPageSize, 1, *s);
  w.held.push_back(std::move(s));
  ASSERT_TRUE(w.luo().serialize());
  ASSERT_TRUE(host->resize(5 * kPageSize));  // a program that was not dead yet
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_EQ(memory(*w.retrieve(*in, 1)).size(), 2 * kPageSize);
}

// --- damage -----------------------------------------------------------------------------------------------------

// Two files: token 1 of three pages (folios of 2 and 1 pages), token 2 of one.
struct Damage {
  const char* what;
  std::function<void(Rig&)> apply;
  std::string_view why;
};

const Damage kDamages[] = {
    {"flags", [](Rig& t) { t.record(0).flags = 1; }, "unknown flags"},
    {"seals", [](Rig& t) { t.record(0).seals = 0x40; }, "unknown seals"},
    {"huge size", [](Rig& t) { t.record(0).size = ~u64{0}; }, "impossible size"},
    {"small size", [](Rig& t) { t.record(0).size = 5; }, "more folios than pages"},
    {"size within", [](Rig& t) { t.record(0).size = 2 * kPageSize; }, "beyond the end of the file"},
    {"size beyond", [](Rig& t) { t.record(0).size = 4 * kPageSize; }, "do not reach the end"},
    {"count", [](Rig& t) { t.record(0).folio_count = 257; }, "more folios than pages"},
    {"count 0", [](Rig& t) { t.record(0).folio_count = 0; }, "counts no folios but lists some"},
    {"count 1", [](Rig& t) { t.record(0).folio_count = 1; }, "do not reach the end"},
    {"array", [](Rig& t) { t.record(0).folios.first_chunk = 8; }, "chunk is no preserved page"},
    {"array in a bank", [](Rig& t) { t.record(0).folios.first_chunk = t.w.machines.machine.banks.rbegin()->first; },
     "chunk is no preserved page"},
    {"folio flags", [](Rig& t) { t.folios(t.record(0))[0].word |= u64{1} << 55; }, "folio has unknown flags"},
    {"folio outside", [](Rig& t) { t.folios(t.record(0))[0].word |= 0xf'ffff'ffff'ffff; }, "no preserved block"},
    {"folio inside another", [](Rig& t) { t.folios(t.record(0))[0].word += 1; }, "no preserved block"},
    {"folio unaligned in the file", [](Rig& t) { t.folios(t.record(0))[0].index = 1; }, "not aligned in the file"},
    {"folio elsewhere", [](Rig& t) { t.folios(t.record(0))[1].index = 3; }, "beyond the end of the file"},
    {"folios overlap", [](Rig& t) { t.folios(t.record(0))[1].index = 1; }, "overlap in the file"},
    {"folios swapped", [](Rig& t) { std::swap(t.folios(t.record(0))[0].word, t.folios(t.record(0))[1].word); },
     "not where the memory map has"},
    {"first folio absent", [](Rig& t) { t.folios(t.record(0))[0].word = 0; }, "not where the memory map has"},
    {"folio absent", [](Rig& t) { t.folios(t.record(0))[1].word = 0; }, "do not reach the end"},
    {"somebody else's folio", [](Rig& t) { t.folios(t.record(0))[1].word = t.folios(t.record(1))[0].word; },
     "not where the memory map has"},
    {"a record as folio",
     [](Rig& t) {
       t.folios(t.record(0))[1].word =
           FolioSer::Frame::make(t.w.machines.machine.phys(&t.record(1)).page()) | u64{3} << 52;
     },
     "partly in RAM"},
};

TEST_F(Memfd, DamagedRecordsAreRefusedAndTheOtherFileIsFine) {
  for (const Damage& d : kDamages) {
    SCOPED_TRACE(d.what);
    Rig t;
    auto s = t.w.create("s");
    auto first = t.add(3 * kPageSize, 1, *s), second = t.add(kPageSize, 2, *s);
    second->fill(0, "fine");
    ASSERT_TRUE(t.w.luo().serialize());
    d.apply(t);
    t.w.held.push_back(std::move(s));
    t.w.jump();
    ASSERT_TRUE(t.w.load_result);
    auto in = *t.w.retrieve("s");
    EXPECT_EQ(t.w.retrieve(*in, 1).error(), Errno::Eproto);
    EXPECT_TRUE(t.w.logged(d.why)) << (t.w.machines.machine.lines.size() > 1
                                           ? t.w.machines.machine.lines[t.w.machines.machine.lines.size() - 2]
                                           : "");
    const auto other = t.w.retrieve(*in, 2);
    ASSERT_TRUE(other);
    EXPECT_EQ(second->contents(0, 4), "fine");
    EXPECT_TRUE(t.w.finish(*in));
    // The damaged file's banks are still there: devices may be writing to them.
    EXPECT_EQ(t.w.machines.machine.banks.size(), 2u);
    t.w.held.push_back(std::move(in));
  }
}

// Two folios alike but for their places in the memory: only the memory map knows which is which.
TEST_F(Memfd, FoliosOfOneSizeInWrongOrderAreRefused) {
  w.machines.max_order = 9;
  w.jump();
  auto s = w.create("s");
  (void)add(u64{64} << 20, 1, *s);
  ASSERT_TRUE(w.luo().serialize());
  std::swap(folios(record(0))[0].word, folios(record(0))[1].word);
  w.held.push_back(std::move(s));
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_EQ(w.retrieve(*in, 1).error(), Errno::Eproto);
  EXPECT_TRUE(w.logged("not where the memory map has"));
  w.held.push_back(std::move(in));
}

TEST_F(Memfd, DamagedRecordsAreGivenUpUnread) {
  for (const Damage& d : kDamages) {
    SCOPED_TRACE(d.what);
    Rig t;
    auto s = t.w.create("s");
    (void)t.add(3 * kPageSize, 1, *s);
    (void)t.add(kPageSize, 2, *s);
    ASSERT_TRUE(t.w.luo().serialize());
    d.apply(t);
    t.w.held.push_back(std::move(s));
    t.w.jump();
    t.w.retrieve("s") = fail(Errno::Enoent);
    // The second file goes first, so what the first one claims of it is gone by then.
    EXPECT_TRUE(t.w.logged("is given up unread"));
    EXPECT_EQ(t.w.machines.machine.banks.size(), 1u);
  }
}

TEST_F(Memfd, HostMemoryThatIsGone) {
  auto s = w.create("s");
  auto host = add(kPageSize, 1, *s);
  w.held.push_back(std::move(s));
  ASSERT_TRUE(w.luo().serialize());
  w.jump();
  w.machines.machine.hosts.erase(host->id());
  auto in = *w.retrieve("s");
  EXPECT_EQ(w.retrieve(*in, 1).error(), Errno::Enoent);
  EXPECT_TRUE(w.logged("the host memory behind its banks is not there"));
}

TEST_F(Memfd, TwoRecordsOfOneMemory) {
  auto s = w.create("s");
  (void)add(kPageSize, 1, *s);
  (void)add(kPageSize, 2, *s);
  w.held.push_back(std::move(s));
  ASSERT_TRUE(w.luo().serialize());
  folios(record(1))[0].word = folios(record(0))[0].word;
  w.jump();
  auto in = *w.retrieve("s");
  EXPECT_TRUE(w.retrieve(*in, 1));
  EXPECT_EQ(w.retrieve(*in, 2).error(), Errno::Eproto);
  EXPECT_TRUE(w.logged("a folio is no preserved block"));  // taken
}

TEST_F(Memfd, EveryFailureOfRetrieve) {
  for (u64 nth = 1;; ++nth) {
    Rig t;
    auto s = t.w.create("s");
    auto host = t.add(3 * kPageSize, 1, *s);
    t.update(std::move(s));
    auto in = *t.w.retrieve("s");
    const auto r = t.w.steps().failing(nth, [&] { return t.w.retrieve(*in, 1); });
    if (r) break;
    EXPECT_EQ(r.error(), Errno::Enomem);
    EXPECT_EQ(t.w.retrieve(*in, 1).error(), Errno::Enomem);  // remembered
    ASSERT_TRUE(t.w.finish(*in));
    EXPECT_EQ(t.w.machines.machine.banks.size(), 1u);  // never given to anybody else
    t.w.held.push_back(std::move(in));
    ASSERT_LT(nth, 20u);
  }
}

// Random bits of record, array and chunk: no crash, and whatever is served has its own contents.
TEST_F(Memfd, FlippedBitsAreSurvived) {
  std::mt19937 rng(17);
  int served = 0, refused = 0;
  for (int round = 0; round < 120; ++round) {
    Rig t;
    auto s = t.w.create("s");
    auto host = t.add(7 * kPageSize, 1, *s);
    for (u64 page = 0; page < 7; ++page) host->fill(page * kPageSize, std::to_string(page));
    ASSERT_TRUE(t.w.luo().serialize());
    const MemfdSer& r = t.record(0);
    const std::pair<u8*, u64> areas[] = {
        {t.w.machines.machine.virt<u8>(t.w.machines.machine.phys(&r)), sizeof r},
        {t.w.machines.machine.virt<u8>(t.w.machines.machine.phys(t.folios(r))), 3 * sizeof(FolioSer)},
        {t.w.machines.machine.virt<u8>(Phys(r.folios.first_chunk)), 24}};
    for (int n = 1 + static_cast<int>(rng() % 3); n > 0; --n) {
      const auto& [at, bytes] = areas[rng() % 3];
      at[rng() % bytes] ^= static_cast<u8>(1 << rng() % 8);
    }
    t.w.held.push_back(std::move(s));
    t.w.jump();
    ASSERT_TRUE(t.w.load_result);
    auto in = *t.w.retrieve("s");
    if (rng() % 4 == 0) {
      t.w.held.push_back(std::move(in));
      continue;
    }
    const auto fd = t.w.retrieve(*in, 1);
    (fd ? served : refused) += 1;
    if (fd) {
      for (u64 page = 0; page < 7; ++page) EXPECT_EQ(host->contents(page * kPageSize, 1), std::to_string(page));
    }
    ASSERT_TRUE(t.w.finish(*in));
    t.w.held.push_back(std::move(in));
  }
  EXPECT_GT(served, 0);  // positions and folio flags
  EXPECT_GT(refused, 40);
}

}  // namespace
}  // namespace perdure::luo
