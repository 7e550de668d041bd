// The kernel's questions about the program whose system call it serves.
#pragma once
#include "machine/intercept/answers.h"
#include "machine/intercept/eventfds.h"
#include "machine/intercept/kernel_link.h"
#include "machine/intercept/registry.h"
#include "machine/intercept/target.h"

namespace perdure::intercept {

class TaskQuestions final : public Questions {
 public:
  TaskQuestions(Answers& answers, Registry& registry, EventFds& events, const SystemCall& call, const Target& target)
      : answers_(answers), registry_(registry), events_(events), call_(call), target_(target) {}

  Result<wire::Reply> answer(wire::Message& question) override;

 private:
  Result<wire::Reply> copy_in(u64 at, u64 bytes) const;
  Result<wire::Reply> descriptor(s32 fd) const;
  Result<wire::Reply> resolve(u64 at, u64 bytes, u64 access) const;
  Result<wire::Reply> own_mapping(u64 at, u64 access) const;
  Result<wire::Reply> install(wire::Message& question);

  Answers& answers_;
  Registry& registry_;
  EventFds& events_;
  const SystemCall& call_;
  const Target& target_;
};

}  // namespace perdure::intercept
