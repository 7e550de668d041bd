#include "client/live_update.h"

#include <cstring>

#include "core/uapi/liveupdate.h"

namespace perdure::client {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

Result<LiveUpdate> LiveUpdate::open(Syscalls& sys) {
  return LiveUpdate(Fd(sys, TRY(sys.open("/dev/liveupdate"))));
}

Result<Session> LiveUpdate::session(u32 cmd, std::string_view name) const {
  if (name.size() >= kLiveupdateNameLength) return fail(Errno::Einval);
  LiveupdateSession arg{};
  arg.size = sizeof arg;
  std::memcpy(arg.name, name.data(), name.size());
  TRY(fd_.sys().ioctl(fd_.number(), cmd, &arg));
  return Session(Fd(fd_.sys(), arg.fd));
}

Result<Session> LiveUpdate::create_session(std::string_view name) const {
  return session(kLiveupdateCreateSession, name);
}

Result<Session> LiveUpdate::retrieve_session(std::string_view name) const {
  return session(kLiveupdateRetrieveSession, name);
}

Result<void> Session::preserve(s32 fd, u64 token) const {
  LiveupdatePreserveFd arg{.size = sizeof arg, .fd = fd, .token = token};
  TRY(fd_.sys().ioctl(number(), kLiveupdateSessionPreserveFd, &arg));
  return {};
}

Result<Fd> Session::retrieve(u64 token) const {
  LiveupdateRetrieveFd arg{.size = sizeof arg, .fd = -1, .token = token};
  TRY(fd_.sys().ioctl(number(), kLiveupdateSessionRetrieveFd, &arg));
  return Fd(fd_.sys(), arg.fd);
}

Result<void> Session::finish() const {
  LiveupdateFinish arg{.size = sizeof arg, .reserved = 0};
  TRY(fd_.sys().ioctl(number(), kLiveupdateSessionFinish, &arg));
  return {};
}

Result<std::string_view> Session::name(std::span<char> to) const {
  LiveupdateGetName arg{};
  arg.size = sizeof arg;
  TRY(fd_.sys().ioctl(number(), kLiveupdateSessionGetName, &arg));
  usize length = 0;
  while (length < sizeof arg.name && arg.name[length] != '\0') ++length;
  if (to.size() < length) return fail(Errno::Erange);
  std::memcpy(to.data(), arg.name, length);
  return std::string_view(to.data(), length);
}

}  // namespace perdure::client
