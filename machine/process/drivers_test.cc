// What programs write to sysfs, and what it shows afterwards.
#include "machine/process/drivers.h"

#include <nlohmann/json.hpp>

#include "core/uapi/vfio.h"
#include "machine/process/devices.h"
#include "machine/process/front_fixture.h"

namespace perdure::process {
namespace {

constexpr u32 op(wire::Call c) {
  return static_cast<u32>(c);
}

class SysfsOfDrivers : public FrontFixture {
 protected:
  static constexpr std::string_view kFunction = "0000:00:03.0";
  static constexpr std::string_view kBind = "/sys/bus/pci/drivers/vfio-pci/bind";
  static constexpr std::string_view kUnbind = "/sys/bus/pci/drivers/vfio-pci/unbind";
  static constexpr std::string_view kNewId = "/sys/bus/pci/drivers/vfio-pci/new_id";
  static constexpr std::string_view kRemoveId = "/sys/bus/pci/drivers/vfio-pci/remove_id";
  static constexpr std::string_view kProbe = "/sys/bus/pci/drivers_probe";
  static constexpr std::string_view kOverride = "/sys/devices/pci0000:00/0000:00:03.0/driver_override";
  static constexpr std::string_view kNumVfs = "/sys/devices/pci0000:00/0000:00:03.0/sriov_numvfs";

