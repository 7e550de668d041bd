// Memfds and eventfds of programs, as the core sees them.
#pragma once
#include "core/base/machine.h"
#include "machine/host/descriptor.h"

namespace perdure::host {

// Errno of the last failed system call.
Errno last_error();

// Identity of an open file's inode, unique on this host.
Result<u64> file_id(int fd);

// A memfd (or another unlinked shmem file).
class Memfd final : public HostMemory {
 public:
  Memfd(Descriptor fd, u64 id) : fd_(std::move(fd)), id_(id) {}
  u64 id() const override { return id_; }
  u64 size() const override;
  u32 seals() const override;
  Result<void> add_seals(u32 seals) override;
  Result<void> resize(u64 bytes) override;
  u64 position() const override;
  void set_position(u64 bytes) override;
  int fd() const { return fd_.get(); }

 private:
  void dispose() override { ::delete this; }
  Descriptor fd_;
  u64 id_;
};

class HostEventFd final : public HostEvent {
 public:
  HostEventFd(Descriptor fd, u64 id) : fd_(std::move(fd)), id_(id) {}
  u64 id() const override { return id_; }
  void signal(u64 count) override;
  int fd() const { return fd_.get(); }

 private:
  void dispose() override { ::delete this; }
  Descriptor fd_;
  u64 id_;
};

enum class HostKind { Memory, Event, Other };
HostKind kind_of(int fd);

// A new object over `fd`. Ebadf for a bad descriptor.
Result<Ref<HostMemory>> open_memory(Descriptor fd);
Result<Ref<HostEvent>> open_event(Descriptor fd);
// A new memfd of `bytes`, sealable. Enomem.
Result<Ref<HostMemory>> create_memory(u64 bytes);

}  // namespace perdure::host
