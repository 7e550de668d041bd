// What a kernel has of the board, whichever way it talks to it: calls in one process, a mailbox and a socket between
// two.
#pragma once
#include <vector>

#include "core/base/machine.h"
#include "machine/host/descriptor.h"
#include "machine/host/remote_memory.h"

namespace perdure::process {

struct RamPiece {
  u64 base = 0;
  u64 length = 0;
  u64 offset = 0;  // in the RAM's file
};

struct PortedBank {
  Bank bank;
  host::Descriptor fd;
};

class BoardPort {
 public:
  virtual ~BoardPort() = default;
  virtual unsigned window_log2() = 0;
  // The file behind RAM, and where its pieces stand.
  virtual Result<host::Descriptor> ram(std::vector<RamPiece>& pieces) = 0;
  virtual Result<std::vector<PortedBank>> banks() = 0;
  virtual Result<Bank> bank_attach(int fd, u64 offset, u64 length) = 0;
  // Of a process's memory; it can be reached by devices alone.
  virtual Result<Bank> bank_attach(const host::RemoteMemory& memory) = 0;
  virtual void bank_detach(const Bank& bank) = 0;

  // A BAR that is memory: see PciBus::move_memory().
  virtual Result<void> move_memory_bar(Phys at, int fd, u64 offset) = 0;

  virtual u64 mmio_read(Phys at, Width width) = 0;
  virtual void mmio_write(Phys at, Width width, u64 value) = 0;
  virtual void write_back(Phys at, u64 bytes) = 0;
  virtual u64 now_ns() = 0;
  virtual void relax() = 0;
};

}  // namespace perdure::process
