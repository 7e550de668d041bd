// The turn to receive programs' system calls, lent by a supervisor to the kernel (Call::Serve): what the two see of
// each other while neither says anything.
#pragma once
#include <atomic>
#include <memory>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::wire {

// What comes with Call::Lend, as `a`.
enum class Lent : u64 { Listener, Closes, Turn };

// Call::Serve's payload: head.b files, then head.c threads. A thread that is not named is not known: nobody would hear
// of its end.
struct LentFile {
  u64 device = 0;
  u64 inode = 0;
  u64 handle = 0;
  u64 positions = 0;  // 1: it has positions, from kFirstPosition on, and was opened for reading and writing
};
inline constexpr u64 kFirstPosition = u64{1} << 60;
struct LentThread {
  u32 process = 0;
  u32 thread = 0;
};
inline constexpr usize kMostLentFiles = 1500;
inline constexpr usize kMostLentThreads = 1000;

// What it comes back with, if anything: a call that was received and is not for the kernel to answer.
struct LeftCall {
  u64 id = 0;
  u64 args[6] = {};
  s32 thread = 0;
  u32 number = 0;
};

// A page of shared memory. Who shares it can lie in it, and gains nothing by that.
class LentTurn {
 public:
  static Result<LentTurn> create();
  // Eproto: it is no such page.
  static Result<LentTurn> open(host::Descriptor fd);
  int fd() const { return fd_.get(); }

  // The supervisor: before it lends; and when it wants the turn back, after the call that is being served.
  void lend() const;
  void revoke() const;
  // Grows with each call; odd while one is served.
  u64 progress() const;
  // From now on nobody looks at it. False: it has gone on since it was `last`.
  bool look_away(u64 last) const;

  // The kernel.
  bool revoked() const;
  // Around a call. True: nobody looks, and is to be told that there is something to see again.
  bool begin() const;
  void end() const;

 private:
  struct Page;
  struct Unmap {
    void operator()(Page* page) const;
  };
  LentTurn(host::Descriptor fd, std::unique_ptr<Page, Unmap> page) : fd_(std::move(fd)), page_(std::move(page)) {}
  static Result<LentTurn> map(host::Descriptor fd);

  host::Descriptor fd_;
  std::unique_ptr<Page, Unmap> page_;
};

}  // namespace perdure::wire
