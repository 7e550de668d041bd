// What a scenario runs with: system calls, somebody to tell what it means, and a place for words.
#pragma once
#include <string_view>

#include "client/syscalls.h"

namespace perdure::scenarios {

// What a device shall find at [iova, iova + length).
struct Intended {
  u32 device = 0;  // the scenario's number for it
  u64 iova = 0;
  u64 length = 0;
  u64 memory_id = 0;  // Syscalls::memory_id()
  u64 offset = 0;
};

class Witness {
 public:
  // For a ledger, where there is one.
  virtual void intend(const Intended& intended) = 0;
  // What did not work; `what` names the step.
  virtual void problem(std::string_view what, Errno why) = 0;

 protected:
  ~Witness() = default;
};

struct Context {
  client::Syscalls& sys;
  Witness& witness;
};

// Says which step failed, and passes the error on.
template <class T>
Result<T> told(Context& context, std::string_view what, Result<T> result) {
  if (!result) context.witness.problem(what, result.error());
  return result;
}

}  // namespace perdure::scenarios
