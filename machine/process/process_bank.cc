#include "machine/process/process_bank.h"

#include <algorithm>

namespace perdure::process {

Result<std::shared_ptr<ProcessBank>> ProcessBank::create(std::shared_ptr<const host::RemoteProcess> process,
                                                         u64 address) {
  const auto range = process->mapped_at(address);
  if (!range) return fail(Errno::Efault);
  return std::shared_ptr<ProcessBank>(new ProcessBank(std::move(process), address, *range));
}

bool ProcessBank::unchanged(u64 at, u64 bytes) const {
  while (bytes != 0) {
    const auto now = process_->mapped_at(at);
    if (!now || !now->same_place(then_, at)) return false;
    const u64 here = std::min(bytes, now->end - at);
    at += here;
    bytes -= here;
  }
  return true;
}

bool ProcessBank::read(u64 offset, std::span<std::byte> to) {
  return unchanged(address_ + offset, to.size()) && process_->read(address_ + offset, to);
}

bool ProcessBank::write(u64 offset, std::span<const std::byte> from) {
  return unchanged(address_ + offset, from.size()) && process_->write(address_ + offset, from);
}

Result<std::shared_ptr<const host::RemoteProcess>> BankProcesses::find(u64 number, pid_t process,
                                                                       host::Descriptor memory) {
  const std::scoped_lock lock(mutex_);
  auto& known = known_[number];
  if (auto there = known.lock()) return there;
  std::shared_ptr<const host::RemoteProcess> adopted = TRY(host::RemoteProcess::adopt(process, std::move(memory)));
  known = adopted;
  std::erase_if(known_, [](const auto& one) { return one.second.expired(); });
  return adopted;
}

void BankProcesses::clear() {
  const std::scoped_lock lock(mutex_);
  known_.clear();
}

}  // namespace perdure::process
