// JSON, one value a line, over a stream socket.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::tool {

class JsonLines {
 public:
  explicit JsonLines(host::Descriptor socket) : socket_(std::move(socket)) {}

  // Ekilled: the other side is gone.
  Result<void> send(const nlohmann::json& value);
  // Etimedout; Ekilled at the end, or when the line is not JSON or absurdly long. -1: waits for ever.
  Result<nlohmann::json> receive(int timeout_ms);
  // True once the other side is gone.
  bool gone() const;
  int socket() const { return socket_.get(); }

 private:
  static constexpr usize kLongest = usize{64} << 20;
  host::Descriptor socket_;
  std::string buffer_;
};

}  // namespace perdure::tool
