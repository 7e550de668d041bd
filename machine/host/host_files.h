// Memfds and eventfds of programs, as the core sees them.
#pragma once
#include <mutex>
#include <set>

#include "core/base/machine.h"
#include "machine/host/descriptor.h"

namespace perdure::host {

// Errno of the last failed system call.
Errno last_error();

// Identity of an open file's inode, unique on this host.
Result<u64> file_id(int fd);

// What a kernel has of the host ends with it, as it would with its process, whatever references the abandoned kernel
// still counts.
class HostObjects {
 public:
  class Object {
   public:
    explicit Object(HostObjects& home);
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

   protected:
    virtual ~Object();

   private:
    friend class HostObjects;
    virtual void destroy() = 0;
    HostObjects& home_;
  };

  HostObjects() = default;
  ~HostObjects() { end_all(); }
  HostObjects(const HostObjects&) = delete;
  HostObjects& operator=(const HostObjects&) = delete;
  void end_all();

 private:
  std::mutex mutex_;
  std::set<Object*> live_;
};

// A memfd, or another file of tmpfs or of huge pages.
class Memfd final : public HostMemory, private HostObjects::Object {
 public:
  Memfd(HostObjects& home, Descriptor fd, u64 id) : Object(home), fd_(std::move(fd)), id_(id) {}
  u64 id() const override { return id_; }
  u64 size() const override;
  u32 seals() const override;
  Result<void> add_seals(u32 seals) override;
  Result<void> resize(u64 bytes) override;
  u64 position() const override;
  void set_position(u64 bytes) override;
  bool nameless() const override;
  int fd() const { return fd_.get(); }

 private:
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
  Descriptor fd_;
  u64 id_;
};

class HostEventFd final : public HostEvent, private HostObjects::Object {
 public:
  HostEventFd(HostObjects& home, Descriptor fd, u64 id) : Object(home), fd_(std::move(fd)), id_(id) {}
  u64 id() const override { return id_; }
  void signal(u64 count) override;
  u64 take() override;
  int fd() const { return fd_.get(); }

 private:
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
  Descriptor fd_;
  u64 id_;
};

enum class HostKind { Memory, Event, Other };
HostKind kind_of(int fd);

// A new object over `fd`. Ebadf for a bad descriptor.
Result<Ref<HostMemory>> open_memory(HostObjects& home, Descriptor fd);
Result<Ref<HostEvent>> open_event(HostObjects& home, Descriptor fd);
// A new memfd of `bytes`, sealable. Enomem.
Result<Ref<HostMemory>> create_memory(HostObjects& home, u64 bytes);

}  // namespace perdure::host
