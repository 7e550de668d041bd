// /dev/liveupdate: sessions of files that survive the replacement of the kernel.
#pragma once
#include <span>

#include "client/fd.h"

namespace perdure::client {

class Session {
 public:
  Session() = default;
  explicit Session(Fd fd) : fd_(std::move(fd)) {}
  // Outgoing: order matters (memfd, then iommufd, then cdev).
  Result<void> preserve(s32 fd, u64 token) const;
  // Incoming.
  Result<Fd> retrieve(u64 token) const;
  Result<void> finish() const;
  // As it was created; `to` needs room for 64 bytes. Returns the part of it that is the name.
  Result<std::string_view> name(std::span<char> to) const;
  s32 number() const { return fd_.number(); }
  Fd& fd() { return fd_; }

 private:
  Fd fd_;
};

class LiveUpdate {
 public:
  static Result<LiveUpdate> open(Syscalls& sys);
  Result<Session> create_session(std::string_view name) const;
  Result<Session> retrieve_session(std::string_view name) const;

 private:
  explicit LiveUpdate(Fd fd) : fd_(std::move(fd)) {}
  Result<Session> session(u32 cmd, std::string_view name) const;
  Fd fd_;
};

}  // namespace perdure::client
