// A port to a board in the same process.
#pragma once
#include "machine/board/board.h"
#include "machine/process/board_port.h"
#include "machine/process/board_steps.h"
#include "machine/process/process_bank.h"

namespace perdure::process {

class LocalPort final : public BoardPort {
 public:
  // `steps`: register accesses go through it; null where hardware runs by itself.
  explicit LocalPort(board::Board& board, BoardSteps* steps = nullptr) : board_(board), steps_(steps) {}

  unsigned window_log2() override { return board_.memory().window_log2(); }
  Result<host::Descriptor> ram(std::vector<RamPiece>& pieces) override;
  Result<std::vector<PortedBank>> banks() override;
  Result<Bank> bank_attach(const host::RemoteMemory& memory) override {
    return board_.bank_attach_foreign(TRY(ProcessBank::create(memory.shared_process(), memory.address())),
                                      memory.size(), memory.id());
  }
  Result<Bank> bank_attach(int fd, u64 offset, u64 length) override { return board_.bank_attach(fd, offset, length); }
  void bank_detach(const Bank& bank) override { (void)board_.bank_detach(bank); }
  Result<void> move_memory_bar(Phys at, int fd, u64 offset) override { return board_.move_memory_bar(at, fd, offset); }
  u64 mmio_read(Phys at, Width width) override;
  void mmio_write(Phys at, Width width, u64 value) override;
  void write_back(Phys at, u64 bytes) override { board_.write_back(at, bytes); }
  u64 now_ns() override { return board_.now_ns(); }
  void relax() override;

 private:
  board::Board& board_;
  BoardSteps* const steps_;
};

}  // namespace perdure::process
