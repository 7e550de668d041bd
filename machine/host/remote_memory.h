// A stretch of a process's memory as host memory: devices reach it in the process, wherever no file stands behind it.
#pragma once
#include "machine/host/host_files.h"
#include "machine/host/remote_process.h"

namespace perdure::host {

class RemoteMemory final : public HostMemory, private HostObjects::Object {
 public:
  // The pages of [address, address + bytes).
  RemoteMemory(HostObjects& home, std::shared_ptr<const RemoteProcess> process, u64 address, u64 bytes);
  // Ids that no file has: file_id() of a device that does not exist.
  static constexpr u64 kFirstId = u64{0xffffff} << 40;

  u64 id() const override { return id_; }
  u64 size() const override { return bytes_; }
  u32 seals() const override { return 0; }
  Result<void> add_seals(u32) override { return fail(Errno::Einval); }
  Result<void> resize(u64) override { return fail(Errno::Einval); }
  u64 position() const override { return 0; }
  void set_position(u64) override {}
  bool remote() const override { return true; }
  Result<void> read(u64 offset, std::span<std::byte> to) override;
  Result<void> write(u64 offset, std::span<const std::byte> from) override;

  const RemoteProcess& process() const { return *process_; }
  std::shared_ptr<const RemoteProcess> shared_process() const { return process_; }
  u64 address() const { return address_; }

 private:
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
  bool holds(u64 offset, usize bytes) const { return offset <= bytes_ && bytes <= bytes_ - offset; }
  const u64 id_;
  const std::shared_ptr<const RemoteProcess> process_;
  const u64 address_;
  const u64 bytes_;
};

}  // namespace perdure::host
