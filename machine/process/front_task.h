// The program behind one call of a front end.
#pragma once
#include <array>
#include <vector>

#include "core/file/task.h"
#include "machine/process/front.h"
#include "machine/process/front_process.h"

namespace perdure::process {

// Lives for the time of the call, on the connection's thread.
//
// The number of a new descriptor is known only when the supervisor has made it, and then it is there for good: so what
// the core reserves is a placeholder, which is replaced by the number, when there is one, in what was copied out since.
class FrontTask final : public Task {
 public:
  // `task`: wire::Header's. `call`: of a call that was received here (Call::Serve), its id.
  FrontTask(Front& front, wire::Channel& channel, const Creds& creds, u64 task, u64 call = 0)
      : front_(front), channel_(channel), creds_(creds), task_(task), call_(call) {}

  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override;
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override;
  using Task::copy_in;
  using Task::copy_out;
  Result<void> resolve(UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override;
  Result<OwnMapping> own_mapping(UserAddr at, u64 length, Access access) override;
  Result<Ref<File>> file(s32 fd) override;
  Result<s32> reserve_fd() override;
  void install_fd(s32 fd, Ref<File> file) override;
  void release_fd(s32 fd) override;
  const Creds& creds() const override { return creds_; }
  bool maps_registers() const override { return maps_registers_; }
  void set_maps_registers(bool maps) { maps_registers_ = maps; }
  Result<Ref<Process>> process() override;

  // The same of any process of this front; 0: of the one that the connection stands for.
  Result<void> copy_in_of(u32 tgid, std::span<std::byte> to, UserAddr from);
  Result<void> copy_out_of(u32 tgid, UserAddr to, std::span<const std::byte> from);
  Result<void> resolve_of(FrontProcess& process, UserAddr at, u64 length, Access access,
                          FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece);

  // From now on the program's memory is this value and nothing else, for reads and writes of a few bytes that are not
  // in its memory but in a message.
  static constexpr UserAddr kValueAt{0x1000};
  void use_value(u64& value) { value_ = std::as_writable_bytes(std::span(&value, 1)); }

  // What the program is told: with placeholders replaced, or why a descriptor could not be installed.
  Result<u64> finish(Result<u64> value) const;
  // The other side broke the protocol; nothing it says can be relied on.
  bool broken() const { return broken_; }

 private:
  struct Slot {
    s32 placeholder = 0;
    s32 number = -1;                // once installed
    std::vector<UserAddr> written;  // where the placeholder was copied to
  };
  static constexpr s32 kFirstPlaceholder = 0x7e000000;
  // The largest structure of an ioctl of ours, without its surplus.
  static constexpr usize kAhead = 128;

  Result<wire::Message> ask(const wire::Header& question, std::span<const std::byte> payload = {}, int fd = -1);
  // The process's main thread stands for it, where it is not the caller's.
  u64 task_for(u32 tgid) const { return tgid == wire::tgid_of(task_) ? task_ : wire::task_of(tgid, tgid); }
  Result<std::span<std::byte>> value_at(UserAddr at, usize bytes) const;
  Errno malformed();
  Result<s32> install(s32 placeholder, Ref<File> file);
  Slot* slot(s32 placeholder);
  // Reads at least that much of what is ahead. False: it must be read as asked.
  bool read_ahead(u64 from, usize bytes);

  Front& front_;
  wire::Channel& channel_;
  const Creds& creds_;
  const u64 task_;
  const u64 call_;
  std::span<std::byte> value_;  // use_value()
  // What the program had at an address when it was first read. A structure is read in parts, its size first, and going
  // to another process's memory costs more than what is read there; besides, it cannot change between two parts.
  std::array<std::byte, kAhead> ahead_;
  u64 ahead_at_ = 0;
  usize ahead_bytes_ = 0;
  std::vector<Slot> slots_;
  s32 next_placeholder_ = kFirstPlaceholder;
  Errno install_error_{};
  bool broken_ = false;
  bool maps_registers_ = true;
};

}  // namespace perdure::process
