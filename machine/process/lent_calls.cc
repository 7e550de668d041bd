#include "machine/process/lent_calls.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace perdure::process {

using wire::Question;

namespace {

// Of these the supervisor says more to the kernel than the program did.
constexpr u32 kGetRegionInfo = 0x3b6c;
constexpr u32 kTypeMask = 0xff00;
constexpr u32 kIommuType = 0x3b00;
constexpr u32 kLiveUpdateType = 0xba00;

// More than that no system call transfers.
constexpr u64 kMostBytes = 0x7ffff000;

bool is_access(const host::SystemCall& call) {
  return call.number == __NR_pread64 || call.number == __NR_pwrite64;
}

bool is_ours(const host::SystemCall& call) {
  if (is_access(call)) return static_cast<s64>(call.args[3]) >= static_cast<s64>(wire::kFirstPosition);
  const u32 cmd = static_cast<u32>(call.args[1]);
  const u32 type = cmd & kTypeMask;
  return call.number == __NR_ioctl && (type == kIommuType || type == kLiveUpdateType) && cmd != kGetRegionInfo;
}

template <class T>
T piece_of(const wire::Message& m, usize at) {
  T value;
  std::memcpy(&value, m.payload.data() + at, sizeof value);
  return value;
}

}  // namespace

Result<void> LentCalls::take(wire::Message& lend) {
  if (!lend.fd) return fail(Errno::Eproto);
  switch (static_cast<wire::Lent>(lend.head.a)) {
    case wire::Lent::Listener: listener_.emplace(std::move(lend.fd)); return {};
    case wire::Lent::Closes: closes_ = std::move(lend.fd); return {};
    case wire::Lent::Turn: turn_ = TRY(wire::LentTurn::open(std::move(lend.fd))); return {};
  }
  return fail(Errno::Einval);
}

Result<void> LentCalls::learn(const wire::Message& serve) {
  const u64 files = serve.head.b;
  const u64 threads = serve.head.c;
  if (files > wire::kMostLentFiles || threads > wire::kMostLentThreads ||
      serve.payload.size() != files * sizeof(wire::LentFile) + threads * sizeof(wire::LentThread)) {
    return fail(Errno::Eproto);
  }
  files_.clear();
  usize at = 0;
  for (u64 i = 0; i < files; ++i, at += sizeof(wire::LentFile)) {
    const auto file = piece_of<wire::LentFile>(serve, at);
    files_[{file.device, file.inode}] = {.handle = file.handle, .positions = file.positions != 0};
  }
  // What is open here of threads that are there still stays open.
  std::unordered_map<u32, Thread> known;
  for (u64 i = 0; i < threads; ++i, at += sizeof(wire::LentThread)) {
    const auto thread = piece_of<wire::LentThread>(serve, at);
    const auto before = threads_.find(thread.thread);
    Thread& now = known[thread.thread];
    now.process = thread.process;
    if (before != threads_.end() && before->second.process == thread.process) now = std::move(before->second);
  }
  threads_ = std::move(known);
  return {};
}

// What the descriptor stands for, at this moment: nothing that a program does with its descriptors needs to be seen.
std::optional<LentCalls::Known> LentCalls::file_of(const Thread& thread, s32 fd) const {
  char number[16];
  std::snprintf(number, sizeof number, "%d", fd);
  struct stat st = {};
  if (fd < 0 || fstatat(thread.files.get(), number, &st, 0) != 0) return std::nullopt;
  const auto found = files_.find({st.st_dev, st.st_ino});
  return found == files_.end() ? std::nullopt : std::optional(found->second);
}

Result<u64> LentCalls::carry_out(const host::SystemCall& call, FrontTask& task, File& file) {
  if (call.number == __NR_ioctl) {
    return task.finish(file.ioctl(task, static_cast<u32>(call.args[1]), UserAddr(call.args[2])));
  }
  const UserAddr at(call.args[1]);
  const usize bytes = std::min(call.args[2], kMostBytes);
  const u64 position = call.args[3];
  return call.number == __NR_pwrite64 ? TRY(file.write(task, at, bytes, position))
                                      : TRY(file.read(task, at, bytes, position));
}

bool LentCalls::anything_closed() const {
  pollfd p = {closes_.get(), POLLIN, 0};
  return poll(&p, 1, 0) != 0;
}

LentCalls::Served LentCalls::serve_one(const host::SystemCall& call, Front& front, wire::Channel& channel,
                                       const Creds& creds) {
  const auto known = threads_.find(static_cast<u32>(call.tid));
  if (known == threads_.end()) return Served::No;
  Thread& thread = known->second;
  if (!thread.files) {
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%u/task/%d/fd", thread.process, call.tid);
    thread.files = host::Descriptor(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  const auto named = thread.files ? file_of(thread, call.fd()) : std::nullopt;
  if (!named) {
    // None of our files; or the thread is not the one that was known by this number.
    thread.files.reset();
    return Served::No;
  }
  if (is_access(call) && !named->positions) return Served::No;
  const auto file = front.find(named->handle);
  if (!file) return Served::No;
  FrontTask task(front, channel, creds, wire::task_of(thread.process, static_cast<u32>(call.tid)), call.id);
  const Result<u64> value = carry_out(call, task, **file);
  if (task.broken()) return Served::Broken;
  if (value) {
    listener_->answer(call, static_cast<s64>(*value));
  } else {
    listener_->refuse(call, value.error());
  }
  return Served::Yes;
}

Result<LentCalls::Back> LentCalls::serve(const wire::Message& serve, Front& front, wire::Channel& channel,
                                         const Creds& creds) {
  if (!listener_ || !closes_ || !turn_) return fail(Errno::Einval);
  TRY(learn(serve));
  Back back;
  while (!turn_->revoked()) {
    pollfd fds[] = {{listener_->fd(), POLLIN, 0}, {closes_.get(), POLLIN, 0}, {channel.socket(), POLLRDHUP, 0}};
    if (poll(fds, std::size(fds), -1) < 0) continue;
    if ((fds[2].revents & (POLLRDHUP | POLLHUP)) != 0) return fail(Errno::Ekilled);
    // Nobody is left to call; or what was closed must be told.
    if ((fds[0].revents & POLLHUP) != 0 || fds[1].revents != 0) break;
    if ((fds[0].revents & POLLIN) == 0) continue;
    const auto call = listener_->receive();
    if (!call) continue;  // it went away again
    const bool unseen = turn_->begin();
    Served served = Served::No;
    // In this order: whatever a program closed before it called is seen here, or by somebody who wanted the turn back
    // before he took it. (That nothing was closed when the listener became ready says nothing: it may have been for
    // a call that was withdrawn since.)
    if (is_ours(*call) && !anything_closed() && !turn_->revoked()) {
      if (unseen) {
        TRY(channel.send({.op = static_cast<u32>(Question::Watch)}));
        TRY(channel.receive());
      }
      served = serve_one(*call, front, channel, creds);
    }
    turn_->end();
    if (served == Served::Broken) return fail(Errno::Ekilled);
    if (served == Served::No) {
      back.left = *call;
      break;
    }
    ++back.served;
  }
  return back;
}

}  // namespace perdure::process
