// A program, as system calls see it: memory at made-up addresses, descriptors, shared memory that it has mapped.
#pragma once
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "core/file/shared_memory.h"
#include "core/file/task.h"

namespace perdure::test {

// The process of a FakeTask, which may outlive it: Efault then.
class FakeProcess final : public Process {
 public:
  static Ref<FakeProcess> create(Task& task) {
    auto* made = ::new FakeProcess(task);
    // An abandoned kernel's references are never given back: that is no leak to report.
    static auto& all = *new std::vector<FakeProcess*>;
    static std::mutex mutex;
    const std::scoped_lock lock(mutex);
    all.push_back(made);
    return Ref<FakeProcess>::adopt(made);
  }
  void end() { task_ = nullptr; }
  Result<void> resolve(Task&, UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override {
    return task_ ? task_->resolve(at, length, access, piece) : fail(Errno::Efault);
  }
  Result<void> copy_in(Task&, std::span<std::byte> to, UserAddr from) override {
    return task_ ? task_->copy_in(to, from) : fail(Errno::Efault);
  }
  Result<void> copy_out(Task&, UserAddr to, std::span<const std::byte> from) override {
    return task_ ? task_->copy_out(to, from) : fail(Errno::Efault);
  }
  u64 memlock_limit(Task&) override { return limit; }

  u64 limit = ~u64{0};

 private:
  explicit FakeProcess(Task& task) : task_(&task) {}
  void dispose() override { ::delete this; }
  Task* task_;
};

class FakeTask : public Task {
 public:
  virtual ~FakeTask() { end_process(); }
  using Task::copy_in;
  using Task::copy_out;

  // --- memory -------------------------------------------------------------------------------------------------
  // `bytes` of zeroed memory; each call's is followed by a hole.
  UserAddr allocate(u64 bytes, bool writable = true) {
    const u64 at = next_;
    next_ = align_up(next_ + bytes, kPageSize) + kPageSize;
    private_[at] = {std::vector<std::byte>(bytes), writable};
    return UserAddr(at);
  }
  // The last byte of what this returns is the last one before a hole.
  UserAddr allocate_before_hole(u64 bytes, bool writable = true) {
    const u64 whole = align_up(bytes, kPageSize);
    return allocate(whole, writable) + (whole - bytes);
  }
  template <class T>
  UserAddr put(const T& value) {
    const UserAddr at = allocate(sizeof(T));
    poke(at, value);
    return at;
  }
  template <class T>
  void poke(UserAddr at, const T& value) {
    std::memcpy(find(at, sizeof(T), false), &value, sizeof(T));
  }
  template <class T>
  T peek(UserAddr at) {
    T value;
    std::memcpy(&value, find(at, sizeof(T), false), sizeof(T));
    return value;
  }
  void set_writable(UserAddr start, bool writable) { private_.at(start.value).writable = writable; }
  // [at, at + length) is a mapping of `memory` from `offset` on.
  void map_shared(UserAddr at, u64 length, Ref<SharedMemory> memory, u64 offset, bool writable = true) {
    shared_[at.value] = {length, std::move(memory), offset, writable};
  }

  // The same of one of our own files, which resolve() does not find.
  void map_own(UserAddr at, u64 length, Ref<File> file, u64 offset) {
    own_[at.value] = {length, std::move(file), offset};
  }

  // The end of the program: mappings, then descriptors.
  void exit() {
    shared_.clear();
    own_.clear();
    files.clear();
  }

  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override {
    if (to.empty()) return {};
    const std::byte* at = find(from, to.size(), false);
    if (!at) return fail(Errno::Efault);
    std::memcpy(to.data(), at, to.size());
    return {};
  }
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override {
    if (from.empty()) return {};
    if (before_copy_out) std::exchange(before_copy_out, nullptr)();
    std::byte* at = find(to, from.size(), true);
    if (!at) return fail(Errno::Efault);
    std::memcpy(at, from.data(), from.size());
    return {};
  }
  Result<void> resolve(UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override {
    for (u64 done = 0; done < length;) {
      const u64 here = at.value + done;
      auto it = shared_.upper_bound(here);
      if (it == shared_.begin()) return fail(Errno::Efault);
      --it;
      const u64 into = here - it->first;
      if (into >= it->second.length) return fail(Errno::Efault);
      if (includes(access, Access::Write) && !it->second.writable) return fail(Errno::Efault);
      const u64 part = std::min(length - done, it->second.length - into);
      TRY(piece(it->second.memory, it->second.offset + into, part));
      done += part;
    }
    return {};
  }

  Result<OwnMapping> own_mapping(UserAddr at, u64 length, Access) override {
    auto it = own_.upper_bound(at.value);
    if (it == own_.begin()) return fail(Errno::Efault);
    --it;
    const u64 into = at.value - it->first;
    if (into >= it->second.length || length > it->second.length - into) return fail(Errno::Efault);
    return OwnMapping{it->second.file, it->second.offset + into};
  }

  // --- descriptors ----------------------------------------------------------------------------------------------
  s32 add(Ref<File> opened) {
    s32 fd = 3;
    while (files.contains(fd) || reserved.contains(fd)) ++fd;
    files[fd] = std::move(opened);
    return fd;
  }
  void close(s32 fd) {
    const Ref<File> closed = std::move(files.at(fd));
    files.erase(fd);
  }
  Result<Ref<File>> file(s32 fd) override {
    const auto it = files.find(fd);
    if (it == files.end()) return fail(Errno::Ebadf);
    return it->second;
  }
  Result<s32> reserve_fd() override {
    if (files.size() + reserved.size() >= fd_limit) return fail(Errno::Emfile);
    s32 fd = 3;
    while (files.contains(fd) || reserved.contains(fd)) ++fd;
    reserved[fd] = true;
    return fd;
  }
  void install_fd(s32 fd, Ref<File> opened) override {
    reserved.erase(fd);
    files[fd] = std::move(opened);
  }
  void release_fd(s32 fd) override { reserved.erase(fd); }
  const Creds& creds() const override { return credentials; }
  bool maps_registers() const override { return traps; }
  bool traps = true;
  Result<Ref<Process>> process() override { return Ref<Process>(own_process.get()); }
  // The process ends, although the object goes on.
  void end_process() { own_process->end(); }

  std::map<s32, Ref<File>> files;
  std::map<s32, bool> reserved;
  usize fd_limit = 64;
  std::function<void()> before_copy_out;  // once: what another thread does while a call writes its answer
  Creds credentials;
  Ref<FakeProcess> own_process = FakeProcess::create(*this);

 private:
  struct Private {
    std::vector<std::byte> bytes;
    bool writable = true;
  };
  struct Shared {
    u64 length = 0;
    Ref<SharedMemory> memory;
    u64 offset = 0;
    bool writable = true;
  };
  std::byte* find(UserAddr at, u64 bytes, bool to_write) {
    auto it = private_.upper_bound(at.value);
    if (it == private_.begin()) return nullptr;
    --it;
    const u64 into = at.value - it->first;
    if (into > it->second.bytes.size() || bytes > it->second.bytes.size() - into) return nullptr;
    if (to_write && !it->second.writable) return nullptr;
    return it->second.bytes.data() + into;
  }
  std::map<u64, Private> private_;
  std::map<u64, Shared> shared_;
  struct Own {
    u64 length = 0;
    Ref<File> file;
    u64 offset = 0;
  };
  std::map<u64, Own> own_;
  u64 next_ = u64{1} << 32;
};

}  // namespace perdure::test
