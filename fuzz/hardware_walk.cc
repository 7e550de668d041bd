#include "fuzz/hardware_walk.h"

namespace perdure::fuzz {

namespace {

constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
constexpr usize kMostLeaves = 20'000;
constexpr usize kMostPages = 20'000;

class Walk {
 public:
  explicit Walk(board::Board& board) : memory_(board.memory()), unit_(board.unit(0)) {}

  void queue() {
    const u64 iqa = unit_.read(0x90, 8);
    if ((unit_.read(0x1C, 4) >> 26 & 1) == 0) return;
    for (u64 i = 0; i < u64{1} << (iqa & 7); ++i) reach_.pages.insert((iqa & kAddress) + i * kPageSize);
  }
  void device(board::Bdf bdf) {
    if ((unit_.read(0x1C, 4) >> 31 & 1) == 0) return;  // untranslated: others ask for that
    const u64 rtaddr = unit_.read(0x20, 8);
    const bool scalable = (rtaddr >> 10 & 3) == 1;
    if ((rtaddr >> 10 & 3) == 3) return;
    const u64 root = rtaddr & kAddress;
    reach_.pages.insert(root);
    const bool upper = scalable && (bdf.devfn() & 0x80) != 0;
    u64 word = 0;
    if (!load(root + bdf.bus() * 16u + (upper ? 8 : 0), word) || (word & 1) == 0) return;
    const u64 context = word & kAddress;
    reach_.pages.insert(context);
    if (!scalable) {
      u64 low = 0;
      u64 high = 0;
      const u64 at = context + bdf.devfn() * 16u;
      if (!load(at, low) || !load(at + 8, high) || (low & 1) == 0 || (low >> 2 & 3) == 2) return;
      table(low & kAddress, static_cast<unsigned>(high & 7) + 2);
      return;
    }
    const u64 at = context + (bdf.devfn() & 0x7Fu) * 32u;
    u64 q0 = 0;
    u64 q1 = 0;
    if (!load(at, q0) || !load(at + 8, q1) || (q0 & 1) == 0) return;
    const u64 pasid = q1 & 0xF'FFFF;
    const u64 directory = (q0 & kAddress) + (pasid >> 6) * 8;
    reach_.pages.insert(align_down(directory, kPageSize));
    if (!load(directory, word) || (word & 1) == 0) return;
    const u64 entry = (word & kAddress) + (pasid & 63) * 64;
    reach_.pages.insert(align_down(entry, kPageSize));
    if (!load(entry, q0) || (q0 & 1) == 0 || (q0 >> 6 & 7) == 4) return;
    table(q0 & kAddress, static_cast<unsigned>(q0 >> 2 & 7) + 2);
  }
  Reach take() { return std::move(reach_); }

 private:
  bool load(u64 at, u64& word) { return memory_.load64(at, word); }
  void table(u64 page, unsigned level) {
    if (level == 0 || level > 5 || reach_.pages.size() > kMostPages || !reach_.pages.insert(page).second) return;
    for (u64 slot = 0; slot < 512 && reach_.leaves.size() < kMostLeaves; ++slot) {
      u64 entry = 0;
      if (!load(page + slot * 8, entry) || (entry & 3) == 0) continue;
      if (level == 1 || (entry & 0x80) != 0) {
        reach_.leaves.push_back({entry & kAddress, u64{1} << (12 + 9 * (level - 1)), (entry & 2) != 0});
      } else {
        table(entry & kAddress, level - 1);
      }
    }
  }

  board::PhysicalMemory& memory_;
  board::IommuModel& unit_;
  Reach reach_;
};

}  // namespace

Reach reach_of(board::Board& board, const std::vector<board::Bdf>& devices) {
  Walk walk(board);
  walk.queue();
  for (board::Bdf d : devices) walk.device(d);
  return walk.take();
}

}  // namespace perdure::fuzz
