#include "machine/process/window.h"

#include <sys/mman.h>

#include <utility>

#include "machine/host/host_files.h"

namespace perdure::process {

namespace {
constexpr int kNothing = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
}

Result<Window> Window::reserve(unsigned log2) {
  void* at = mmap(nullptr, usize{1} << log2, PROT_NONE, kNothing, -1, 0);
  if (at == MAP_FAILED) return fail(host::last_error());
  Window w;
  w.base_ = static_cast<std::byte*>(at);
  w.log2_ = log2;
  return w;
}

Window::Window(Window&& o) noexcept : base_(std::exchange(o.base_, nullptr)), log2_(o.log2_) {}

Window& Window::operator=(Window&& o) noexcept {
  std::swap(base_, o.base_);
  std::swap(log2_, o.log2_);
  return *this;
}

Window::~Window() {
  if (base_) munmap(base_, bytes());
}

Result<void> Window::map(u64 at, u64 length, int fd, u64 offset) {
  if (at > bytes() || length > bytes() - at) return fail(Errno::Erange);
  void* mapped = mmap(base_ + at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
                      static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return fail(host::last_error());
  return {};
}

void Window::unmap(u64 at, u64 length) {
  mmap(base_ + at, length, PROT_NONE, kNothing | MAP_FIXED, -1, 0);
}

void Window::revoke() {
  if (base_) unmap(0, bytes());
}

}  // namespace perdure::process
