#include "machine/intercept/shadow.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "machine/intercept/paths.h"

namespace perdure::intercept {
namespace {

using Kind = Node::Kind;

constexpr char kOne[] = R"([{"bdf":"0000:00:04.0","vendor":32902,"device":8225,"subsystem_vendor":32902,
  "subsystem_device":1,"class":557056,"revision":2,"vfio":3,"group":7,"driver":"vfio-pci","config_size":4096,
  "bars":[{"base":4096,"size":8192,"flags":512}],"sriov":{"totalvfs":4,"numvfs":0,"vfs":[]},"physfn":null}])";

class ShadowTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = Shadow::create();
    ASSERT_TRUE(made);
    shadow = std::move(*made);
    auto registered = Registry::create();
    ASSERT_TRUE(registered);
    registry = std::move(*registered);
    paths = std::make_unique<Paths>(*shadow, *registry);
  }
  Result<void> update(const std::string& devices, bool next_is_loaded = false) {
    return shadow->update(shadow->ask(), devices, next_is_loaded);
  }
  std::string text(const std::string& path) const {
    std::ifstream file(shadow->place_of(path));
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }
  Found find(const std::string& path, bool follow = true, int directory = AT_FDCWD) const {
    const auto found = paths->find(Target(getpid(), gettid()), directory, path, follow);
    EXPECT_TRUE(found) << path;
    return found ? *found : Found{};
  }

  std::unique_ptr<Shadow> shadow;
  std::unique_ptr<Registry> registry;
  std::unique_ptr<Paths> paths;
};

TEST_F(ShadowTest, ThereAreNodesWithoutDevices) {
  EXPECT_EQ(shadow->find("/dev/iommu").kind, Kind::Device);
  EXPECT_EQ(shadow->find("/dev").kind, Kind::Through);
  EXPECT_EQ(shadow->find("/dev/null").kind, Kind::Foreign);
  EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Absent);
  EXPECT_EQ(shadow->find("/sys/kernel/debug/iommu/intel").kind, Kind::Absent);
  EXPECT_EQ(shadow->find("/usr/lib").kind, Kind::Foreign);
  EXPECT_EQ(shadow->find("/").kind, Kind::Through);
}

TEST_F(ShadowTest, ADeviceShowsItself) {
  ASSERT_TRUE(update(kOne));
  const std::string at = "/sys/devices/pci0000:00/0000:00:04.0";
  EXPECT_EQ(text(at + "/vendor"), "0x8086\n");
  EXPECT_EQ(text(at + "/class"), "0x088000\n");
  EXPECT_EQ(text(at + "/sriov_totalvfs"), "4\n");
  EXPECT_EQ(text(at + "/resource").substr(0, 57), "0x0000000000001000 0x0000000000002fff 0x0000000000000200\n");
  EXPECT_EQ(text(at + "/config").size(), 4096U);
  EXPECT_EQ(text(at + "/vfio-dev/vfio3/dev"), "511:3\n");
  EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Device);
  EXPECT_EQ(shadow->find("/dev/vfio/devices/vfio3").minor, 3U);
}

TEST_F(ShadowTest, ChangesInPlace) {
  ASSERT_TRUE(update(kOne));
  const std::string group = "/sys/kernel/iommu_groups/7/devices";
  const int open_directory = open(shadow->place_of(group).c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_GE(open_directory, 0);
  std::string changed = kOne;
  changed.replace(changed.find("\"numvfs\":0"), 10, "\"numvfs\":2");
  ASSERT_TRUE(update(changed));
  EXPECT_EQ(text("/sys/devices/pci0000:00/0000:00:04.0/sriov_numvfs"), "2\n");
  EXPECT_EQ(faccessat(open_directory, "0000:00:04.0/vendor", F_OK, 0), 0);
  close(open_directory);
  ASSERT_TRUE(update("[]"));
  EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Absent);
  EXPECT_NE(access(shadow->place_of(group).c_str(), F_OK), 0);
}

// Two threads ask; who asked first is answered last.
TEST_F(ShadowTest, AnOlderAnswerDoesNotUndoAYoungerOne) {
  const u64 first = shadow->ask();
  const u64 second = shadow->ask();
  ASSERT_TRUE(shadow->update(second, kOne, true));
  ASSERT_TRUE(shadow->update(first, "[]", false));
  EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Device);
  EXPECT_EQ(text("/sys/kernel/kexec/loaded"), "1\n");
  ASSERT_TRUE(update("[]"));
  EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Absent);
}

