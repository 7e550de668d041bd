// A stretch of a process's memory on the board's bus.
#pragma once
#include <map>
#include <memory>
#include <mutex>

#include "machine/board/foreign_memory.h"
#include "machine/host/remote_process.h"

namespace perdure::process {

// What the process has there now is reached, if as far as can be told it is still what it had when the address was
// given: a page that is gone, or another file's in its place, is an access that fails. (Linux pins the page itself;
// docs/limits.md.)
class ProcessBank final : public board::ForeignMemory {
 public:
  // Efault: nothing is there.
  static Result<std::shared_ptr<ProcessBank>> create(std::shared_ptr<const host::RemoteProcess> process, u64 address);

  bool read(u64 offset, std::span<std::byte> to) override;
  bool write(u64 offset, std::span<const std::byte> from) override;

 private:
  ProcessBank(std::shared_ptr<const host::RemoteProcess> process, u64 address, const host::MappedRange& range)
      : process_(std::move(process)), address_(address), then_(range) {}
  bool unchanged(u64 at, u64 bytes) const;
  const std::shared_ptr<const host::RemoteProcess> process_;
  const u64 address_;
  const host::MappedRange then_;
};

// The processes of one kernel's banks, by the number that it gives them: thousands of banks share their open files.
class BankProcesses {
 public:
  // Einval: `memory` is not this process's.
  Result<std::shared_ptr<const host::RemoteProcess>> find(u64 number, pid_t process, host::Descriptor memory);
  void clear();

 private:
  std::mutex mutex_;
  std::map<u64, std::weak_ptr<const host::RemoteProcess>> known_;
};

}  // namespace perdure::process
