// A program for tests of file objects: a stretch of memory and a table of descriptors.
#pragma once
#include <cstring>
#include <map>
#include <vector>

#include "core/file/host_files.h"
#include "core/file/task.h"

namespace perdure::test {

class TestTask final : public Task {
 public:
  static constexpr UserAddr kMemory{0x10000};
  static constexpr u64 kBytes = 0x10000;

  TestTask() : bytes_(kBytes) {}
  ~TestTask() { abandon(); }

  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override {
    if (!valid(from, to.size())) return fail(Errno::Efault);
    std::memcpy(to.data(), at(from), to.size());
    return {};
  }
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override {
    if (!valid(to, from.size()) || to < writable_from) return fail(Errno::Efault);
    std::memcpy(at(to), from.data(), from.size());
    return {};
  }
  Result<void> resolve(UserAddr, u64, Access, FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)>) override {
    return fail(Errno::Efault);
  }
  Result<Ref<File>> file(s32 fd) override {
    const auto found = files.find(fd);
    if (found == files.end() || !found->second) return fail(Errno::Ebadf);
    return found->second;
  }
  Result<s32> reserve_fd() override {
    if (fds_left == 0) return fail(Errno::Emfile);
    --fds_left;
    return next_fd_++;
  }
  void install_fd(s32 fd, Ref<File> file) override { files[fd] = std::move(file); }
  void release_fd(s32) override { ++fds_left; }
  const Creds& creds() const override { return creds_; }
  Result<Ref<Process>> process() override { return fail(Errno::Enosys); }

  // A structure at the start of memory, with the caller's idea of its size in its first word.
  template <class T>
  UserAddr put(const T& value, u64 offset = 0) {
    std::memcpy(at(kMemory + offset), &value, sizeof value);
    return kMemory + offset;
  }
  template <class T>
  T get(u64 offset = 0) {
    T value;
    std::memcpy(&value, at(kMemory + offset), sizeof value);
    return value;
  }
  std::byte* at(UserAddr a) { return bytes_.data() + (a - kMemory); }
  s32 open(Ref<File> file) {
    files[next_fd_] = std::move(file);
    return next_fd_++;
  }
  // The last reference goes after the table has forgotten it.
  void close(s32 fd) {
    const Ref<File> last = std::move(files[fd]);
    files.erase(fd);
  }
  void close_all() {
    while (!files.empty()) close(files.begin()->first);
  }
  // The kernel behind the files is gone.
  void abandon() {
    for (auto& [fd, file] : files) (void)file.release();
    files.clear();
  }

  std::map<s32, Ref<File>> files;
  u32 fds_left = 1 << 20;
  UserAddr writable_from;  // memory below cannot be written

 private:
  bool valid(UserAddr a, u64 bytes) const {
    return a >= kMemory && a - kMemory <= kBytes && bytes <= kBytes - (a - kMemory);
  }
  std::vector<std::byte> bytes_;
  s32 next_fd_ = 3;
  Creds creds_;
};

}  // namespace perdure::test
