#include "core/luo/session_file.h"

#include "core/file/ioctl_copy.h"
#include "core/uapi/liveupdate.h"

namespace perdure::luo {

Result<Ref<SessionFile>> SessionFile::create(Luo& luo, std::string_view name) {
  Ref<OutgoingSession> session = TRY(luo.create_session(name));
  auto file = luo.heap().make_ref<SessionFile>(luo, session, nullptr);
  if (!file) session->close();
  return file;
}

Result<Ref<SessionFile>> SessionFile::retrieve(Luo& luo, std::string_view name) {
  Ref<IncomingSession> session = TRY(luo.retrieve_session(name));
  auto file = luo.heap().make_ref<SessionFile>(luo, nullptr, session);
  if (!file) session->unclaim();
  return file;
}

void SessionFile::last_close() {
  if (outgoing_) {
    outgoing_->close();
  } else {
    incoming_->close();
  }
}

// Order of checks: number, readable size, exact command, direction, size, surplus, contents, gate (kho-luo §3).
Result<u64> SessionFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  constexpr u32 kFirst = uapi::kLiveupdateSessionPreserveFd & 0xff;
  constexpr u32 kLast = uapi::kLiveupdateSessionGetName & 0xff;
  if ((cmd & 0xff) < kFirst || (cmd & 0xff) > kLast) return fail(Errno::Einval);
  const u32 size = TRY(ioctl_size(task, arg));
  switch (cmd) {
    case uapi::kLiveupdateSessionPreserveFd:
      if (!outgoing_) return fail(Errno::Einval);
      TRY(preserve_fd(task, arg, size));
      break;
    case uapi::kLiveupdateSessionRetrieveFd:
      if (!incoming_) return fail(Errno::Einval);
      TRY(retrieve_fd(task, arg, size));
      break;
    case uapi::kLiveupdateSessionFinish:
      if (!incoming_) return fail(Errno::Einval);
      TRY(finish(task, arg, size));
      break;
    case uapi::kLiveupdateSessionGetName: TRY(get_name(task, arg, size)); break;
    default: return fail(Errno::Enotty);
  }
  return 0;
}

Result<void> SessionFile::preserve_fd(Task& task, UserAddr arg, u32 size) {
  const auto call = TRY(ioctl_copy_in<uapi::LiveupdatePreserveFd>(task, arg, size));
  TRY(outgoing_->preserve(task, call.fd, call.token));
  // A fault here does not undo it: there is no unpreserve, and the program may ask by the token.
  return ioctl_copy_out(task, arg, size, call);
}

Result<void> SessionFile::retrieve_fd(Task& task, UserAddr arg, u32 size) {
  auto call = TRY(ioctl_copy_in<uapi::LiveupdateRetrieveFd>(task, arg, size));
  if (luo_.gate().frozen()) return fail(Errno::Ekilled);
  FdSlot slot = TRY(FdSlot::reserve(task));
  Ref<File> file = TRY(incoming_->retrieve(call.token));
  call.fd = slot.number();
  TRY(ioctl_copy_out(task, arg, size, call));
  slot.install(std::move(file));
  return {};
}

Result<void> SessionFile::finish(Task& task, UserAddr arg, u32 size) {
  const auto call = TRY(ioctl_copy_in<uapi::LiveupdateFinish>(task, arg, size));
  if (luo_.gate().frozen()) return fail(Errno::Ekilled);
  if (call.reserved != 0) return fail(Errno::Einval);
  TRY(incoming_->finish());
  return ioctl_copy_out(task, arg, size, call);
}

Result<void> SessionFile::get_name(Task& task, UserAddr arg, u32 size) {
  auto call = TRY(ioctl_copy_in<uapi::LiveupdateGetName>(task, arg, size));
  const auto pass = TRY(Gate::Pass::enter(luo_.gate()));
  if (call.reserved != 0) return fail(Errno::Einval);
  set_text(call.name, name());
  return ioctl_copy_out(task, arg, size, call);
}

}  // namespace perdure::luo
