#include "tests/uapi/case.h"

#include <algorithm>
#include <tuple>

namespace perdure::uapi_test {

namespace {
std::vector<Row>& registered() {
  static std::vector<Row> all;
  return all;
}
}  // namespace

Registrar::Registrar(const Row& row) {
  registered().push_back(row);
}

std::vector<Row> rows() {
  std::vector<Row> all = registered();
  std::ranges::sort(all, {}, [](const Row& row) { return std::tuple(row.id, row.name); });
  return all;
}

Fd Case::open(std::string_view path) {
  const auto fd = sys.open(path);
  if (!fd) {
    const Errno e = fd.error();
    if (e == Errno::Enoent || e == Errno::Enodev || e == Errno::Enxio || e == Errno::Eacces || e == Errno::Eperm)
      skip(std::string(path) + ": " + std::string(errno_name(e)));
    fail(__FILE__, __LINE__, "open " + std::string(path) + " failed: " + std::string(errno_name(e)));
    throw Stop{};
  }
  return Fd(sys, *fd);
}

const std::vector<std::string>& Case::devices(usize at_least) {
  if (devices_.size() < at_least) {
    skip("needs " + std::to_string(at_least) + " VFIO devices, there are " + std::to_string(devices_.size()));
  }
  return devices_;
}

void Case::skip(std::string reason) {
  throw Skip{std::move(reason)};
}

// Sessions have names of up to 63 bytes; the end is what differs.
std::string Case::name(std::string_view suffix) const {
  constexpr usize kMost = 63;
  std::string full = name_ + std::string(suffix);
  return full.size() <= kMost ? full : full.substr(full.size() - kMost);
}

s32 Case::keep(Fd fd) {
  kept_.push_back(std::move(fd));
  return kept_.back().number();
}

void Case::fail(const char* file, int line, const std::string& what) {
  const std::string_view path(file);
  const auto base = path.rfind("tests/uapi/");
  failures_.push_back(std::string(base == std::string_view::npos ? path : path.substr(base)) + ":" +
                      std::to_string(line) + ": " + what);
}

}  // namespace perdure::uapi_test
