// The NVMe controller, driven as its drivers drive it: registers, commands and structures by the numbers of the
// specification (NVM Express 1.4), not by the model's names.
#include "machine/board/nvme.h"

#include <chrono>

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

constexpr Bdf kNvmeAt{0, 7, 0};
constexpr u64 kAdminCommands = 0x30'0000, kAdminAnswers = 0x30'1000, kIdentify = 0x30'2000, kList = 0x30'3000;
constexpr u64 kQueues = 0x32'0000, kData = 0x100'0000;
constexpr u64 kDiskBytes = u64{8} << 20, kBlocks = kDiskBytes / 512;
constexpr u64 kContents = 0x6E766D65;

struct Answer {
  u32 result = 0;
  u16 head = 0;
  u16 queue = 0;
  u16 id = 0;
  u16 status = 0;
};

struct Words {
  u8 opcode = 0;
  u32 name_space = 0;
  u64 prp1 = 0;
  u64 prp2 = 0;
  u32 d10 = 0, d11 = 0, d12 = 0, d13 = 0;
  u32 flags = 0;  // of the first word
};

class NvmeModelTest : public testing::BoardTest {
 protected:
  void SetUp() override {
    set_up();
    turn_on();
  }
  void set_up(u64 command_ns = 10'000) {
    BoardConfig config = testing::small_machine();
    DeviceConfig nvme;
    nvme.kind = DeviceKind::Nvme;
    nvme.bdf = kNvmeAt;
    nvme.nvme = {.disk_bytes = kDiskBytes, .queues = 4, .command_ns = command_ns, .contents = kContents};
    config.devices.push_back(nvme);
    build(config);
    messages.clear();
    set_command(kNvmeAt, 6);
    bar = bar64(kNvmeAt);
    const u64 table = bar64(kNvmeAt, 0x20);
    for (unsigned v = 0; v < 5; ++v) {
      write32(table + 16 * v, 0xFEE0'0000);
      write32(table + 16 * v + 8, 0x60 + v);
      write32(table + 16 * v + 12, 0);
    }
    set_config16(kNvmeAt, capability(kNvmeAt, 0x11) + 2, 0x8000);
    for (Ring& r : rings) r = {};
  }
  u32 get(u64 offset) { return read32(bar + offset); }
  void set(u64 offset, u32 value) { write32(bar + offset, value); }

  // --- a driver of a few lines ---------------------------------------------------------------------------------------
  struct Ring {
    u64 commands = 0, answers = 0;
    u32 entries = 0, answer_entries = 0;
    u32 tail = 0, head = 0, phase = 1;
  };
  static constexpr u32 kConfiguration = 1 | 6 << 16 | 4 << 20;
  void turn_on(u32 configuration = kConfiguration, u32 entries = 8) {
    for (u64 at = kAdminCommands; at < kIdentify; at += 8) store(at, 0);
    set(0x24, (entries - 1) << 16 | (entries - 1));
    write64(bar + 0x28, kAdminCommands);
    set(0x30, static_cast<u32>(kAdminAnswers));
    set(0x34, 0);
    set(0x14, configuration);
    rings[0] = {kAdminCommands, kAdminAnswers, entries, entries};
    for (int i = 0; i < 1000 && (get(0x1C) & 3) == 0; ++i) board->step();
  }
  u16 submit(unsigned queue, const Words& w) {
    Ring& r = rings[queue];
    const u64 at = r.commands + u64{r.tail} * 64;
    for (u64 i = 0; i < 64; i += 8) store(at + i, 0);
    const u16 id = ++last_id;
    store(at, w.opcode | w.flags | u32{id} << 16 | u64{w.name_space} << 32);
    store(at + 24, w.prp1);
    store(at + 32, w.prp2);
    store(at + 40, w.d10 | u64{w.d11} << 32);
    store(at + 48, w.d12 | u64{w.d13} << 32);
    r.tail = (r.tail + 1) % r.entries;
    return id;
  }
  void ring(unsigned queue) { set(0x1000 + 8 * queue, rings[queue].tail); }
  bool answered(unsigned queue) {
    const Ring& r = rings[queue];
    return (load(r.answers + u64{r.head} * 16 + 8) >> 48 & 1) == r.phase;
  }
  Answer take(unsigned queue, bool give_back = true) {
    Ring& r = rings[queue];
    for (int i = 0; i < 100'000 && !answered(queue); ++i) board->step();
    EXPECT_TRUE(answered(queue)) << "no answer";
    const u64 at = r.answers + u64{r.head} * 16;
    const u64 low = load(at), high = load(at + 8);
    if (++r.head == r.answer_entries) {
      r.head = 0;
      r.phase ^= 1;
    }
    if (give_back) set(0x1004 + 8 * queue, r.head);
    return {static_cast<u32>(low), static_cast<u16>(high), static_cast<u16>(high >> 16), static_cast<u16>(high >> 32),
            static_cast<u16>(high >> 49)};
  }
  Answer run(unsigned queue, const Words& w) {
    const u16 id = submit(queue, w);
    ring(queue);
    const Answer a = take(queue);
    EXPECT_EQ(a.id, id);
    EXPECT_EQ(a.queue, queue);
    EXPECT_EQ(a.head, rings[queue].tail);
    return a;
  }
  // Queue pair n, with vector n.
  void create_pair(unsigned n, u32 entries = 16, u32 answers = 16) {
    const u64 commands = kQueues + n * 0x4000, at = commands + 0x2000;
    for (u64 i = 0; i < 0x4000; i += 8) store(commands + i, 0);
    ASSERT_EQ(run(0, {.opcode = 5, .prp1 = at, .d10 = (answers - 1) << 16 | n, .d11 = n << 16 | 3}).status, 0);
    ASSERT_EQ(run(0, {.opcode = 1, .prp1 = commands, .d10 = (entries - 1) << 16 | n, .d11 = n << 16 | 1}).status, 0);
    rings[n] = {commands, at, entries, answers};
  }
  static Words io(u8 opcode, u64 lba, u32 blocks, u64 prp1, u64 prp2 = 0) {
    return {.opcode = opcode,
            .name_space = 1,
            .prp1 = prp1,
            .prp2 = prp2,
            .d10 = static_cast<u32>(lba),
            .d11 = static_cast<u32>(lba >> 32),
            .d12 = blocks - 1};
  }
  static u64 pattern(u64 lba, u64 word) {
    u64 x = lba + kContents + 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return (x ^ x >> 31) + word * 0x9E3779B97F4A7C15;
  }
  void fill(u64 phys, u64 bytes, u64 seed) {
    for (u64 i = 0; i < bytes; i += 8) store(phys + i, (seed + i) * 0x9E37'79B9'7F4A'7C15 + 1);
  }
  bool same(u64 a, u64 b, u64 bytes) {
    return std::memcmp(board->direct_map() + a, board->direct_map() + b, bytes) == 0;
  }
  PhaseResult result() { return now(board->audit(), kNvmeAt); }

  u64 bar = 0;
  std::array<Ring, 5> rings{};
  u16 last_id = 0;
};

// --- registers -------------------------------------------------------------------------------------------------------

TEST_F(NvmeModelTest, IsFoundAndTurnedOnAndOff) {
  EXPECT_EQ(config32(kNvmeAt, 0), 0x0010'1B36u);
  EXPECT_EQ(config32(kNvmeAt, 8) >> 8, 0x010802u);
  const u64 cap = read64(bar);
  EXPECT_EQ(cap, get(0) | u64{get(4)} << 32);
  EXPECT_GE(cap & 0xFFFF, 255u);
  EXPECT_EQ(cap >> 16 & 1, 1u) << "contiguous queues";
  EXPECT_EQ(cap >> 32 & 15, 0u) << "doorbells 4 bytes apart";
  EXPECT_EQ(cap >> 37 & 1, 1u) << "NVM command set";
  EXPECT_EQ(cap >> 48 & 15, 0u) << "pages of 4 KiB";
  EXPECT_EQ(get(8), 0x0001'0400u);
  EXPECT_EQ(get(0x1C), 1u);
  EXPECT_EQ(board->mmio_read(Phys(bar), Width::W16), 0xFFFFu);
  set(0x24, 0);
  EXPECT_NE(get(0x24), 0u) << "settled while it is on";
  set(0x14, kConfiguration & ~1u);
  EXPECT_EQ(get(0x1C), 0u);
  set(0x14, kConfiguration);
  EXPECT_EQ(get(0x1C), 0u) << "it takes a while";
  board->step_for(100'000);
  EXPECT_EQ(get(0x1C), 1u);
  // Shutting down.
  set(0x14, kConfiguration | 1 << 14);
  EXPECT_EQ(get(0x1C), 9u);
  submit(0, {.opcode = 6, .prp1 = kIdentify, .d10 = 1});
  ring(0);
  board->step_for(1'000'000);
  EXPECT_FALSE(answered(0));
  set(0x14, kConfiguration & ~1u);
  EXPECT_EQ(get(0x1C), 0u);
}

TEST_F(NvmeModelTest, WhatItCannotDoIsFatal) {
  for (const auto& [configuration, entries] : {std::pair<u32, u32>{kConfiguration | 1 << 4, 8},
                                               {kConfiguration | 5 << 7, 8},
                                               {kConfiguration | 1 << 11, 8},
                                               {kConfiguration, 1}}) {
    set(0x14, 0);
    turn_on(configuration, entries);
    EXPECT_EQ(get(0x1C), 2u);
  }
  set(0x14, 0);
  set(0x28, kAdminCommands + 64);
  set(0x14, kConfiguration);
  board->step_for(100'000);
  EXPECT_EQ(get(0x1C), 2u) << "a queue that is not aligned";
  set(0x14, 0);
  turn_on();
  EXPECT_EQ(get(0x1C), 1u) << "turned off and on it is well again";
}

// --- admin commands --------------------------------------------------------------------------------------------------

TEST_F(NvmeModelTest, Identifies) {
  EXPECT_EQ(run(0, {.opcode = 6, .prp1 = kIdentify, .d10 = 1}).status, 0);
  const std::byte* const c = board->direct_map() + kIdentify;
  EXPECT_EQ(load(kIdentify) & 0xFFFF'FFFF, 0x1AF4'1B36u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(c + 4), 20), "PDR00000038         ");
  EXPECT_EQ(static_cast<u8>(c[77]), 7) << "MDTS";
  EXPECT_EQ(static_cast<u8>(c[512]), 0x66);
  EXPECT_EQ(static_cast<u8>(c[513]), 0x44);
  EXPECT_EQ(load(kIdentify + 512) >> 32, 1u) << "namespaces";
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(c + 768), 27), "nqn.2014.08.org.nvmexpress:");
  EXPECT_EQ(run(0, {.opcode = 6, .name_space = 1, .prp1 = kIdentify, .d10 = 0}).status, 0);
  EXPECT_EQ(load(kIdentify), kBlocks);
  EXPECT_EQ(load(kIdentify + 8), kBlocks);
  EXPECT_EQ(load(kIdentify + 128) & 0xFFFF'FFFF, 9u << 16) << "blocks of 512 bytes";
  EXPECT_EQ(load(kIdentify + 24) >> 8 & 0xFFFF, 0u) << "format 0 of one";
  EXPECT_EQ(run(0, {.opcode = 6, .prp1 = kIdentify, .d10 = 2}).status, 0);
  EXPECT_EQ(load(kIdentify), 1u);
  EXPECT_EQ(run(0, {.opcode = 6, .name_space = 1, .prp1 = kIdentify, .d10 = 2}).status, 0);
  EXPECT_EQ(load(kIdentify), 0u);
  EXPECT_EQ(run(0, {.opcode = 6, .name_space = 1, .prp1 = kIdentify, .d10 = 3}).status, 0);
  EXPECT_EQ(load(kIdentify) & 0xFFFF, 0x0801u);
  EXPECT_EQ(load(kIdentify + 16), 0u) << "and no more names";
  EXPECT_EQ(run(0, {.opcode = 6, .name_space = 2, .prp1 = kIdentify, .d10 = 0}).status, 0x400B);
  EXPECT_EQ(run(0, {.opcode = 6, .prp1 = kIdentify, .d10 = 0x77}).status, 0x4002);
  EXPECT_EQ(run(0, {.opcode = 0x80}).status, 0x4001);
  EXPECT_EQ(run(0, {.opcode = 6, .prp1 = kIdentify, .d10 = 1, .flags = 1 << 14}).status, 0x4002) << "SGLs";
}

TEST_F(NvmeModelTest, QueuesComeAndGoInOrder) {
  const auto cq = [&](u32 id, u32 size, u64 at, u32 vector, u32 bits = 3) {
    return run(0, {.opcode = 5, .prp1 = at, .d10 = (size - 1) << 16 | id, .d11 = vector << 16 | bits}).status;
  };
  const auto sq = [&](u32 id, u32 size, u64 at, u32 answers, u32 bits = 1) {
    return run(0, {.opcode = 1, .prp1 = at, .d10 = (size - 1) << 16 | id, .d11 = answers << 16 | bits}).status;
  };
  EXPECT_EQ(cq(0, 16, kQueues, 1), 0x4101);
  EXPECT_EQ(cq(5, 16, kQueues, 1), 0x4101);
  EXPECT_EQ(cq(1, 1, kQueues, 1), 0x4102);
  EXPECT_EQ(cq(1, 4096, kQueues, 1), 0x4102);
  EXPECT_EQ(cq(1, 16, kQueues, 1, 2), 0x4002) << "in pieces";
  EXPECT_EQ(cq(1, 16, kQueues + 8, 1), 0x4013);
  EXPECT_EQ(cq(1, 16, kQueues, 5), 0x4108);
  EXPECT_EQ(sq(1, 16, kQueues, 1), 0x4100) << "no queue for its answers";
  EXPECT_EQ(sq(1, 16, kQueues, 0), 0x4100);
  EXPECT_EQ(sq(1, 16, kQueues, 999), 0x4100);
  EXPECT_EQ(run(0, {.opcode = 9, .d10 = 7, .d11 = 0x00FF'00FF}).result, 0x0003'0003u) << "queues there are";
  create_pair(1);
  create_pair(2);
  EXPECT_EQ(run(0, {.opcode = 9, .d10 = 7, .d11 = 0}).status, 0x400C) << "too late";
  EXPECT_EQ(cq(1, 16, kQueues, 1), 0x4101) << "there already";
  EXPECT_EQ(sq(1, 16, kQueues, 1), 0x4101);
  EXPECT_EQ(run(0, {.opcode = 4, .d10 = 1}).status, 0x410C) << "in use";
  EXPECT_EQ(run(1, io(2, 0, 8, kData)).status, 0);
  EXPECT_EQ(run(0, {.opcode = 0, .d10 = 1}).status, 0);
  EXPECT_EQ(run(0, {.opcode = 0, .d10 = 1}).status, 0x4101);
  EXPECT_EQ(run(0, {.opcode = 4, .d10 = 1}).status, 0);
  EXPECT_EQ(run(0, {.opcode = 4, .d10 = 1}).status, 0x4101);
  EXPECT_EQ(run(2, io(2, 0, 8, kData)).status, 0) << "the other one goes on";
  create_pair(1);
  EXPECT_EQ(run(1, io(2, 0, 8, kData)).status, 0);
}

TEST_F(NvmeModelTest, FeaturesAndLogs) {
  EXPECT_EQ(run(0, {.opcode = 10, .d10 = 4}).result, 0x157u);
  EXPECT_EQ(run(0, {.opcode = 9, .d10 = 4, .d11 = 0x150}).status, 0);
  EXPECT_EQ(run(0, {.opcode = 10, .d10 = 4}).result, 0x150u);
  EXPECT_EQ(run(0, {.opcode = 10, .d10 = 7}).result, 0x0003'0003u);
  EXPECT_EQ(run(0, {.opcode = 9, .d10 = 7, .d11 = 0xFFFF}).status, 0x4002);
  EXPECT_EQ(run(0, {.opcode = 9, .d10 = 4 | 1u << 31}).status, 0x410D);
  EXPECT_EQ(run(0, {.opcode = 10, .d10 = 0x06}).status, 0x4002) << "no write cache";
  EXPECT_EQ(run(0, {.opcode = 10, .d10 = 9, .d11 = 5}).status, 0x4002) << "vectors are 0 to 4";
  create_pair(1);
  fill(kData, 4096, 1);
  EXPECT_EQ(run(1, io(1, 0, 8, kData)).status, 0);
  EXPECT_EQ(run(0, {.opcode = 2, .name_space = ~0u, .prp1 = kIdentify, .d10 = 2 | 127 << 16}).status, 0);
  EXPECT_EQ(load(kIdentify) >> 8 & 0xFFFF, 300u) << "kelvin";
  EXPECT_EQ(load(kIdentify + 48), 1u) << "thousands of blocks written";
  EXPECT_EQ(load(kIdentify + 80), 1u);
  EXPECT_EQ(run(0, {.opcode = 2, .prp1 = kIdentify, .d10 = 3 | 127 << 16}).status, 0);
  EXPECT_EQ(load(kIdentify + 8) & 0xFF'FFFF, 0x302E31u) << "1.0";
  EXPECT_EQ(run(0, {.opcode = 2, .prp1 = kIdentify, .d10 = 0x70}).status, 0x4109);
  EXPECT_EQ(run(0, {.opcode = 2, .prp1 = kIdentify, .d10 = 2, .d12 = 516}).status, 0x4002);
}

TEST_F(NvmeModelTest, EventsTellWrongDoorbellsOncePerLook) {
  const u16 first = submit(0, {.opcode = 12});
  const u16 second = submit(0, {.opcode = 12});
  submit(0, {.opcode = 12});
  submit(0, {.opcode = 12});
  ring(0);
  board->step_for(100'000);
  EXPECT_FALSE(answered(0)) << "they wait";
  EXPECT_EQ(run(0, {.opcode = 12}).status, 0x4105) << "one too many";
  set(0x1000 + 8 * 3, 1);
  Answer a = take(0);
  EXPECT_EQ(a.id, first);
  EXPECT_EQ(a.result, 0x0001'0000u) << "no such doorbell";
  set(0x1000, 8);
  board->step_for(100'000);
  EXPECT_FALSE(answered(0)) << "not before the log was read";
  const u16 reading = submit(0, {.opcode = 2, .prp1 = kIdentify, .d10 = 1 | 15 << 16});
  ring(0);
  EXPECT_EQ(take(0).id, reading);
  a = take(0);
  EXPECT_EQ(a.id, second);
  EXPECT_EQ(a.result, 0x0001'0100u) << "no such entry";
}

TEST_F(NvmeModelTest, AbortsWhatIsNotDoneYet) {
  set_up(1'000'000);
  turn_on();
  create_pair(1);
  const u16 first = submit(1, io(2, 0, 8, kData));
  const u16 second = submit(1, io(2, 8, 8, kData + 4096));
  ring(1);
  board->step_for(10'000);
  EXPECT_EQ(run(0, {.opcode = 8, .d10 = u32{second} << 16 | 1}).result, 0u);
  Answer a = take(1);
  EXPECT_EQ(a.id, second);
  EXPECT_EQ(a.status, 7);
  EXPECT_EQ(run(0, {.opcode = 8, .d10 = u32{second} << 16 | 1}).result, 1u) << "gone";
  EXPECT_EQ(run(0, {.opcode = 8, .d10 = 3}).result, 1u) << "no such queue";
  EXPECT_EQ(run(0, {.opcode = 8, .d10 = 999}).result, 1u);
  a = take(1);
  EXPECT_EQ(a.id, first);
  EXPECT_EQ(a.status, 0);
  EXPECT_EQ(load(kData + 4096), 0u) << "what was aborted brought nothing";
  const u16 event = submit(0, {.opcode = 12});
  ring(0);
  board->step_for(10'000);
  submit(0, {.opcode = 8, .d10 = u32{event} << 16});
  ring(0);
  a = take(0);
  EXPECT_EQ(a.id, event);
  EXPECT_EQ(a.status, 7);
  EXPECT_EQ(take(0).result, 0u);
  // A queue that is deleted answers what it still holds.
  submit(1, io(2, 0, 8, kData));
  ring(1);
  board->step_for(10'000);
  EXPECT_EQ(run(0, {.opcode = 0, .d10 = 1}).status, 0);
  EXPECT_EQ(take(1).status, 8);
}

// --- I/O -------------------------------------------------------------------------------------------------------------

TEST_F(NvmeModelTest, BlocksHoldWhatWasWrittenAndTellWhichTheyAre) {
  create_pair(1);
  EXPECT_EQ(run(1, io(2, kBlocks - 8, 8, kData)).status, 0);
  for (u64 block = 0; block < 8; ++block) {
    for (u64 word = 0; word < 64; ++word) {
      ASSERT_EQ(load(kData + block * 512 + word * 8), pattern(kBlocks - 8 + block, word));
    }
  }
  fill(kData, 4096, 3);
  EXPECT_EQ(run(1, io(1, 1021, 3, kData)).status, 0) << "across where its memory is cut";
  EXPECT_EQ(run(1, io(2, 1020, 5, kData + 0x2000)).status, 0);
  EXPECT_EQ(load(kData + 0x2000), pattern(1020, 0));
  EXPECT_TRUE(same(kData, kData + 0x2000 + 512, 3 * 512));
  EXPECT_EQ(load(kData + 0x2000 + 4 * 512), pattern(1024, 0));
  EXPECT_EQ(run(1, io(0, 0, 1, 0)).status, 0) << "flush";
  EXPECT_EQ(run(1, io(5, 1021, 3, kData)).status, 0) << "compare";
  store(kData + 1024, 0);
  EXPECT_EQ(run(1, io(5, 1021, 3, kData)).status, 0x285);
  EXPECT_EQ(run(1, io(8, 1022, 1, 0)).status, 0) << "write zeroes";
  EXPECT_EQ(run(1, io(2, 1021, 3, kData)).status, 0);
  EXPECT_NE(load(kData), 0u);
  EXPECT_EQ(load(kData + 512), 0u);
  EXPECT_NE(load(kData + 1024), 0u);
  // Deallocated: two ranges.
  store(kList, u64{2} << 32);
  store(kList + 8, 5000);
  store(kList + 16, u64{1} << 32);
  store(kList + 24, 1021);
  EXPECT_EQ(run(1, {.opcode = 9, .name_space = 1, .prp1 = kList, .d10 = 1, .d11 = 4}).status, 0);
  EXPECT_EQ(run(1, io(2, 5000, 3, kData)).status, 0);
  EXPECT_EQ(load(kData) | load(kData + 1016), 0u);
  EXPECT_EQ(load(kData + 1024), pattern(5002, 0));
  EXPECT_EQ(result().not_done, (std::array<u64, kCauses>{}));
}

TEST_F(NvmeModelTest, PrpsLeadToPagesThatLieApart) {
  create_pair(1);
  // Within a page; over a boundary, by the second PRP; then lists.
  EXPECT_EQ(run(1, io(2, 1, 1, kData + 0xE00)).status, 0);
  EXPECT_EQ(load(kData + 0xE00), pattern(1, 0));
  EXPECT_EQ(run(1, io(2, 10, 8, kData + 0xC00, kData + 0x8000)).status, 0);
  EXPECT_EQ(load(kData + 0xC00 + 512), pattern(11, 0));
  EXPECT_EQ(load(kData + 0x8000), pattern(12, 0));
  EXPECT_EQ(load(kData + 0x8000 + 6 * 512), 0u);
  const auto page_of = [](u64 i) { return kData + 0x2'0000 + i * 0x2000; };
  // 512 KiB and an offset: 128 pages after the first part, by a list that begins two entries before its page's end.
  const u64 list = kList + 4096 - 16, rest = kList + 4096;
  store(list, page_of(0));
  store(list + 8, rest);
  for (u64 i = 1; i < 128; ++i) store(rest + 8 * (i - 1), page_of(i));
  EXPECT_EQ(run(1, io(2, 100, 1024, kData + 0x200, list)).status, 0);
  EXPECT_EQ(load(kData + 0x200), pattern(100, 0));
  for (u64 i = 0; i < 127; ++i) ASSERT_EQ(load(page_of(i) + 8), pattern(107 + 8 * i, 1)) << i;
  EXPECT_EQ(load(page_of(127)), pattern(107 + 8 * 127, 0));
  EXPECT_EQ(load(page_of(127) + 512), 0u) << "one block is left for the last page";
  EXPECT_EQ(load(page_of(5) + 4096), 0u);
  // And the other way.
  for (u64 i = 0; i < 128; ++i) fill(page_of(i), 4096, i);
  fill(kData, 4096, 999);
  EXPECT_EQ(run(1, io(1, 100, 1024, kData + 0x200, list)).status, 0);
  EXPECT_EQ(run(1, io(2, 107 + 8 * 50, 8, kData)).status, 0);
  EXPECT_TRUE(same(kData, page_of(50), 4096));
}

TEST_F(NvmeModelTest, WrongCommandsAreRefusedAndHarmNothing) {
  create_pair(1);
  Words w = io(2, 0, 8, kData);
  w.name_space = 2;
  EXPECT_EQ(run(1, w).status, 0x400B);
  EXPECT_EQ(run(1, io(2, kBlocks, 1, kData)).status, 0x4080);
  EXPECT_EQ(run(1, io(2, kBlocks - 1, 2, kData)).status, 0x4080);
  EXPECT_EQ(run(1, io(1, ~u64{0}, 2, kData)).status, 0x4080);
  EXPECT_EQ(run(1, io(8, kBlocks - 1, 2, 0)).status, 0x4080);
  EXPECT_EQ(run(1, io(2, 0, 1025, kData, kList)).status, 0x4002) << "above MDTS";
  EXPECT_EQ(run(1, io(2, 0, 1, kData + 2)).status, 0x4013);
  EXPECT_EQ(run(1, io(2, 0, 16, kData, kData + 0x1008)).status, 0x4013);
  EXPECT_EQ(run(1, io(2, 0, 32, kData, kList + 4)).status, 0x4013);
  store(kList, kData + 8);
  EXPECT_EQ(run(1, io(2, 0, 32, kData, kList)).status, 0x4013);
  // A list that leads to itself ends where the data does.
  const u64 list = kList + 4096 - 8;
  store(list, list);
  EXPECT_EQ(run(1, io(2, 0, 1024, kData, list)).status, 0x4013);
  EXPECT_EQ(run(1, io(0x7F, 0, 1, kData)).status, 0x4001);
  EXPECT_EQ(get(0x1C), 1u);
  EXPECT_EQ(load(kData), 0u);
}

TEST_F(NvmeModelTest, DataThatCannotBeReachedIsAnErrorAndAQueueIsFatal) {
  create_pair(1);
  constexpr u64 kNowhere = 0x1'0000'0000;
  for (u8 opcode : {u8{1}, u8{2}, u8{5}}) EXPECT_EQ(run(1, io(opcode, 0, 8, kNowhere)).status, 4) << int{opcode};
  EXPECT_EQ(run(1, io(2, 0, 32, kData, kNowhere)).status, 4) << "a list";
  EXPECT_EQ(result().not_done_by(Cause::Unbacked), 4u);
  EXPECT_EQ(config32(kNvmeAt, 4) >> 16 & 0x2000, 0x2000u) << "received master abort";
  EXPECT_EQ(run(1, io(2, 0, 8, kData)).status, 0);
  set_command(kNvmeAt, 2);
  submit(1, io(2, 0, 8, kData));
  ring(1);
  board->step_for(100'000);
  EXPECT_EQ(get(0x1C), 3u);
  set_command(kNvmeAt, 6);
  board->step_for(100'000);
  EXPECT_EQ(get(0x1C), 3u) << "until it is turned off and on";
  set(0x14, 0);
  turn_on();
  create_pair(1);
  EXPECT_EQ(run(1, io(2, 0, 8, kData)).status, 0);
}

TEST_F(NvmeModelTest, ThroughAnIommuAFaultIsTheCommandsAlone) {
  create_pair(1);
  root = page();
  const u64 top = page();
  map_range(top, kAdminCommands, kAdminCommands, 0x4'0000);
  map_range(top, kData, kData, 0x4000);
  map(top, kData + 0x4000, kData + 0x4000, 1, 1);  // read-only
  set_context(kNvmeAt, top, 3);
  translation_on();
  EXPECT_EQ(run(1, io(2, 0, 8, kData + 0x8000)).status, 4);
  EXPECT_EQ(run(1, io(2, 0, 8, kData + 0x4000)).status, 4) << "may not be written";
  EXPECT_EQ(run(1, io(1, 0, 8, kData + 0x4000)).status, 0);
  EXPECT_EQ(run(1, io(2, 3, 8, kData)).status, 0);
  EXPECT_EQ(load(kData + 8), load(kData + 0x4008 + 3 * 512));
  EXPECT_EQ(result().not_done_by(Cause::Faulted), 2u);
}

TEST_F(NvmeModelTest, EachQueueInterruptsByItsVectorAfterItsData) {
  create_pair(1);
  create_pair(2);
  messages.clear();
  std::vector<u64> seen;
  board->set_msi_sink([&](u64, u32 data) {
    messages.emplace_back(0, data);
    seen.push_back(load(kData + 8));
  });
  run(1, io(2, 77, 8, kData));
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].second, 0x61u);
  EXPECT_EQ(seen[0], pattern(77, 1));
  run(2, io(2, 78, 8, kData));
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1].second, 0x62u);
  run(0, {.opcode = 6, .prp1 = kIdentify, .d10 = 1});
  EXPECT_EQ(messages.back().second, 0x60u);
}

// More than the answers' queue holds: the controller waits for room, and loses none.
TEST_F(NvmeModelTest, WaitsForRoomForAnswers) {
  create_pair(1, 64, 4);
  std::vector<u16> ids;
  for (u64 i = 0; i < 40; ++i) ids.push_back(submit(1, io(2, i, 1, kData + i * 512)));
  ring(1);
  board->step_for(2'000'000);
  EXPECT_EQ(result().done, 2u + 3u) << "the queue's commands, and three answers";
  for (u64 i = 0; i < 40; ++i) {
    const Answer a = take(1);
    EXPECT_EQ(a.id, ids[i]);
    EXPECT_EQ(a.status, 0);
    EXPECT_EQ(load(kData + i * 512), pattern(i, 0));
  }
}

TEST_F(NvmeModelTest, TheDiskServesOneAfterTheOther) {
  set_up(100'000);
  turn_on();
  create_pair(1, 64, 64);
  for (u64 i = 0; i < 10; ++i) submit(1, io(2, i, 1, kData));
  const u64 done = result().done;
  ring(1);
  board->step_for(550'000);
  EXPECT_EQ(result().done - done, 5u);
  // Off in the middle of it: nothing more comes, and nothing is left over.
  set(0x14, 0);
  board->step_for(1'000'000);
  EXPECT_EQ(result().done - done, 5u);
  turn_on();
  create_pair(1);
  EXPECT_EQ(run(1, io(2, 0, 1, kData)).status, 0);
}

TEST_F(NvmeModelTest, AFunctionLevelResetTurnsItOffAndKeepsTheDisk) {
  create_pair(1);
  fill(kData, 512, 4);
  EXPECT_EQ(run(1, io(1, 5, 1, kData)).status, 0);
  set_config16(kNvmeAt, capability(kNvmeAt, 0x10) + 8, 0x8000);
  EXPECT_EQ(result().resets, 1u);
  set_config32(kNvmeAt, 0x10, static_cast<u32>(bar));
  set_config32(kNvmeAt, 0x14, static_cast<u32>(bar >> 32));
  set_command(kNvmeAt, 6);
  EXPECT_EQ(get(0x1C), 0u);
  EXPECT_EQ(get(0x14), 0u);
  EXPECT_EQ(get(0x28), 0u);
  turn_on();
  create_pair(1);
  EXPECT_EQ(run(1, io(2, 5, 1, kData + 4096)).status, 0);
  EXPECT_TRUE(same(kData, kData + 4096, 512));
}

TEST_F(NvmeModelTest, SurvivesSaveAndLoadWithCommandsUnderWay) {
  set_up(100'000);
  turn_on();
  create_pair(1);
  fill(kData, 512, 9);
  EXPECT_EQ(run(1, io(1, 4000, 1, kData)).status, 0);
  submit(1, io(2, 4000, 1, kData + 0x1000));
  submit(1, io(2, 4001, 1, kData + 0x2000));
  ring(1);
  board->step_for(10'000);
  const std::vector<std::byte> saved = board->save_registers();
  fill(kData + 0x3000, 512, 10);
  EXPECT_EQ(take(1).status, 0);
  EXPECT_EQ(take(1).status, 0);
  EXPECT_EQ(run(1, io(1, 4000, 1, kData + 0x3000)).status, 0);
  // Back: memory of the answers as it was then.
  board->load_registers(saved);
  for (u64 i = 0; i < 0x200; i += 8) store(rings[1].answers + i, 0);
  store(kData + 0x1000, 0);
  rings[1].head = 1;
  board->step_for(1'000'000);
  EXPECT_EQ(load(rings[1].answers + 16 + 8) >> 48 & 1, 1u);
  EXPECT_EQ(load(rings[1].answers + 32 + 8) >> 48 & 1, 1u);
  EXPECT_EQ(load(rings[1].answers + 48 + 8), 0u);
  EXPECT_TRUE(same(kData, kData + 0x1000, 512)) << "the disk's contents, too";
}

// On the host's clock, with one command at a time: the thread that serves it is woken up by each.
TEST_F(NvmeModelTest, WorksInRealTime) {
  set_up(0);
  turn_on();
  create_pair(1);
  board->start();
  for (u64 i = 0; i < 200; ++i) {
    submit(1, io(2, i, 8, kData));
    ring(1);
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!answered(1) && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    ASSERT_TRUE(answered(1));
    const Answer a = take(1);
    ASSERT_EQ(a.status, 0);
    ASSERT_EQ(load(kData), pattern(i, 0));
  }
  board->stop();
}

}  // namespace
}  // namespace perdure::board
