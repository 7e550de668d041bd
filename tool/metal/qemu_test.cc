#include "tool/metal/qemu.h"

#include <algorithm>

namespace perdure::tool::metal {
namespace {

TEST(Qemu, Versions) {
  const auto v = parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright");
  ASSERT_TRUE(v) << v.error();
  EXPECT_EQ(*v, (Version{7, 2, 22}));
  EXPECT_EQ(v->to_string(), "7.2.22");
  for (const char* says : {"", "QEMU emulator version ", "QEMU emulator version 7", "QEMU emulator version x.y.z",
                           "QEMU emulator version 7.2.", "bochs 2.7.0"}) {
    EXPECT_FALSE(parse_version(says)) << says;
  }
}

TEST(Qemu, TooOldAndTooNewSayWhy) {
  EXPECT_EQ(unsuitable({7, 2, 0}, false), "");
  EXPECT_EQ(unsuitable({10, 0, 2}, false), "");
  EXPECT_NE(unsuitable({7, 1, 9}, false).find("too old"), std::string::npos);
  EXPECT_NE(unsuitable({6, 2, 0}, true).find("too old"), std::string::npos) << "nobody can wish features into it";
  EXPECT_NE(unsuitable({11, 0, 0}, false).find("newer"), std::string::npos);
  EXPECT_EQ(unsuitable({11, 0, 0}, true), "");
}

TEST(Qemu, MissingIsASkipWithAReason) {
  const auto found = find_qemu("/nonexistent/qemu-system-x86_64", {}, false);
  ASSERT_FALSE(found);
  EXPECT_NE(found.error().find("no QEMU"), std::string::npos) << found.error();
  // A program that is none.
  EXPECT_FALSE(find_qemu("/bin/true", {}, false));
}

TEST(Qemu, ArgumentsNameWhatWasAskedFor) {
  const Qemu qemu{.program = "qemu", .version = {7, 2, 22}, .says = {}, .qboot = "/firmware/qboot.rom"};
  const Attachments with{.kernel = "/k",
                         .modules = "/m",
                         .disk = "/a,b/disk",
                         .trace = "/t",
                         .words = "hops=1",
                         .monitor = 6,
                         .network = 7};
  const auto line = [&](const MachineSpec& machine) {
    std::string all;
    for (const std::string& a : arguments(qemu, machine, with)) all += a + " ";
    return all;
  };
  const std::string whole =
      line({.devices = {"ohci", "edu", "e1000e", "nvme"}, .scalable = true, .seabios = false, .icount_shift = 0});
  for (const char* part : {"-bios /firmware/qboot.rom", "x-scalable-mode=on", "pci-ohci", "edu,dma_mask=0xffffffff",
                           "id=net0,fd=7", "-serial stdio", "fd=6", "file=/a,,b/disk", "-append hops=1", "-D /t"}) {
    EXPECT_NE(whole.find(part), std::string::npos) << part << " in " << whole;
  }
  EXPECT_EQ(whole.find("-icount"), std::string::npos);
  EXPECT_NE(whole.find("intremap=off"), std::string::npos);
  EXPECT_NE(line({.devices = {"edu"}, .interrupts = true}).find("intremap=on"), std::string::npos);
  const std::string few = line({.devices = {"edu"}, .scalable = false, .seabios = true, .icount_shift = 7});
  EXPECT_NE(few.find("-icount shift=7,sleep=off"), std::string::npos);
  for (const char* part : {"-bios", "x-scalable-mode", "pci-ohci", "e1000e", "nvme"}) {
    EXPECT_EQ(few.find(part), std::string::npos) << part << " in " << few;
  }
}

}  // namespace
}  // namespace perdure::tool::metal
