// Bytes of a saved machine: little-endian fields in the order of writing, cut into named sections so that a reader that
// is out of step fails at the next section and not somewhere later.
#pragma once
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/types.h"

namespace perdure::board {

class StateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class StateWriter {
 public:
  void section(std::string_view name) { text(name); }
  template <class T>
    requires(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>)
  void put(const T& value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), at, at + sizeof(T));
  }
  void blob(std::span<const std::byte> data) {
    put<u64>(data.size());
    bytes_.insert(bytes_.end(), data.begin(), data.end());
  }
  void text(std::string_view s) { blob(std::as_bytes(std::span(s))); }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

// Throws StateError when the bytes do not say what the caller expects.
class StateReader {
 public:
  explicit StateReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  void section(std::string_view name) {
    const std::string found = text();
    if (found != name) {
      throw StateError("saved machine: section \"" + std::string(name) + "\" expected, \"" + found + "\" found");
    }
  }
  template <class T>
    requires(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>)
  T get() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> blob() { return take(get<u64>()); }
  std::string text() {
    const std::span<const std::byte> data = blob();
    return {reinterpret_cast<const char*>(data.data()), data.size()};
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> take(u64 n) {
    if (n > bytes_.size()) throw StateError("saved machine: the file ends too early");
    const std::span<const std::byte> head = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return head;
  }
  std::span<const std::byte> bytes_;
};

}  // namespace perdure::board