  board::BoardConfig config() const override {
    board::BoardConfig c = FrontFixture::config();
    c.devices[0].virtual_functions = 2;
    return c;
  }
  Errno write(Supervisor& s, std::string_view path, std::string_view text) {
    const std::string both = std::string(path) + '\0' + std::string(text);
    const auto done = s.call({.op = op(Call::SysfsWrite)}, std::as_bytes(std::span(both)));
    return done ? Errno{} : done.error();
  }
  nlohmann::json devices(Supervisor& s) {
    const Message said = *s.call({.op = op(Call::Devices)});
    return nlohmann::json::parse(
        std::string_view(reinterpret_cast<const char*>(said.payload.data()), said.payload.size()));
  }
  nlohmann::json status(Supervisor& s) {
    const Message said = *s.call({.op = op(Call::Status)});
    return nlohmann::json::parse(
        std::string_view(reinterpret_cast<const char*>(said.payload.data()), said.payload.size()));
  }
  bool bound(Supervisor& s) { return devices(s)[0]["driver"] == "vfio-pci"; }
};

TEST_F(SysfsOfDrivers, WhatIsUnboundCannotBeOpened) {
  auto s = connect();
  ASSERT_EQ(write(*s, kUnbind, "0000:00:03.0\n"), Errno{});
  const nlohmann::json one = devices(*s);
  ASSERT_EQ(one.size(), 1U);
  EXPECT_TRUE(one[0]["driver"].is_null());
  EXPECT_TRUE(one[0]["vfio"].is_null());
  EXPECT_EQ(one[0]["group"], 0);
  EXPECT_EQ(s->open("/dev/vfio/devices/vfio0").error(), Errno::Enoent);
  EXPECT_EQ(s->open("/dev/vfio/0").error(), Errno::Enoent);
  EXPECT_EQ(write(*s, kUnbind, kFunction), Errno::Enodev);
  EXPECT_EQ(write(*s, kNumVfs, "1"), Errno::Enoent);

  ASSERT_EQ(write(*s, kBind, kFunction), Errno{});
  EXPECT_TRUE(bound(*s));
  EXPECT_EQ(write(*s, kBind, kFunction), Errno::Ebusy);
  const auto device = s->open("/dev/vfio/devices/vfio0");
  EXPECT_TRUE(device);
}

TEST_F(SysfsOfDrivers, WhatIsOpenStaysBound) {
  auto s = connect();
  const u64 device = *s->open("/dev/vfio/devices/vfio0");
  const u64 iommufd = *s->open("/dev/iommu");
  s->installed.push_back({.b = iommufd});
  uapi::VfioBindIommufd bind{.argsz = sizeof bind, .iommufd = Supervisor::kFirstFd};
  ASSERT_TRUE(s->ioctl(device, uapi::kVfioDeviceBindIommufd, &bind));
  EXPECT_EQ(write(*s, kUnbind, kFunction), Errno::Ebusy);
  EXPECT_TRUE(bound(*s));
  ASSERT_TRUE(s->close(device));
  EXPECT_EQ(write(*s, kUnbind, kFunction), Errno{});
}

// Opened before, bound to an iommufd after.
TEST_F(SysfsOfDrivers, WhatWasOpenedAndNotYetBoundComesTooLate) {
  auto s = connect();
  const u64 device = *s->open("/dev/vfio/devices/vfio0");
  const u64 iommufd = *s->open("/dev/iommu");
  s->installed.push_back({.b = iommufd});
  ASSERT_EQ(write(*s, kUnbind, kFunction), Errno{});
  uapi::VfioBindIommufd bind{.argsz = sizeof bind, .iommufd = Supervisor::kFirstFd};
  EXPECT_EQ(s->ioctl(device, uapi::kVfioDeviceBindIommufd, &bind).error(), Errno::Enodev);
}

TEST_F(SysfsOfDrivers, ADriverTakesItsVirtualFunctionsAlong) {
  auto s = connect();
  ASSERT_EQ(write(*s, kNumVfs, "2"), Errno{});
  ASSERT_EQ(devices(*s).size(), 3U);
  // One alone can be unbound; when it comes again it is a new one.
  ASSERT_EQ(write(*s, kUnbind, "0000:00:03.2"), Errno{});
  EXPECT_TRUE(devices(*s)[2]["driver"].is_null());
  EXPECT_EQ(devices(*s)[1]["driver"], "vfio-pci");
  ASSERT_EQ(write(*s, kUnbind, kFunction), Errno{});
  EXPECT_EQ(devices(*s).size(), 1U);
  EXPECT_EQ(write(*s, kBind, "0000:00:03.2"), Errno::Enodev);
  ASSERT_EQ(write(*s, kBind, kFunction), Errno{});
  ASSERT_EQ(write(*s, kNumVfs, "2"), Errno{});
  EXPECT_EQ(devices(*s)[2]["driver"], "vfio-pci");
}

TEST_F(SysfsOfDrivers, AnOverrideSaysWhoMayHaveIt) {
  auto s = connect();
  EXPECT_TRUE(devices(*s)[0]["driver_override"].is_null());
  ASSERT_EQ(write(*s, kOverride, "mine\n"), Errno{});
  EXPECT_EQ(devices(*s)[0]["driver_override"], "mine");
  EXPECT_TRUE(bound(*s)) << "until it is unbound";
  ASSERT_EQ(write(*s, kUnbind, kFunction), Errno{});
  EXPECT_EQ(write(*s, kBind, kFunction), Errno::Enodev);
  EXPECT_EQ(write(*s, kProbe, kFunction), Errno{});
  EXPECT_FALSE(bound(*s));
  ASSERT_EQ(write(*s, kOverride, "vfio-pci"), Errno{});
  EXPECT_EQ(write(*s, kProbe, "0000:00:03.0\n"), Errno{});
  EXPECT_TRUE(bound(*s));
  ASSERT_EQ(write(*s, kOverride, "\n"), Errno{});
  EXPECT_TRUE(devices(*s)[0]["driver_override"].is_null());
  EXPECT_EQ(write(*s, kOverride, std::string(4095, 'x')), Errno::Einval);
  EXPECT_EQ(write(*s, "/sys/devices/pci0000:00/0000:00:09.0/driver_override", "x"), Errno::Enoent);
  ASSERT_EQ(write(*s, kOverride, "\xff"), Errno{});
  EXPECT_EQ(devices(*s).size(), 1U) << "bytes that are no text";
}

TEST_F(SysfsOfDrivers, NewIdsTakeUpWhatHasNoDriver) {
  auto s = connect();
  ASSERT_EQ(write(*s, kUnbind, kFunction), Errno{});
  EXPECT_EQ(write(*s, kNewId, "8086\n"), Errno::Einval);
  ASSERT_EQ(write(*s, kNewId, "8086 2021"), Errno{});
  EXPECT_FALSE(bound(*s));
  ASSERT_EQ(write(*s, kNewId, "1234 5354\n"), Errno{});
  EXPECT_TRUE(bound(*s));
  EXPECT_EQ(write(*s, kNewId, "1234 5354"), Errno::Eexist);
  EXPECT_EQ(write(*s, kRemoveId, "1234 5354"), Errno{});
  EXPECT_EQ(write(*s, kRemoveId, "1234 5354"), Errno::Enodev);
  EXPECT_TRUE(bound(*s));
}

TEST_F(SysfsOfDrivers, OtherOrdersAreRefused) {
  auto s = connect();
  for (const std::string_view text : {"", "0000:00:09.0", "0000:00:03", "0000:00:03.0 ", "x"}) {
    EXPECT_EQ(write(*s, kBind, text), Errno::Enodev) << text;
    EXPECT_EQ(write(*s, kUnbind, text), Errno::Enodev) << text;
    EXPECT_EQ(write(*s, kProbe, text), Errno::Einval) << text;
  }
  EXPECT_EQ(write(*s, "/sys/bus/pci/drivers/pcieport/unbind", kFunction), Errno::Eacces);
  EXPECT_EQ(write(*s, "/sys/bus/pci/drivers/vfio-pci/module", "1 2"), Errno::Eacces);
  EXPECT_EQ(write(*s, "/", ""), Errno::Eacces);
  EXPECT_EQ(write(*s, "", ""), Errno::Eacces);
}

TEST_F(SysfsOfDrivers, ALoadedKernelIsTold) {
  auto s = connect();
  EXPECT_EQ(s->call({.op = op(Call::Devices)})->head.b, 0U);
  EXPECT_FALSE(s->call({.op = op(Call::KexecLoad)}, std::as_bytes(std::span("x", 1))));
  EXPECT_EQ(s->call({.op = op(Call::Devices)})->head.b, 0U);
  ASSERT_TRUE(s->call({.op = op(Call::KexecLoad)}, std::as_bytes(std::span("a", 1))));
  EXPECT_EQ(s->call({.op = op(Call::Devices)})->head.b, 1U);
}

TEST_F(SysfsOfDrivers, VirtualFunctionsAreAskedForInSysfs) {
  auto s = connect();
  ASSERT_EQ(devices(*s).size(), 1U);
  EXPECT_EQ(devices(*s)[0]["sriov"],
            nlohmann::json({{"totalvfs", 2}, {"numvfs", 0}, {"vfs", nlohmann::json::array()}}));
  for (const std::string_view text : {"", "\n", "x", "1x", "-1", " 1", "1 2"}) {
    EXPECT_EQ(write(*s, kNumVfs, text), Errno::Einval) << text;
  }
  EXPECT_EQ(write(*s, kNumVfs, "65536"), Errno::Erange);
  EXPECT_EQ(write(*s, kNumVfs, "3"), Errno::Erange);
  EXPECT_EQ(write(*s, "/sys/bus/pci/devices/0000:00:03.0/sriov_totalvfs", "1"), Errno::Eacces);
  EXPECT_EQ(write(*s, "/sys/bus/pci/devices/0000:00:0g.0/sriov_numvfs", "1"), Errno::Eacces);
  EXPECT_EQ(write(*s, "sriov_numvfs", "1"), Errno::Eacces);
  EXPECT_EQ(write(*s, "/sys/bus/pci/devices/0000:00:04.0/sriov_numvfs", "1"), Errno::Enoent);
  ASSERT_EQ(write(*s, kNumVfs, "0x1\n"), Errno{});
  const nlohmann::json two = devices(*s);
  ASSERT_EQ(two.size(), 2U) << two.dump(1);
  EXPECT_EQ(two[0]["sriov"]["vfs"], nlohmann::json::array({"0000:00:03.1"}));
  EXPECT_EQ(two[1]["bdf"], "0000:00:03.1");
  EXPECT_EQ(two[1]["physfn"], "0000:00:03.0");
  EXPECT_EQ(two[1]["driver"], "vfio-pci");
  EXPECT_EQ(two[1]["vfio"], 1);
  EXPECT_EQ(two[1]["device"], 0x5354);
  EXPECT_EQ(two[1]["bars"][0]["size"], 0x4000);
  EXPECT_EQ(two[1]["bars"][0]["base"].get<u64>(), board_->device(board::Bdf(0, 3, 1))->bar_address(0));
  EXPECT_NE(two[1]["group"], two[0]["group"]);
  EXPECT_EQ(status(*s)["devices"].size(), 2U);
  ASSERT_EQ(write(*s, kNumVfs, "0"), Errno{});
  EXPECT_EQ(devices(*s).size(), 1U);
  EXPECT_EQ(status(*s)["devices"].size(), 1U);
}

}  // namespace
}  // namespace perdure::process
