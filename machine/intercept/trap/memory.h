// What an emulated instruction reads and writes: registers of devices and ordinary memory of the program, by address.
#pragma once
#include <span>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::intercept {

class Memory {
 public:
  // 1 to 64 bytes. Efault: nothing there, or not accessible so (the program gets SIGSEGV); any other error: a
  // device's registers that do not answer (SIGBUS).
  virtual Result<void> read(u64 address, std::span<std::byte> to) = 0;
  virtual Result<void> write(u64 address, std::span<const std::byte> from) = 0;

 protected:
  ~Memory() = default;
};

// Calls `access(offset, bytes, done)` for each naturally aligned piece of 8, 4, 2 or 1 bytes of [at, at + bytes), in
// ascending order: what a bus makes of an access that is wider than it, or not aligned.
template <class Access>
Result<void> in_bus_accesses(u64 at, usize bytes, const Access& access) {
  for (usize done = 0; done < bytes;) {
    usize width = 8;
    while ((at + done) % width != 0 || width > bytes - done) width /= 2;
    TRY(access(at + done, width, done));
    done += width;
  }
  return {};
}

}  // namespace perdure::intercept
