// Calls of /dev/liveupdate with nothing around them: what tests of it share.
#pragma once
#include <cstring>
#include <optional>

#include "core/uapi/liveupdate.h"
#include "tests/uapi/size_rule.h"

namespace perdure::uapi_test::luo {

inline constexpr const char* kNode = "/dev/liveupdate";
inline constexpr u64 kBytes = u64{1} << 20;

inline uapi::LiveupdateSession named(std::string_view name) {
  uapi::LiveupdateSession call;
  call.size = sizeof call;
  call.fd = -1;
  std::memcpy(call.name, name.data(), std::min(name.size(), sizeof call.name));
  return call;
}

inline Result<Fd> session(Case& t, const Fd& device, u32 cmd, std::string_view name) {
  uapi::LiveupdateSession call = named(name);
  TRY(t.ioctl(device, cmd, call));
  return Fd(t.sys, call.fd);
}
inline Result<Fd> create(Case& t, const Fd& device, std::string_view name) {
  return session(t, device, uapi::kLiveupdateCreateSession, name);
}
inline Result<Fd> retrieve(Case& t, const Fd& device, std::string_view name) {
  return session(t, device, uapi::kLiveupdateRetrieveSession, name);
}
// With a device that is closed again at once: sessions do not need it.
inline Fd create(Case& t, std::string_view suffix = {}) {
  const Fd device = t.open(kNode);
  return MUST(create(t, device, t.name(suffix)));
}
inline Fd retrieve(Case& t, std::string_view suffix = {}) {
  const Fd device = t.open(kNode);
  return MUST(retrieve(t, device, t.name(suffix)));
}

inline Result<u64> preserve(Case& t, const Fd& session, s32 fd, u64 token) {
  uapi::LiveupdatePreserveFd call{.size = sizeof call, .fd = fd, .token = token};
  return t.ioctl(session, uapi::kLiveupdateSessionPreserveFd, call);
}
inline Result<Fd> retrieve_fd(Case& t, const Fd& session, u64 token) {
  uapi::LiveupdateRetrieveFd call{.size = sizeof call, .fd = -1, .token = token};
  TRY(t.ioctl(session, uapi::kLiveupdateSessionRetrieveFd, call));
  return Fd(t.sys, call.fd);
}
inline Result<u64> finish(Case& t, const Fd& session, u32 reserved = 0) {
  uapi::LiveupdateFinish call{.size = sizeof call, .reserved = reserved};
  return t.ioctl(session, uapi::kLiveupdateSessionFinish, call);
}
inline std::string name_of(Case& t, const Fd& session) {
  uapi::LiveupdateGetName call;
  call.size = sizeof call;
  std::memset(call.name, 0xff, sizeof call.name);
  MUST(t.ioctl(session, uapi::kLiveupdateSessionGetName, call));
  // Zeros up to the end.
  const usize length = strnlen(call.name, sizeof call.name);
  for (usize i = length; i < sizeof call.name; ++i) CHECK_EQ(call.name[i], '\0');
  return {call.name, length};
}

inline Fd memfd(Case& t, u64 bytes = kBytes) {
  Fd fd(t.sys, MUST(t.sys.memfd_create("uapi-test")));
  MUST(t.sys.ftruncate(fd.number(), bytes));
  return fd;
}
// A mapping for the time of a test.
class Mapped {
 public:
  Mapped(Case& t, const Fd& fd, u64 bytes = kBytes)
      : sys_(t.sys), at_(MUST(t.sys.mmap(fd.number(), 0, bytes))), bytes_(bytes) {}
  ~Mapped() { (void)sys_.munmap(at_, bytes_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  u64& word(u64 offset) const { return *reinterpret_cast<u64*>(at_ + offset); }

 private:
  Syscalls& sys_;
  std::byte* at_;
  u64 bytes_;
};

// Under the old kernel: a session with one memfd under token 1, both open until the jump.
inline void hand_over(Case& t) {
  Fd session = create(t);
  Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), 1));
  t.keep(std::move(session));
  t.keep(std::move(memory));
}

// A call whose answer cannot be written: the structure is on a page that may only be read.
template <class T>
Result<u64> answer_faults(Case& t, const Fd& fd, u32 cmd, const T& arg) {
  const UserMemory memory;
  T* const at = memory.put(arg);
  memory.read_only();
  return t.ioctl_at(fd, cmd, at);
}

}  // namespace perdure::uapi_test::luo
