// One connection of the library that is preloaded into programs: their calls, one at a time (machine/agent).
#pragma once
#include <linux/filter.h>
#include <sys/types.h>

#include <span>

#include "machine/agent/protocol.h"
#include "machine/host/descriptor.h"
#include "machine/intercept/answers.h"
#include "machine/intercept/processes.h"

namespace perdure::intercept {

class AgentCaller final : public Answers {
 public:
  // `filter`: what the library is to show.
  AgentCaller(host::Descriptor socket, Processes& processes, std::span<const sock_filter> filter);

  // Blocks for the next call. Ekilled: nobody will call here any more; Eproto.
  Result<SystemCall> receive();

  bool waits(const SystemCall& call) const override;
  void resume(const SystemCall& call) override;
  void answer(const SystemCall& call, s64 value) override;
  void refuse(const SystemCall& call, Errno error) override;
  using Answers::add_fd;
  Result<s32> add_fd(const SystemCall& call, int fd, bool cloexec, s32 at) override;

 private:
  Result<void> say(const agent::Word& word, std::span<const std::byte> more = {}, int fd = -1) const;
  Result<agent::Word> hear() const;
  s32 thread_of(s32 said);

  host::Descriptor socket_;
  Processes& processes_;
  std::span<const sock_filter> filter_;
  pid_t process_ = 0;  // that connected, as this process sees it
  u64 calls_ = 0;
};

}  // namespace perdure::intercept
