// QEMU's machine protocol (QMP) over a descriptor: one command at a time, its answer awaited.
#pragma once
#include <expected>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::tool::metal {

class Monitor {
 public:
  explicit Monitor(host::Descriptor connection) : connection_(std::move(connection)) {}

  // Takes the greeting and leaves negotiation mode.
  std::expected<void, std::string> open();
  std::expected<void, std::string> stop();
  std::expected<void, std::string> resume();
  // Physical memory, registers included, as the processor would read it.
  std::expected<void, std::string> save(u64 base, u64 length, const std::filesystem::path& file);

 private:
  std::expected<void, std::string> command(const nlohmann::json& what);
  std::expected<nlohmann::json, std::string> message();

  host::Descriptor connection_;
  std::string rest_;
};

}  // namespace perdure::tool::metal