TEST_F(ShadowTest, ALoadedKernelShows) {
  EXPECT_EQ(find("/sys/kernel/kexec_loaded").path, "/sys/kernel/kexec/loaded");
  EXPECT_EQ(text("/sys/kernel/kexec/loaded"), "0\n");
  ASSERT_TRUE(update("[]", true));
  EXPECT_EQ(text("/sys/kernel/kexec/loaded"), "1\n");
  EXPECT_EQ(text("/sys/kernel/kexec/crash_loaded"), "0\n");
  EXPECT_FALSE(find("/sys/kernel/mm").ours());
}

// Its driver has let it go: it is in its group still, but the group can be opened no more.
TEST_F(ShadowTest, ADeviceWithoutADriver) {
  std::string unbound = kOne;
  unbound.replace(unbound.find("\"vfio\":3"), 8, "\"vfio\":null");
  unbound.replace(unbound.find("\"driver\":\"vfio-pci\""), 19, R"("driver":null,"driver_override":"mine")");
  ASSERT_TRUE(update(unbound));
  const std::string at = "/sys/bus/pci/devices/0000:00:04.0";
  EXPECT_EQ(find(at + "/driver").node.kind, Kind::Absent);
  EXPECT_EQ(find(at + "/vfio-dev").node.kind, Kind::Absent);
  EXPECT_EQ(find(at + "/iommu_group").path, "/sys/kernel/iommu_groups/7");
  EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Absent);
  EXPECT_EQ(find(at + "/driver_override").node.text, "mine\n");
  ASSERT_TRUE(update(kOne));
  EXPECT_EQ(find(at + "/driver_override").node.text, "(null)\n");
}

TEST_F(ShadowTest, WhatIsNoListOfDevicesChangesNothing) {
  ASSERT_TRUE(update(kOne));
  for (const char* bad : {"", "[", "[{}]", "[{\"bdf\":3}]", "[3]"}) {
    const auto done = update(bad);
    EXPECT_FALSE(done) << bad;
    EXPECT_EQ(shadow->find("/dev/vfio/7").kind, Kind::Device);
  }
}

TEST_F(ShadowTest, PathsLeadThroughLinksOfBothSides) {
  ASSERT_TRUE(update(kOne));
  EXPECT_EQ(find("/sys/bus/pci/devices/0000:00:04.0/vendor").path, "/sys/devices/pci0000:00/0000:00:04.0/vendor");
  EXPECT_EQ(find("/sys/class/vfio-dev/vfio3/device/iommu_group/devices/0000:00:04.0/vfio-dev/../driver").path,
            "/sys/bus/pci/drivers/vfio-pci");
  EXPECT_EQ(find("/sys/bus/pci/devices/0000:00:04.0", false).node.kind, Kind::Link);
  EXPECT_EQ(find("/sys/bus/pci/devices/0000:00:05.0").node.kind, Kind::Absent);
  EXPECT_EQ(find("//dev/./vfio/../iommu").path, "/dev/iommu");
  EXPECT_FALSE(find("/dev/null").ours());
  EXPECT_FALSE(find("/nonesuch/../dev/iommu").ours());
  EXPECT_FALSE(find("").ours());
  const auto beyond = paths->find(Target(getpid(), gettid()), AT_FDCWD, "/dev/iommu/x", true);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error(), Errno::Enotdir);
}

TEST_F(ShadowTest, PathsFromADirectoryOfOurs) {
  ASSERT_TRUE(update(kOne));
  const host::Descriptor directory(open(shadow->place_of("/sys/bus/pci/devices").c_str(), O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(find("0000:00:04.0/device", true, directory.get()).path, "/sys/devices/pci0000:00/0000:00:04.0/device");
  EXPECT_EQ(find("../../../../dev/iommu", true, directory.get()).path, "/dev/iommu");
}

TEST_F(ShadowTest, LinksInProcLeadToOpenFiles) {
  const auto iommu = registry->make(9, "/dev/iommu", "/dev/iommu", O_RDWR);
  ASSERT_TRUE(iommu);
  const std::string link = "/proc/self/fd/" + std::to_string(iommu->get());
  ASSERT_TRUE(find(link).open_file);
  EXPECT_EQ(find(link).open_file->handle, 9U);
  EXPECT_TRUE(find("/dev/fd/" + std::to_string(iommu->get())).open_file);
  EXPECT_EQ(find("/proc/self/status").status_of, getpid());
  EXPECT_EQ(find("/proc/thread-self/status").status_of, getpid());
  EXPECT_FALSE(find("/proc/self/maps").ours());
}

}  // namespace
}  // namespace perdure::intercept
