#include "core/luo/device.h"

#include "core/file/ioctl_copy.h"
#include "core/luo/session_file.h"
#include "core/uapi/liveupdate.h"

namespace perdure::luo {

class DeviceFile final : public File {
 public:
  static constexpr FileType kType{"/dev/liveupdate"};
  explicit DeviceFile(Device& device) : device_(device) {}
  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;

 protected:
  void last_close() override { device_.in_use_.store(false, std::memory_order_release); }

 private:
  Result<void> create_session(Task& task, UserAddr arg, u32 size, uapi::LiveupdateSession& call);
  Result<void> retrieve_session(Task& task, UserAddr arg, u32 size, uapi::LiveupdateSession& call);
  Device& device_;
};

Result<Ref<File>> Device::open() {
  if (luo_.gate().frozen()) return fail(Errno::Ekilled);
  if (in_use_.exchange(true, std::memory_order_acq_rel)) return fail(Errno::Ebusy);
  auto file = luo_.readable() ? luo_.heap().make_ref<DeviceFile>(*this) : fail(Errno::Eio);
  if (!file) {
    in_use_.store(false, std::memory_order_release);
    return fail(file.error());
  }
  return Ref<File>(std::move(*file));
}

// Order of checks: number, readable size, exact command, size, surplus, contents (kho-luo §3).
Result<u64> DeviceFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  constexpr u32 kLast = uapi::kLiveupdateRetrieveSession & 0xff;
  if ((cmd & 0xff) > kLast) return fail(Errno::Einval);
  const u32 size = TRY(ioctl_size(task, arg));
  if (cmd != uapi::kLiveupdateCreateSession && cmd != uapi::kLiveupdateRetrieveSession) return fail(Errno::Enotty);
  auto call = TRY(ioctl_copy_in<uapi::LiveupdateSession>(task, arg, size));
  TRY(cmd == uapi::kLiveupdateCreateSession ? create_session(task, arg, size, call)
                                            : retrieve_session(task, arg, size, call));
  return 0;
}

namespace {

// Linux searches by the first 64 bytes and takes them as text without looking for the end first.
Result<std::string_view> name_of(const uapi::LiveupdateSession& call) {
  const std::string_view name = text_of(call.name);
  if (name.empty()) return fail(Errno::Einval);
  return name;
}

}  // namespace

Result<void> DeviceFile::create_session(Task& task, UserAddr arg, u32 size, uapi::LiveupdateSession& call) {
  FdSlot slot = TRY(FdSlot::reserve(task));
  const std::string_view name = TRY(name_of(call));
  auto file = TRY(SessionFile::create(device_.luo(), name));
  call.fd = slot.number();
  // On a fault the file goes, and the session with it.
  TRY(ioctl_copy_out(task, arg, size, call));
  slot.install(std::move(file));
  return {};
}

Result<void> DeviceFile::retrieve_session(Task& task, UserAddr arg, u32 size, uapi::LiveupdateSession& call) {
  FdSlot slot = TRY(FdSlot::reserve(task));
  const std::string_view name = text_of(call.name);
  if (name.data() == nullptr) return fail(Errno::Enoent);  // no session has such a name
  auto file = TRY(SessionFile::retrieve(device_.luo(), name));
  call.fd = slot.number();
  // On a fault the file goes, which finishes the session: Linux's behaviour (kho-luo §2.10).
  TRY(ioctl_copy_out(task, arg, size, call));
  slot.install(std::move(file));
  return {};
}

}  // namespace perdure::luo
