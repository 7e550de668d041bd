// The program on whose behalf a system call runs, supplied by the front end that received the call.
#pragma once
#include <span>

#include "core/base/function_ref.h"
#include "core/file/process.h"

namespace perdure {

class EventFd;

struct Creds {
  u32 uid = 0;
  bool cap_sys_resource = true;
  bool cap_sys_rawio = true;
  bool cap_ipc_lock = true;
};

class Task {
 public:
  // Efault when any byte is not accessible; nothing is promised about the others then.
  virtual Result<void> copy_in(std::span<std::byte> to, UserAddr from) = 0;
  virtual Result<void> copy_out(UserAddr to, std::span<const std::byte> from) = 0;
  template <class T>
  Result<T> copy_in(UserAddr from) {
    T value;
    TRY(copy_in(std::as_writable_bytes(std::span(&value, 1)), from));
    return value;
  }
  // Bytes in a span of any kind go to the one above: a span is no structure.
  template <class T>
    requires(!std::is_convertible_v<T, std::span<const std::byte>>)
  Result<void> copy_out(UserAddr to, const T& value) {
    return copy_out(to, std::as_bytes(std::span(&value, 1)));
  }

  // What lies behind [at, at + length): calls `piece` in address order for each stretch of one shared
  // memory. Efault where nothing, or nothing writable for Access::Write, is mapped, or memory that is no shared
  // memory (remote banks come later).
  virtual Result<void> resolve(UserAddr at, u64 length, Access access,
                               FunctionRef<Result<void>(Ref<SharedMemory> memory, u64 offset, u64 length)> piece) = 0;

  // Which of our own files is mapped over [at, at + length): registers, which resolve() never finds. Efault: none, or
  // not as `access` wants.
  struct OwnMapping {
    Ref<File> file;
    u64 offset = 0;
  };
  virtual Result<OwnMapping> own_mapping(UserAddr /*at*/, u64 /*length*/, Access) { return fail(Errno::Efault); }

  // The open file behind a descriptor number. Host memfds and eventfds come wrapped as SharedMemory and
  // EventFd, always the same object for the same memfd or eventfd. Ebadf.
  virtual Result<Ref<File>> file(s32 fd) = 0;
  // Reserves a descriptor number (Emfile, Enfile), to be installed on success or given back on failure.
  virtual Result<s32> reserve_fd() = 0;
  virtual void install_fd(s32 fd, Ref<File> file) = 0;
  virtual void release_fd(s32 fd) = 0;

  virtual const Creds& creds() const = 0;
  // Its accesses to registers that it maps reach the device. Where nobody can carry them out, files tell it that there
  // are none to map.
  virtual bool maps_registers() const { return true; }
  // The process (not the thread) that calls: always the same object for the same process.
  virtual Result<Ref<Process>> process() = 0;

 protected:
  ~Task() = default;
};

// A reserved descriptor number that is given back unless installed.
class FdSlot {
 public:
  static Result<FdSlot> reserve(Task& task) {
    const s32 fd = TRY(task.reserve_fd());
    return FdSlot(task, fd);
  }
  FdSlot(FdSlot&& o) noexcept : task_(o.task_), fd_(std::exchange(o.fd_, -1)) {}
  FdSlot(const FdSlot&) = delete;
  FdSlot& operator=(const FdSlot&) = delete;
  FdSlot& operator=(FdSlot&&) = delete;
  ~FdSlot() {
    if (fd_ >= 0) task_->release_fd(fd_);
  }
  s32 number() const { return fd_; }
  void install(Ref<File> file) { task_->install_fd(std::exchange(fd_, -1), std::move(file)); }

 private:
  FdSlot(Task& task, s32 fd) : task_(&task), fd_(fd) {}
  Task* task_;
  s32 fd_;
};

}  // namespace perdure
