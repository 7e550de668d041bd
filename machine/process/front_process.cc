#include "machine/process/front_process.h"

#include "machine/process/front_task.h"

namespace perdure::process {

FrontProcess::FrontProcess(HostFiles& files, host::HostObjects& objects, u32 tgid)
    : Object(objects), files_(files), objects_(objects), tgid_(tgid) {
  if (tgid_ == 0) return;
  if (auto opened = host::RemoteProcess::open(static_cast<pid_t>(tgid_))) memory_ = std::move(*opened);
}

bool FrontProcess::same_memory() const {
  if (ended()) return false;
  const std::scoped_lock lock(mutex_);
  return !memory_ || memory_->alive();
}

Result<void> FrontProcess::resolve(Task& via, UserAddr at, u64 length, Access access,
                                   FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  if (!same_memory()) return fail(Errno::Efault);
  return static_cast<FrontTask&>(via).resolve_of(*this, at, length, access, piece);
}

Result<void> FrontProcess::copy_in(Task& via, std::span<std::byte> to, UserAddr from) {
  if (!same_memory()) return fail(Errno::Efault);
  return static_cast<FrontTask&>(via).copy_in_of(tgid_, to, from);
}

Result<void> FrontProcess::copy_out(Task& via, UserAddr to, std::span<const std::byte> from) {
  if (!same_memory()) return fail(Errno::Efault);
  return static_cast<FrontTask&>(via).copy_out_of(tgid_, to, from);
}

u64 FrontProcess::memlock_limit(Task&) {
  rlimit now = {};
  if (tgid_ != 0 && same_memory() && prlimit(static_cast<pid_t>(tgid_), RLIMIT_MEMLOCK, nullptr, &now) == 0) {
    limit_ = now.rlim_cur;
  }
  return limit_;
}

Result<Ref<SharedMemory>> FrontProcess::remote_piece(u64 at, u64 length, host::Descriptor memory) {
  std::shared_ptr<const host::RemoteProcess> process;
  {
    const std::scoped_lock lock(mutex_);
    if (!memory_ && memory) {
      auto adopted = host::RemoteProcess::adopt(static_cast<pid_t>(tgid_), std::move(memory));
      if (!adopted) return fail(Errno::Efault);
      memory_ = std::move(*adopted);
    }
    process = memory_;
  }
  if (!process) return fail(Errno::Efault);
  return files_.memory(
      Ref<HostMemory>(Ref<host::RemoteMemory>::adopt(new host::RemoteMemory(objects_, process, at, length))));
}

}  // namespace perdure::process
