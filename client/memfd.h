// Shared memory of a program, and a window into it.
#pragma once
#include "client/fd.h"

namespace perdure::client {

// A stretch of a memfd in the program's memory.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Syscalls& sys, std::byte* at, u64 length) : sys_(&sys), at_(at), length_(length) {}
  Mapping(Mapping&& o) noexcept : sys_(o.sys_), at_(std::exchange(o.at_, nullptr)), length_(o.length_) {}
  Mapping& operator=(Mapping&& o) noexcept {
    std::swap(sys_, o.sys_);
    std::swap(at_, o.at_);
    std::swap(length_, o.length_);
    return *this;
  }
  ~Mapping() {
    if (at_) (void)sys_->munmap(at_, length_);
  }
  template <class T = std::byte>
  T* at(u64 offset = 0) const {
    return reinterpret_cast<T*>(at_ + offset);
  }
  u64 length() const { return length_; }
  // The kernel ends it, as at kexec: nothing is unmapped.
  void release() { at_ = nullptr; }

 private:
  Syscalls* sys_ = nullptr;
  std::byte* at_ = nullptr;
  u64 length_ = 0;
};

class Memfd {
 public:
  static constexpr u32 kSealSeal = 1, kSealShrink = 2, kSealGrow = 4;
  // What memory must carry when it is mapped for a device that is to be preserved.
  static constexpr u32 kSealsForUpdate = kSealSeal | kSealShrink | kSealGrow;

  Memfd() = default;
  explicit Memfd(Fd fd) : fd_(std::move(fd)) {}
  // Sparse memory of `bytes`, then sealed.
  static Result<Memfd> create(Syscalls& sys, std::string_view name, u64 bytes, u32 seals = kSealsForUpdate) {
    const s32 number = TRY(sys.memfd_create(name));
    Memfd m(Fd(sys, number));
    TRY(sys.ftruncate(m.number(), bytes));
    if (seals != 0) TRY(sys.add_seals(m.number(), seals));
    return m;
  }
  Result<Mapping> map(u64 offset, u64 length) const {
    return Mapping(fd_.sys(), TRY(fd_.sys().mmap(number(), offset, length)), length);
  }
  Result<u64> size() const { return fd_.sys().file_size(number()); }
  Result<u64> id() const { return fd_.sys().memory_id(number()); }
  s32 number() const { return fd_.number(); }
  Fd& fd() { return fd_; }

 private:
  Fd fd_;
};

}  // namespace perdure::client
