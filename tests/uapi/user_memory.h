// Memory of this program as calls may find it: at the end of what is mapped, read-only, not there.
#pragma once
#include <sys/mman.h>

#include <cstring>

#include "tests/uapi/case.h"

namespace perdure::uapi_test {

// `pages` pages, with nothing accessible behind them.
class UserMemory {
 public:
  explicit UserMemory(usize pages = 1) : bytes_(pages * kPageSize) {
    void* const at = mmap(nullptr, bytes_ + kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(static_cast<std::byte*>(at) + bytes_, kPageSize, PROT_NONE) != 0)
      Case::skip("no memory for the test");
    at_ = static_cast<std::byte*>(at);
  }
  ~UserMemory() { munmap(at_, bytes_ + kPageSize); }
  UserMemory(const UserMemory&) = delete;
  UserMemory& operator=(const UserMemory&) = delete;

  std::byte* at(usize offset = 0) const { return at_ + offset; }
  usize size() const { return bytes_; }
  // The first byte that cannot be accessed.
  std::byte* beyond() const { return at_ + bytes_; }
  // `object` as the last bytes that can be accessed.
  template <class T>
  T* put_at_end(const T& object) const {
    return put(object, bytes_ - sizeof object);
  }
  template <class T>
  T* put(const T& object, usize offset = 0) const {
    std::memcpy(at(offset), &object, sizeof object);
    return reinterpret_cast<T*>(at(offset));
  }
  void protect(int protection) const { mprotect(at_, bytes_, protection); }
  void read_only() const { protect(PROT_READ); }
  void read_write() const { protect(PROT_READ | PROT_WRITE); }

 private:
  std::byte* at_ = nullptr;
  usize bytes_;
};

}  // namespace perdure::uapi_test
