// Options of a kernel: there and back, and words of kernels that know more or less.
#include "machine/process/kernel_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/abi/boot_info.h"

namespace perdure::process {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Nothing has its default value.
KernelOptions everything() {
  KernelOptions o;
  o.creds.uid = 4'294'967'295;
  o.creds.cap_sys_rawio = false;
  o.log = LogLevel::Error;
  o.table_mode = vtd::TableModePolicy::Scalable;
  o.stage = vtd::StagePolicy::FirstStage;
  o.interrupt_remapping = false;
  o.vfio_container = vfio::Vfio::Container::Iommufd;
  o.iommufd_test = false;
  return o;
}

TEST(KernelOptions, DefaultsAreNoWords) {
  EXPECT_EQ(write_options({}), "");
  std::vector<std::string> unknown;
  EXPECT_EQ(read_options("", unknown), KernelOptions{});
  EXPECT_THAT(unknown, IsEmpty());
}

TEST(KernelOptions, EverythingThereAndBack) {
  const std::string line = write_options(everything());
  EXPECT_LT(line.size(), sizeof(abi::BootInfo::command_line)) << line;
  std::vector<std::string> unknown;
  EXPECT_EQ(read_options(line, unknown), everything()) << line;
  EXPECT_THAT(unknown, IsEmpty());
}

TEST(KernelOptions, NoCapabilitiesAreAWordToo) {
  KernelOptions none;
  none.creds = {.uid = 0, .cap_sys_resource = false, .cap_sys_rawio = false, .cap_ipc_lock = false};
  EXPECT_EQ(write_options(none), "caps=");
  std::vector<std::string> unknown;
  EXPECT_EQ(read_options("caps=", unknown), none);
}

TEST(KernelOptions, UnknownWordsChangeNothingAndAreTold) {
  std::vector<std::string> unknown;
  const KernelOptions read =
      read_options("caps=ipc_lock,fly quiet tables=none  uid=1x uid= log stage=first ca=1 caps", unknown);
  KernelOptions wanted;
  wanted.stage = vtd::StagePolicy::FirstStage;
  EXPECT_EQ(read, wanted);
  EXPECT_THAT(unknown,
              ElementsAre("caps=ipc_lock,fly", "quiet", "tables=none", "uid=1x", "uid=", "log", "ca=1", "caps"));
}

TEST(KernelOptions, AKernelIsConfiguredByThem) {
  const Config config = configure({.release = "x", .write_version = 1}, everything());
  EXPECT_EQ(config.release, "x");
  EXPECT_EQ(config.write_version, 1u);
  EXPECT_EQ(config.table_mode, vtd::TableModePolicy::Scalable);
  EXPECT_EQ(config.stage, vtd::StagePolicy::FirstStage);
  EXPECT_FALSE(config.interrupt_remapping);
  EXPECT_EQ(config.vfio_container, vfio::Vfio::Container::Iommufd);
  EXPECT_FALSE(config.iommufd_test);
}

}  // namespace
}  // namespace perdure::process
