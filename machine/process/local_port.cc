#include "machine/process/local_port.h"

#include <fcntl.h>
#include <sched.h>

#include "machine/host/host_files.h"

namespace perdure::process {

Result<host::Descriptor> LocalPort::ram(std::vector<RamPiece>& pieces) {
  u64 offset = 0;
  for (const board::PhysRange& range : board_.memory().ram()) {
    pieces.push_back({range.base, range.length, offset});
    offset += range.length;
  }
  host::Descriptor fd(fcntl(board_.memory().ram_fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return fail(host::last_error());
  return fd;
}

Result<std::vector<PortedBank>> LocalPort::banks() {
  std::vector<PortedBank> all;
  for (const Bank& bank : board_.memory().banks()) {
    all.push_back({ bank, host::Descriptor(TRY(board_.bank_fd(bank.host_id))) });
  }
  return all;
}

u64 LocalPort::mmio_read(Phys at, Width width) {
  return steps_ ? steps_->mmio_read(at, width) : board_.mmio_read(at, width);
}

void LocalPort::mmio_write(Phys at, Width width, u64 value) {
  if (steps_) {
    steps_->mmio_write(at, width, value);
  } else {
    board_.mmio_write(at, width, value);
  }
}

void LocalPort::relax() {
  if (board_.running()) {
    sched_yield();
  } else {
    board_.step();
  }
}

}  // namespace perdure::process
