// A kernel's view of the physical address space: a reserved stretch of virtual addresses in which RAM and banks stand
// at window base + physical address. Every kernel has its own; when it is gone, so is the view.
#pragma once
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::process {

class Window {
 public:
  // 2^log2 bytes, nothing accessible. Enomem.
  static Result<Window> reserve(unsigned log2);
  Window() = default;
  Window(Window&& o) noexcept;
  Window& operator=(Window&& o) noexcept;
  ~Window();

  std::byte* base() const { return base_; }
  u64 bytes() const { return base_ ? u64{1} << log2_ : 0; }
  // The file's bytes from `offset` at physical `at`. Multiples of the page size.
  Result<void> map(u64 at, u64 length, int fd, u64 offset);
  void unmap(u64 at, u64 length);
  // Nothing is accessible any more: whoever still uses an address of this view faults.
  void revoke();

 private:
  std::byte* base_ = nullptr;
  unsigned log2_ = 0;
};

}  // namespace perdure::process
