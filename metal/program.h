// A program on bare metal: its system calls are function calls, its memory is the machine's. It ends with its kernel.
#pragma once
#include "client/syscalls.h"
#include "core/file/task.h"
#include "core/kernel/kernel.h"
#include "metal/machine.h"

namespace perdure::metal {

// The program's process: there is one, whose memory is reached through its own calls.
class ProgramProcess final : public Process {
 public:
  explicit ProgramProcess(const Task& task) : task_(&task) {}
  void end() { task_ = nullptr; }
  Result<void> resolve(Task& via, UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override {
    return &via == task_ ? via.resolve(at, length, access, piece) : fail(Errno::Efault);
  }
  Result<void> copy_in(Task& via, std::span<std::byte> to, UserAddr from) override {
    return &via == task_ ? via.copy_in(to, from) : fail(Errno::Efault);
  }
  Result<void> copy_out(Task& via, UserAddr to, std::span<const std::byte> from) override {
    return &via == task_ ? via.copy_out(to, from) : fail(Errno::Efault);
  }
  u64 memlock_limit(Task&) override { return ~u64{0}; }

 private:
  const Task* task_;  // compared, never followed
};

class Program final : public client::Syscalls, private Task {
 public:
  Program(Kernel& kernel, MetalMachine& machine) : kernel_(kernel), machine_(machine) {}
  // In the order of the numbers, as a dying Linux process does.
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  Result<s32> open(std::string_view path) override;
  Result<void> close(s32 fd) override;
  Result<u64> ioctl(s32 fd, u32 cmd, void* arg) override;
  Result<usize> pread(s32 fd, void* to, usize bytes, u64 pos) override;
  Result<usize> pwrite(s32 fd, const void* from, usize bytes, u64 pos) override;
  Result<s32> memfd_create(std::string_view name) override;
  Result<void> ftruncate(s32 fd, u64 bytes) override;
  Result<u64> file_size(s32 fd) override;
  Result<void> add_seals(s32 fd, u32 seals) override;
  Result<u32> seals(s32 fd) override;
  Result<u64> memory_id(s32 fd) override;
  Result<std::byte*> mmap(s32 fd, u64 offset, u64 length) override;
  Result<void> munmap(std::byte* at, u64 length) override;
  Result<s32> eventfd() override;
  Result<u64> eventfd_read(s32 fd) override;
  u64 now_ns() override { return machine_.now_ns(); }
  void pause() override;
  Result<void> kexec_load(std::string_view kernel) override;
  // Comes back only when it failed.
  Result<void> kexec() override;

 private:
  static constexpr s32 kMostFiles = 256;
  static constexpr usize kMostMappings = 64;
  struct Mapping {
    Ref<SharedMemory> memory;  // a mapping keeps its file open
    u64 at = 0;
    u64 offset = 0;
    u64 length = 0;
  };

  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override;
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override;
  Result<void> resolve(UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override;
  Result<Ref<File>> file(s32 fd) override;
  Result<s32> reserve_fd() override;
  void install_fd(s32 fd, Ref<File> file) override;
  void release_fd(s32 fd) override { reserved_[fd] = false; }
  const Creds& creds() const override { return creds_; }
  Result<Ref<Process>> process() override;

  // Before every call: what did devices say?
  void enter();
  bool accessible(u64 at, u64 length) const;
  template <class T>
  Result<Ref<T>> file_as(s32 fd);
  Result<s32> install_new(Ref<File> file);

  Kernel& kernel_;
  MetalMachine& machine_;
  Ref<File> files_[kMostFiles];
  bool reserved_[kMostFiles] = {};
  Mapping mappings_[kMostMappings];
  Ref<ProgramProcess> process_;  // once somebody asked for it
  Creds creds_;
};

}  // namespace perdure::metal
