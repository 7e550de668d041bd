// docs/conformance.md holds the list as a table: it is written from the list, and this test says when it is not any
// more.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "conformance/bench.h"
#include "conformance/list.h"
#include "conformance/run.h"

namespace perdure::conformance {
namespace {

constexpr const char* kBegin =
    "<!-- the table: PERDURE_WRITE_DOCS=1 test_conformance --gtest_filter=ConformanceTable* -->";
constexpr const char* kEnd = "<!-- end of the table -->";

// CAP and ECAP of QEMU 7.2 in the modes that tests/metal_conformance.py runs.
struct QemuUnit {
  u64 cap;
  u64 ecap;
};
constexpr QemuUnit kQemu[] = {
    {0x00D2'008C'222F'0606, 0xF42},             // 48 bits
    {0x00D2'008C'2226'0206, 0xF42},             // 39 bits
    {0x00D2'008C'222F'0686, 0xF42},             // caching mode
    {0x00D2'008C'222F'0606, 0x4800'8000'0F42},  // scalable
    {0x00D2'008C'222F'0606, 0xF0'0F4A},         // interrupt remapping
    {0x00D2'008C'222F'0606, 0xFC2},             // snoop control
    {0x00D2'008C'222F'0606, 0xF46},             // device TLBs
    {0x00D2'008C'222F'0686, 0x4800'80F0'0F4A},  // all at once
};

std::string text(const Seen& seen) {
  Line line;
  line << seen;
  return std::string(line.view());
}

std::string on_qemu(const Behaviour& behaviour) {
  std::string_view why;
  bool runs = false;
  for (const QemuUnit& unit : kQemu) {
    const std::string_view missing = lacks(behaviour, offers(unit.cap, unit.ecap, 3));
    runs |= missing.empty();
    if (!missing.empty()) why = missing;
  }
  const auto differs = [](const Deviation& d) { return "**differs**: " + text(d.seen) + "; " + std::string(d.what); };
  std::string out = !runs                ? "not run: " + std::string(why)
                    : behaviour.qemu_7_2 ? differs(behaviour.qemu_7_2)
                                         : "conforms";
  if (behaviour.qemu_10) out += ". 10.0: " + differs(behaviour.qemu_10);
  return out;
}

std::string table() {
  std::ostringstream out;
  for (unsigned n = 0; n < kGroups; ++n) {
    const Group g = group(n);
    out << "\n### " << g.title
        << "\n\n| behaviour | about | our model | imitated | QEMU 7.2 |\n|---|---|---|---|---|\n";
    for (const Behaviour& b : g.behaviours) {
      out << "| `" << b.name.prefix << b.name.rest << "` | " << b.source << " | " << text(b.expected) << " | "
          << (!b.qemu_7_2           ? ""
              : b.qemu_7_2.imitated ? "yes"
                                    : "no")
          << " | " << on_qemu(b) << " |\n";
    }
  }
  return out.str();
}

TEST(ConformanceTableTest, IsTheList) {
  const std::string path = std::string(PERDURE_DOCS) + "/conformance.md";
  std::stringstream read;
  read << std::ifstream(path).rdbuf();
  const std::string page = read.str();
  const auto begin = page.find(kBegin);
  const auto end = page.find(kEnd);
  ASSERT_NE(begin, std::string::npos) << path;
  ASSERT_NE(end, std::string::npos) << path;
  const std::string wanted = page.substr(0, begin) + kBegin + "\n" + table() + "\n" + page.substr(end);
  if (std::getenv("PERDURE_WRITE_DOCS") != nullptr) {
    std::ofstream(path) << wanted;
    return;
  }
  EXPECT_TRUE(page == wanted) << path << " is not what the list says: PERDURE_WRITE_DOCS=1 writes it anew";
}

}  // namespace
}  // namespace perdure::conformance
