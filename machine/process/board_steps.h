// Every point where hardware may act while a kernel runs in one process with its board: stores that hardware may look
// at, allocations and register accesses. The board is stepped at each, all are counted, and at each something may go
// wrong: that is what sweeps are made of.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <optional>

#include "machine/board/board.h"

namespace perdure::process {

// What a register access meets instead of the register.
enum class Silence : u8 {
  Lost,   // this once: a write does not arrive, a read shows what the register held when it was last read
  Ones,   // this once: nobody answers
  Stuck,  // this register, from now on: as Lost; a command written to it is never acknowledged
  Dead,   // everything in its page, from now on: as Ones
};

class BoardSteps final : public StepHook {
 public:
  explicit BoardSteps(board::Board& board) : board_(board) {}

  void stored(Phys at) override;
  bool may_allocate() override;
  u64 mmio_read(Phys at, Width width);
  void mmio_write(Phys at, Width width, u64 value);

  std::atomic<u64> stores{0};
  std::atomic<u64> allocations{0};
  std::atomic<u64> accesses{0};  // of registers
  // Numbers count from 1; 0: none.
  std::atomic<u64> fail_at{0};  // this allocation fails
  bool step = true;             // false: count and fail only

  // The register access of this number meets silence.
  void silence(u64 access, Silence how) { silence_ = {access, how}; }
  // Hardware is well again.
  void heal();

  // `stop` is called right after this store or access took effect, as the last thing the CPU does; it must not return.
  // Register accesses and stores count together: `deeds`.
  std::atomic<u64> deeds{0};
  void stop_after(u64 deed, std::function<void()> stop);

  // Told of every register access before it happens.
  std::function<void(Phys at, bool write)> witness;

 private:
  bool silent(Phys at) const;
  void done();

  board::Board& board_;
  struct {
    u64 access = 0;
    Silence how{};
  } silence_;
  std::optional<u64> stuck_;  // register
  std::optional<u64> dead_;   // page
  std::map<u64, u64> held_;   // what each register held when it was last read
  u64 stop_after_ = 0;
  std::function<void()> stop_;
};

}  // namespace perdure::process
