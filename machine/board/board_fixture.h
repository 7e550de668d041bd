// For the board's tests: a machine, a program's memory, and a driver of a few lines. Register offsets and table entries
// are numbers here, not the board's own names: a test that shared them would share their mistakes.
#pragma once
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "core/base/hw.h"
#include "machine/board/board.h"

namespace perdure::board::testing {

// A program's shared memory.
class GuestFile {
 public:
  explicit GuestFile(u64 bytes) : fd_(memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) != 0) ADD_FAILURE() << "memfd";
  }
  ~GuestFile() {
    if (fd_ >= 0) close(fd_);
  }
  GuestFile(const GuestFile&) = delete;
  GuestFile& operator=(const GuestFile&) = delete;
  int fd() const { return fd_; }
  u64 id() const { return *host_file_id(fd_); }
  u64 word(u64 offset) const {
    u64 w = 0;
    EXPECT_EQ(pread(fd_, &w, 8, static_cast<off_t>(offset)), 8);
    return w;
  }
  void set_word(u64 offset, u64 w) { EXPECT_EQ(pwrite(fd_, &w, 8, static_cast<off_t>(offset)), 8); }

 private:
  int fd_;
};

inline constexpr Bdf kStreamerAt{0, 2, 0};
inline constexpr Bdf kEduAt{0, 3, 0};
inline constexpr Bdf kPortAt{0, 4, 0};
inline constexpr Bdf kBelowAt{1, 0, 0};

// RAM 64 MiB; streamer, edu, a root port with another streamer below it; one unit for all.
inline BoardConfig small_machine() {
  BoardConfig c;
  c.ram_bytes = u64{64} << 20;
  DeviceConfig streamer;
  streamer.kind = DeviceKind::Streamer;
  streamer.bdf = kStreamerAt;
  DeviceConfig edu;
  edu.kind = DeviceKind::Edu;
  edu.bdf = kEduAt;
  DeviceConfig port;
  port.kind = DeviceKind::Bridge;
  port.bdf = kPortAt;
  DeviceConfig below = streamer;
  below.bdf = kBelowAt;
  c.devices = {streamer, edu, port, below};
  return c;
}

class BoardTest : public ::testing::Test {
 protected:
  static constexpr u64 kUnit = 0xFED9'0000;
  static constexpr u64 kEcam = 0xB000'0000;
  static constexpr u64 kReadWrite = 3;
  static constexpr u32 kTe = u32{1} << 31;

  void build(const BoardConfig& config = small_machine()) {
    board = std::make_unique<Board>(config);
    board->set_msi_sink([this](u64 address, u32 data) {
      const std::scoped_lock guard(messages_mutex);
      messages.emplace_back(address, data);
    });
  }

  // --- registers -----------------------------------------------------------------------------------------------------
  u32 read32(u64 at) { return static_cast<u32>(board->mmio_read(Phys(at), Width::W32)); }
  u64 read64(u64 at) { return board->mmio_read(Phys(at), Width::W64); }
  void write32(u64 at, u32 v) { board->mmio_write(Phys(at), Width::W32, v); }
  void write64(u64 at, u64 v) { board->mmio_write(Phys(at), Width::W64, v); }
  static u64 config_at(Bdf bdf, unsigned offset) { return kEcam + (u64{bdf.value} << 12) + offset; }
  u32 config32(Bdf bdf, unsigned offset) { return read32(config_at(bdf, offset)); }
  void set_config32(Bdf bdf, unsigned offset, u32 v) { write32(config_at(bdf, offset), v); }
  void set_config16(Bdf bdf, unsigned offset, u16 v) { board->mmio_write(Phys(config_at(bdf, offset)), Width::W16, v); }
  u64 bar64(Bdf bdf, unsigned offset = 0x10) {
    return (config32(bdf, offset) & ~0xFu) | u64{config32(bdf, offset + 4)} << 32;
  }
  void set_command(Bdf bdf, u16 command) { set_config16(bdf, 4, command); }
  // Where a capability is; 0: none.
  unsigned capability(Bdf bdf, u8 id) {
    unsigned at = config32(bdf, 0x34) & 0xFC;
    for (int n = 0; at != 0 && n < 48; ++n) {
      const u32 head = config32(bdf, at);
      if ((head & 0xFF) == id) return at;
      at = head >> 8 & 0xFC;
    }
    return 0;
  }

