// Programs' ioctls without a supervisor between them and the kernel: while a supervisor lends its turn, the kernel
// receives their system calls itself, answers those that are ioctls of files it knows, or reads and writes of their
// regions, and gives the turn back with the first one that is not. An ioctl is one switch to another process and back
// then, on one processor, instead of two that wait for each other on two.
#pragma once
#include <optional>
#include <unordered_map>

#include "machine/host/listener.h"
#include "machine/process/front_task.h"
#include "machine/wire/lent_turn.h"

namespace perdure::process {

class LentCalls {
 public:
  // Call::Lend: what is needed for Call::Serve. Einval; Eproto.
  Result<void> take(wire::Message& lend);

  struct Back {
    u64 served = 0;
    std::optional<host::SystemCall> left;  // for the supervisor to answer
  };
  // Call::Serve. Comes back with the turn. Ekilled: the supervisor is gone, or broke the protocol.
  Result<Back> serve(const wire::Message& serve, Front& front, wire::Channel& channel, const Creds& creds);

 private:
  struct Thread {
    u32 process = 0;
    host::Descriptor files;  // /proc/PROCESS/task/THREAD/fd
  };
  struct Known {
    u64 handle = 0;
    bool positions = false;
  };
  enum class Served : u8 { Yes, No, Broken };

  Result<void> learn(const wire::Message& serve);
  std::optional<Known> file_of(const Thread& thread, s32 fd) const;
  bool anything_closed() const;
  static Result<u64> carry_out(const host::SystemCall& call, FrontTask& task, File& file);
  Served serve_one(const host::SystemCall& call, Front& front, wire::Channel& channel, const Creds& creds);

  std::optional<host::Listener> listener_;
  host::Descriptor closes_;  // readable: something was closed, or ended, that the kernel has not been told of
  std::optional<wire::LentTurn> turn_;
  struct Hash {
    usize operator()(const std::pair<u64, u64>& id) const { return std::hash<u64>()(id.second * 31 + id.first); }
  };
  std::unordered_map<std::pair<u64, u64>, Known, Hash> files_;  // by device and inode
  std::unordered_map<u32, Thread> threads_;
};

}  // namespace perdure::process
