// A process whose programs' calls come through a front end.
#pragma once
#include <sys/resource.h>

#include <memory>
#include <mutex>

#include "core/file/host_files.h"
#include "core/file/process.h"
#include "machine/host/remote_memory.h"

namespace perdure::process {

class FrontTask;

class FrontProcess final : public Process, private host::HostObjects::Object {
 public:
  // `tgid`: of the host; 0: not known, and its memory is asked for.
  FrontProcess(HostFiles& files, host::HostObjects& objects, u32 tgid);
  u32 tgid() const { return tgid_; }
  // False: it ended, or runs another program in fresh memory.
  bool same_memory() const;
  // Its memory must not be looked for under its number any more.
  void end() { ended_.store(true, std::memory_order_release); }

  Result<void> resolve(Task& via, UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override;
  Result<void> copy_in(Task& via, std::span<std::byte> to, UserAddr from) override;
  Result<void> copy_out(Task& via, UserAddr to, std::span<const std::byte> from) override;
  u64 memlock_limit(Task& via) override;

 private:
  friend class FrontTask;
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // What Resolve said; `memory`: /proc/<tgid>/mem, if somebody opened it for us.
  Result<Ref<SharedMemory>> remote_piece(u64 at, u64 length, host::Descriptor memory);

  HostFiles& files_;
  host::HostObjects& objects_;
  const u32 tgid_;
  std::atomic<bool> ended_{false};
  std::atomic<u64> limit_{RLIM_INFINITY};
  mutable std::mutex mutex_;
  std::shared_ptr<const host::RemoteProcess> memory_;  // null: it cannot be opened from here
};

}  // namespace perdure::process