  // --- tables in RAM, legacy mode, four levels -----------------------------------------------------------------------
  u64 page() {
    const u64 p = next_page;
    next_page += 4096;
    return p;
  }
  u64 load(u64 phys) {
    u64 w = 0;
    EXPECT_TRUE(board->memory().load64(phys, w));
    return w;
  }
  void store(u64 phys, u64 w) { hw::store(reinterpret_cast<u64*>(board->direct_map() + phys), w); }
  void set_context(Bdf bdf, u64 top, u16 did) {
    if (root == 0) root = page();
    const u64 slot = root + u64{bdf.bus()} * 16;
    if ((load(slot) & 1) == 0) store(slot, page() | 1);
    const u64 at = (load(slot) & ~u64{0xFFF}) + u64{bdf.devfn()} * 16;
    store(at + 8, 2 | u64{did} << 8);
    store(at, top | 1);
  }
  u64 entry_at(u64 top, u64 iova, unsigned level) {
    u64 table = top;
    for (unsigned l = 4; l > level; --l) {
      const u64 slot = table + ((iova >> (12 + 9 * (l - 1))) & 0x1FF) * 8;
      if ((load(slot) & 3) == 0) store(slot, page() | 3);
      table = load(slot) & 0x000F'FFFF'FFFF'F000;
    }
    return table + ((iova >> (12 + 9 * (level - 1))) & 0x1FF) * 8;
  }
  // level 1: 4 KiB, 2: 2 MiB, 3: 1 GiB.
  void map(u64 top, u64 iova, u64 phys, unsigned level = 1, u64 permission = kReadWrite) {
    store(entry_at(top, iova, level), phys | permission | (level > 1 ? 0x80 : 0));
  }
  void map_range(u64 top, u64 iova, u64 phys, u64 length) {
    for (u64 done = 0; done < length;) {
      unsigned level = 3;
      while (level > 1 && (((iova + done) | (phys + done)) & ((u64{1} << (12 + 9 * (level - 1))) - 1) ||
                           length - done < u64{1} << (12 + 9 * (level - 1)))) {
        --level;
      }
      map(top, iova + done, phys + done, level);
      done += u64{1} << (12 + 9 * (level - 1));
    }
  }
  void translation_on() {
    write64(kUnit + 0x20, root);
    write32(kUnit + 0x18, u32{1} << 30);
    EXPECT_NE(read32(kUnit + 0x1C) & u32{1} << 30, 0u);
    write32(kUnit + 0x18, kTe);
    EXPECT_NE(read32(kUnit + 0x1C) & kTe, 0u);
  }
  // All caches, by registers.
  void flush_all() {
    write64(kUnit + 0x28, u64{1} << 63 | u64{1} << 61);
    write64(kUnit + 0xF0 + 8, u64{1} << 63 | u64{1} << 60);
  }

  // --- the streamer --------------------------------------------------------------------------------------------------
  static constexpr u64 kIova = 0x40'0000'0000;
  struct Plan {
    u64 base = kIova;
    u64 length = u64{16} << 20;
    u64 slots = 4096;
    u64 seed = 7;
    u64 rate = 100'000;
    bool read = false;
    u64 source = 0;
    u64 irq_every = 0;
  };
  u64 ring_at(Bdf bdf, unsigned ring) { return bar64(bdf) + 0x1000 + 0x100 * ring; }
  void start_ring(Bdf bdf, unsigned ring, const Plan& p) {
    const u64 r = ring_at(bdf, ring);
    write64(r + 0x10, p.base);
    write64(r + 0x18, p.length);
    write64(r + 0x20, p.slots);
    write64(r + 0x28, p.seed);
    write64(r + 0x30, p.rate);
    write64(r + 0x38, p.irq_every);
    write64(r + 0x40, p.source);
    write64(r, 1 | (p.read ? 2 : 0) | (p.irq_every != 0 ? 4 : 0));
    EXPECT_EQ(read64(r + 0x08) & 3, 1u) << "not running, or configuration refused";
  }
  void stop_ring(Bdf bdf, unsigned ring) { write64(ring_at(bdf, ring), 0); }
  u64 slot_iova(Bdf bdf, unsigned ring, u64 slot) {
    write64(ring_at(bdf, ring) + 0x48, slot);
    return read64(ring_at(bdf, ring) + 0x50);
  }
  // A guest of 16 MiB, mapped for `bdf` at kIova and declared; translation on; bus mastering on.
  void stream_setup(Bdf bdf = kStreamerAt, u64 bytes = u64{16} << 20) {
    guest = std::make_unique<GuestFile>(bytes);
    bank = *board->bank_attach(guest->fd(), 0, bytes);
    guest_top = page();
    map_range(guest_top, kIova, bank.base.value, bytes);
    set_context(bdf, guest_top, 5);
    translation_on();
    set_command(bdf, 0x6);
    ASSERT_TRUE(board->declare(bdf, {kIova, bytes, guest->id(), 0, IntentAccess::ReadWrite}));
  }
  PhaseResult now(const AuditReport& report, Bdf bdf) {
    for (const DeviceResult& d : report.devices) {
      if (d.bdf == bdf) return d.in(board->phase());
    }
    ADD_FAILURE() << "no such device in the report";
    return {};
  }

  std::unique_ptr<Board> board;
  std::mutex messages_mutex;
  std::vector<std::pair<u64, u32>> messages;
  u64 next_page = 0x20'0000;
  u64 root = 0;
  u64 guest_top = 0;
  std::unique_ptr<GuestFile> guest;
  Bank bank;
};

}  // namespace perdure::board::testing
